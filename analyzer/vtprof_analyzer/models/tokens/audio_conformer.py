"""Audio tokens of models with a conformer encoder: Granite Speech, Phi-4-multimodal, Gemma 3n and Gemma 4.

Their feature extractors frame a clip each in its own way; none pads to a window.
"""

import math

from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.tokens.clips import (
    HOP_SAMPLES,
    SAMPLING_RATE,
    Rule,
    cut,
    halved,
    samples,
    sequences,
)
from vtprof_analyzer.models.tokens.item import ItemTokens, PatchGrid

_MOST_SAMPLES = 480_000
"""Of Gemma's feature extractors: 30 s at their sampling rate."""


def granite_speech(files: ModelFiles) -> Rule:
    """Granite Speech: pairs of frames, 3 queries for every 15 of them (10 tokens a second). Grids count pairs."""
    fields = files.audio_fields()
    nested = fields.section("melspec_kwargs") or fields
    rate = fields.integer("sampling_rate", default=SAMPLING_RATE)
    hop = nested.integer("hop_length", default=HOP_SAMPLES)
    mirrored = nested.integer("n_fft", default=512) // 2 + 1
    window = fields.integer("projector_window_size", default=15)
    queries = window // fields.integer("projector_downsample_rate", default=5)

    def count(seconds: float) -> ItemTokens:
        pairs = (samples(seconds, rate, mirrored) // hop + 1) // 2
        return ItemTokens(math.ceil(pairs / window) * queries, 0, (PatchGrid(1, 1, pairs),) if pairs else ())

    return count


def phi4_multimodal(files: ModelFiles) -> Rule:
    """Phi-4-multimodal: 8 frames a token (12.5 a second); sequences of at most 500 positions."""
    fields = files.audio_fields()
    rate = fields.integer("sampling_rate", default=SAMPLING_RATE)
    hop = fields.integer("hop_length", default=HOP_SAMPLES)
    frame = fields.integer("win_length", default=400)
    stride = fields.integer("audio_feat_stride", default=1)
    compression = fields.integer("audio_compression_rate", default=8)
    pooling = fields.integer("audio_downsample_rate", default=1)

    def count(seconds: float) -> ItemTokens:
        frames = (samples(seconds, rate, frame) - frame) // hop + 1
        tokens = math.ceil(math.ceil(frames * stride / compression) / pooling)
        return ItemTokens(tokens, 0, sequences(frames, 500 * compression))

    return count


def gemma3n(files: ModelFiles) -> Rule:
    """Gemma 3n: always 188 tokens, padded with an embedding; begin and end tag, an empty line before and after."""
    fields = files.audio_fields()
    rate = fields.integer("sampling_rate", default=SAMPLING_RATE)
    hop = fields.integer("hop_length", default=HOP_SAMPLES)
    frame = fields.integer("frame_length", default=512)
    tokens = files.processor_fields().integer("audio_seq_length", default=188, minimum=0)

    def count(seconds: float) -> ItemTokens:
        padded = math.ceil(cut(files, seconds, rate, _MOST_SAMPLES) / 128) * 128
        frames = max(0, (padded - frame - 1) // hop + 1)
        return ItemTokens(tokens, 4, (PatchGrid(1, 1, frames),) if frames else ())

    return count


def gemma4(files: ModelFiles) -> Rule:
    """Gemma 4: 25 tokens a second of the frames that hold no padding, cut at 30 s; begin and end tag."""
    fields = files.audio_fields()
    rate = fields.integer("sampling_rate", default=SAMPLING_RATE)
    hop = fields.integer("hop_length", default=HOP_SAMPLES)
    frame = fields.integer("frame_length", default=320)

    def count(seconds: float) -> ItemTokens:
        heard = cut(files, seconds, rate, _MOST_SAMPLES)
        padded = math.ceil(heard / 128) * 128
        # Half a frame of silence goes before the clip; a frame is one sample longer than its window.
        frames = max(0, (padded + frame // 2 - frame - 1) // hop + 1)
        valid = min(frames, max(0, math.ceil((heard + frame // 2 - frame) / hop)))
        return ItemTokens(halved(halved(valid)), 2, (PatchGrid(1, 1, frames),) if frames else ())

    return count
