"""Positions of encoders that read the waveform itself: wav2vec 2.0, HuBERT and their kin, and w2v-BERT's fbank frames."""

import math
from collections.abc import Callable

from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.tokens.item import ItemTokens, PatchGrid
from vtprof_schemas.errors import ConfigError


def convolutions(fields: Fields) -> tuple[tuple[int, int], ...]:
    """Return kernel and stride of each convolution, from ``conv_kernel`` and ``conv_stride``."""
    kernels = fields.integers("conv_kernel", (10, 3, 3, 3, 3, 2, 2))
    strides = fields.integers("conv_stride", (5, 2, 2, 2, 2, 2, 2))
    if len(kernels) != len(strides) or not kernels or min(*kernels, *strides, 1) < 1:
        raise fields.fault("conv_stride", f"does not fit conv_kernel's {len(kernels)} convolutions")
    return tuple(zip(kernels, strides, strict=True))


def waveform_rule(fields: Fields) -> Callable[[int], ItemTokens]:
    """Return positions of a clip of so many samples: ``(length - kernel) // stride + 1`` for each convolution."""
    steps = convolutions(fields)

    def count(samples: int) -> ItemTokens:
        length = samples
        for kernel, stride in steps:
            length = (length - kernel) // stride + 1
        if length < 1:
            raise ConfigError(f"audio of {samples} samples: too short for the model's convolutions")
        return ItemTokens(length, 0, (PatchGrid(1, 1, length),))

    return count


def bert_rule(fields: Fields, sampling_rate: int) -> Callable[[int], ItemTokens]:
    """Return positions of w2v-BERT: frames of 25 ms every 10 ms, ``stride`` of them stacked, padded to whole stacks."""
    stride = fields.integer("stride", default=2)
    frame, hop = round(sampling_rate * 0.025), max(1, round(sampling_rate * 0.010))

    def count(samples: int) -> ItemTokens:
        if samples < frame:
            raise ConfigError(f"audio of {samples} samples: too short for one frame of {frame}")
        positions = math.ceil(((samples - frame) // hop + 1) / stride)
        return ItemTokens(positions, 0, (PatchGrid(1, 1, positions),))

    return count
