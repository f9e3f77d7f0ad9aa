"""Whisper's encoder and those made of it: two or three convolutions over a spectrogram, then full attention.

Whisper, Qwen2-Audio, Voxtral, Audio Flamingo 3, GLM-ASR and Qwen2.5-Omni differ in position table and windows;
Qwen3-Omni and Qwen3-ASR halve time and pitch three times before the layers. A patch is a spectrogram frame (10 ms).
"""

from vtprof_analyzer.models.fields import Fields, divide
from vtprof_analyzer.models.spec import Tower
from vtprof_analyzer.models.tokens.clips import halved
from vtprof_analyzer.models.vision.audio_layers import attention_layers, convolution, cut

_THREE_CONVOLUTIONS = ("qwen3_omni_moe_audio_encoder", "qwen3_asr_encoder", "qwen3_asr_audio_encoder")
_NO_TABLE = ("glmasr_encoder", "qwen2_5_omni_audio_encoder")
"""Rotary or fixed positions."""


def tower(fields: Fields, layers_run: int | None) -> Tower:
    """Turn an audio section into a tower without adapter; raise `DataError` that names the field at fault.

    The encoder's last norm counts here; a projection behind it belongs to the adapter.
    """
    width = fields.integer("d_model", "hidden_size")
    divide(
        fields,
        "encoder_attention_heads",
        width,
        fields.integer("encoder_attention_heads", "num_attention_heads"),
    )
    three = fields.text("model_type") in _THREE_CONVOLUTIONS
    made = _three_convolutions(fields, width) if three else _two_convolutions(fields, width)
    return cut(made, layers_run)


def _layers(fields: Fields) -> int:
    return fields.integer("encoder_layers", "num_hidden_layers")


def _inner(fields: Fields) -> int:
    return fields.integer("encoder_ffn_dim", "intermediate_size")


def _two_convolutions(fields: Fields, width: int) -> Tower:
    mels = fields.integer("num_mel_bins", default=80)
    kind = fields.text("model_type")
    other = width + 2 * width  # the first convolution's bias and the last norm
    if kind not in _NO_TABLE:
        other += fields.integer("max_source_positions", default=1500) * width
    if kind == "qwen2_5_omni_audio_encoder":
        other += 2 * fields.integer("output_dim", default=3584)  # learned begin and end vectors
    return Tower(
        hidden_size=width,
        patch_params=3 * mels * width,
        patch_values=mels,
        groups=(
            convolution(3 * width**2, width, 0.5, 2 * width, width),
            attention_layers(_layers(fields), width, _inner(fields), 0.5),
        ),
        adapter=(),
        patches_per_token=2.0,
        other_params=other,
    )


def _three_convolutions(fields: Fields, width: int) -> Tower:
    mels = fields.integer("num_mel_bins", default=128)
    channels = fields.integer("downsample_hidden_size", default=480)
    chunk = 2 * fields.integer("n_window", default=50)
    rows, frames = [mels], [chunk]
    for _ in range(3):
        rows.append(halved(rows[-1]))
        frames.append(halved(frames[-1]))
    positions = [high * wide / chunk for high, wide in zip(rows, frames, strict=True)]
    rate = frames[3] / chunk
    return Tower(
        hidden_size=width,
        patch_params=0,
        patch_values=mels,
        groups=(
            convolution(9 * channels, channels, positions[1], 4, channels),
            convolution(9 * channels**2, channels, positions[2], 4 * channels, channels),
            convolution(9 * channels**2, channels, positions[3], 4 * channels, channels),
            convolution(channels * rows[3] * width, 0, rate, channels * rows[3], width),
            attention_layers(_layers(fields), width, _inner(fields), rate, key_bias=True),
        ),
        adapter=(),
        patches_per_token=1.0 / rate,
        other_params=2 * width,
    )
