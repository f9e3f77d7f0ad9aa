"""Encoders that read the waveform: wav2vec 2.0, HuBERT and their kin; seven strided convolutions, then transformer layers.

A patch is a position of the layers, 20 ms of sound.
"""

import math

from vtprof_analyzer.models.fields import Fields, divide
from vtprof_analyzer.models.spec import Tower
from vtprof_analyzer.models.tokens.waveform import convolutions
from vtprof_analyzer.models.vision.audio_layers import attention_layers, convolution, cut


def tower(fields: Fields, layers_run: int | None) -> Tower:
    """Turn a ``wav2vec2`` or ``hubert`` config into a tower; raise `DataError` that names the field at fault.

    An adapter on top (``add_adapter``) is refused.
    """
    if fields.flag("add_adapter", False):
        raise fields.fault("add_adapter", "is true: convolutions behind the layers have no cost model yet")
    width, inner = fields.integer("hidden_size"), fields.integer("intermediate_size")
    divide(fields, "num_attention_heads", width, fields.integer("num_attention_heads"))
    steps = convolutions(fields)
    channels = fields.integers("conv_dim", (512,) * len(steps))
    if len(channels) != len(steps) or min(channels) < 1:
        raise fields.fault("conv_dim", f"does not name channels of {len(steps)} convolutions")
    every = fields.text("feat_extract_norm", default="group") == "layer"
    bias = fields.flag("conv_bias", False)
    groups, before, total = [], 1, math.prod(stride for _, stride in steps)
    done = 1
    for index, ((kernel, stride), after) in enumerate(zip(steps, channels, strict=True)):
        done *= stride
        norm = 2 * after if every or index == 0 else 0
        groups.append(
            convolution(kernel * before * after, after * bias + norm, total / done, stride * before, after)
        )
        before = after
    groups.append(convolution(before * width, width + 2 * before, 1.0, before, width))
    # The convolution over positions: grouped, its weights kept as directions and one length a kernel position.
    kernel = fields.integer("num_conv_pos_embeddings", default=128)
    group_width = divide(
        fields,
        "num_conv_pos_embedding_groups",
        width,
        fields.integer("num_conv_pos_embedding_groups", default=16),
    )
    groups.append(convolution(kernel * group_width * width, kernel + width, 1.0, width, width))
    layer = attention_layers(fields.integer("num_hidden_layers"), width, inner, 1.0, key_bias=True)
    made = Tower(
        hidden_size=width,
        patch_params=0,
        patch_values=total,
        groups=(*groups, layer),
        adapter=(),
        patches_per_token=1.0,
        # The norm around the layers, and the vector that stands for what training masks.
        other_params=2 * width + width,
    )
    return cut(made, layers_run)
