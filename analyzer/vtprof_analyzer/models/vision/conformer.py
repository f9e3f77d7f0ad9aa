"""Conformer encoders for audio: Granite Speech, Phi-4-multimodal, Gemma 3n and Gemma 4.

Each layer is a feed-forward half, attention, a convolution module and another feed-forward half; they differ in the
convolutions before the layers, in the window of attention and in biases. Parameters are those of transformers' models.
"""

import math
from dataclasses import replace

from vtprof_analyzer.models.fields import Fields, divide
from vtprof_analyzer.models.spec import Tower, TowerGroup
from vtprof_analyzer.models.tokens.clips import halved
from vtprof_analyzer.models.vision.audio_layers import convolution, cut


def tower(fields: Fields, layers_run: int | None) -> Tower:
    """Turn an audio section into a tower without adapter, by its ``model_type``.

    Raises `DataError` that names the field which is missing or wrong.
    """
    kind = fields.text("model_type")
    if kind == "phi4_multimodal_audio":
        made = _phi4(fields)
    elif kind == "gemma3n_audio":
        made = _gemma3n(fields)
    elif kind == "gemma4_audio":
        made = _gemma4(fields)
    else:
        made = _granite(fields)
    return cut(made, layers_run)


def _granite(fields: Fields) -> Tower:
    """Return Granite Speech's tower; a patch is a pair of frames, attention stays within blocks of 200."""
    width = fields.integer("hidden_dim")
    heads = fields.integer("num_heads")
    head = fields.integer("dim_head", default=divide(fields, "num_heads", width, heads))
    attention, inner = heads * head, width * fields.integer("feedforward_mult", default=4)
    expanded = width * fields.integer("conv_expansion_factor", default=2)
    kernel = fields.integer("conv_kernel_size", default=15)
    feed = 2 * width * inner
    linear = 2 * feed + 4 * width * attention + 3 * width * expanded + expanded * kernel
    biases = 2 * (inner + width) + width + 2 * expanded + width
    positions = (2 * fields.integer("max_pos_emb", default=512) + 1) * head
    norms = 2 * width * 5 + 2 * expanded
    layer = TowerGroup(
        layers=fields.integer("num_layers"),
        # Queries meet keys, then the relative positions of the pairs, then values: three products instead of two.
        attention_width=attention * 3 // 2,
        linear_params=linear,
        other_params=biases + positions + norms,
        activation_values=_conformer_values(width, inner, attention, expanded),
        window_patches=fields.integer("context_size", default=200),
    )
    classes = fields.integer("output_dim", default=42)
    middle = convolution(2 * width * classes, width + classes, 1.0, 2 * width, 2 * classes)
    values = fields.integer("input_dim", default=160)
    return Tower(
        hidden_size=width,
        patch_params=values * width,
        patch_values=values,
        groups=(layer, middle),
        adapter=(),
        patches_per_token=1.0,
        other_params=width,
    )


def _phi4(fields: Fields) -> Tower:
    """Return Phi-4-multimodal's tower: strided convolutions over time and pitch, then 24 layers."""
    width, inner = fields.integer("hidden_size"), fields.integer("intermediate_size")
    heads = fields.integer("num_attention_heads")
    divide(fields, "num_attention_heads", width, heads)
    reduction = fields.integer("time_reduction", default=8)
    halvings = min(int(math.log2(reduction)), 20)
    channels = fields.integer("nemo_conv_channels", default=1024)
    rows = [fields.integer("input_size", default=80)]
    for _ in range(halvings):
        rows.append(halved(rows[-1]))
    groups = []
    if halvings:
        groups.append(convolution(9 * channels, channels, rows[1] / 2, 4, channels))
    groups += [
        convolution(
            9 * channels + channels**2, 2 * channels, rows[step] / 2**step, 6 * channels, 2 * channels
        )
        for step in range(2, halvings + 1)
    ]
    rate = 0.5**halvings
    groups.append(convolution(channels * rows[-1] * width, width, rate, channels * rows[-1], width))
    out = fields.integer("ext_pw_out_channel", default=1024)
    separable = fields.integer("depthwise_separable_out_channel", default=1024)
    deep = width * fields.integer("depthwise_multiplier", default=1)
    kernel = fields.integer("kernel_size", default=3)
    feed = 3 * width * inner
    conv = 2 * width * out + deep * kernel + deep * separable + width * out
    conv_biases = 2 * out + 2 * out + deep + separable + out
    groups.append(
        TowerGroup(
            layers=fields.integer("num_blocks"),
            attention_width=width,
            linear_params=2 * feed + 4 * width**2 + conv,
            other_params=2 * (2 * inner + width) + 4 * width + conv_biases + 2 * width * 5,
            activation_values=_conformer_values(width, 2 * inner, width, out),
            positions_per_patch=rate,
        )
    )
    buckets = fields.integer("bias_max_distance", default=1000) * (
        1 if fields.flag("bias_symmetric", False) else 2
    )
    return Tower(
        hidden_size=width,
        patch_params=0,
        patch_values=rows[0],
        groups=tuple(groups),
        adapter=(),
        patches_per_token=2.0**halvings,
        other_params=buckets * heads,
    )


def _gemma3n(fields: Fields) -> Tower:
    """Return Gemma 3n's tower: two convolutions, then layers that look 12 positions back; every fourth is kept."""
    chunk = fields.integer("conf_attention_chunk_size", default=12)
    back = max(0, fields.integer("conf_attention_context_left", default=13) - 1)
    ahead = fields.integer("conf_attention_context_right", default=0, minimum=0)
    made = _universal(
        fields,
        channels=fields.integers("sscp_conv_channel_size", (128, 32)),
        mels=fields.integer("input_feat_size", default=128),
        layers=fields.integer("conf_num_hidden_layers"),
        heads=fields.integer("conf_num_attention_heads"),
        kernel=fields.integer("conf_conv_kernel_size", default=5),
        context=chunk + back + ahead,
    )
    reduction = fields.integer("conf_reduction_factor", default=4)
    return replace(made, patches_per_token=4.0 * reduction)


def _gemma4(fields: Fields) -> Tower:
    """Return Gemma 4's tower: as Gemma 3n's, every position kept, projected once more behind the layers."""
    chunk = fields.integer("attention_chunk_size", default=12)
    back = max(0, fields.integer("attention_context_left", default=13) - 1)
    ahead = fields.integer("attention_context_right", default=0, minimum=0)
    channels = fields.integers("subsampling_conv_channels", (128, 32))
    made = _universal(
        fields,
        channels=channels,
        mels=128,
        layers=fields.integer("num_hidden_layers"),
        heads=fields.integer("num_attention_heads"),
        kernel=fields.integer("conv_kernel_size", default=5),
        context=chunk + back + ahead,
    )
    width = made.hidden_size
    out = fields.integer("output_proj_dims", default=1536)
    return replace(made, groups=(*made.groups, convolution(width * out, out, 0.25, width, out)))


def _universal(
    fields: Fields, channels: tuple[int, ...], mels: int, layers: int, heads: int, kernel: int, context: int
) -> Tower:
    """Return a tower of the Universal Speech Model's kind; no biases, RMS norms, four frames a position.

    ``context`` is the number of keys that each query is multiplied with.
    """
    width = fields.integer("hidden_size")
    head = divide(fields, "num_attention_heads", width, heads)
    if len(channels) != 2:
        raise fields.fault("sscp_conv_channel_size", f"names {len(channels)} convolutions instead of 2")
    first, second = channels
    rows = (halved(mels), halved(halved(mels)))
    # Four matrices of attention, four of both feed-forward halves (4 times as wide), a gate of two and one after it.
    linear = 4 * width**2 + 16 * width**2 + 3 * width**2 + width * kernel
    layer = TowerGroup(
        layers=layers,
        attention_width=width,
        linear_params=linear,
        # Relative positions are projected once for a window, not for every position; then the norms.
        other_params=width**2 + head + 9 * width,
        activation_values=_conformer_values(width, 4 * width, width, width),
        window_patches=4 * context,
        positions_per_patch=0.25,
    )
    return Tower(
        hidden_size=width,
        patch_params=0,
        patch_values=mels,
        groups=(
            convolution(9 * first, first, rows[0] / 2, 4, first),
            convolution(9 * first * second, second, rows[1] / 4, 4 * first, second),
            convolution(second * rows[1] * width, 0, 0.25, second * rows[1], width),
            layer,
        ),
        adapter=(),
        patches_per_token=4.0,
    )


def _conformer_values(width: int, inner: int, attention: int, expanded: int) -> int:
    """Return values of one position in one layer: each GEMM in and out once, five norms in and out (an estimate)."""
    feed = 2 * (width + inner + inner + width)
    return feed + (width + 3 * attention) + (attention + width) + (width + 5 * expanded + width) + 10 * width
