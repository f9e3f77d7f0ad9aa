"""The segment-anything encoder as DeepSeek's models use it: windowed attention with relative positions, then convolutions.

Convolutions behind the layers stand in the adapter: each is a matrix over its kernel on every position it writes.
"""

from dataclasses import replace

from vtprof_analyzer.models.fields import Fields, divide
from vtprof_analyzer.models.spec import AdapterStage, Tower, TowerGroup


def tower(fields: Fields, layers_run: int | None) -> Tower:
    """Turn a section of type ``sam_vision_model`` into a tower; its neck is the first stage of the adapter.

    All layers run, whatever ``layers_run`` says. Raises `DataError` that names the field at fault.
    """
    del layers_run
    width = fields.integer("hidden_size")
    inner = fields.integer("mlp_dim", default=int(width * fields.number("mlp_ratio", default=4.0)))
    layers = fields.integer("num_hidden_layers")
    head = divide(fields, "num_attention_heads", width, fields.integer("num_attention_heads"))
    patch = fields.integer("patch_size")
    side = max(1, fields.integer("image_size") // patch)
    window = fields.integer("window_size", default=14, minimum=0)
    values = fields.integer("num_channels", default=3) * patch**2
    relative = fields.flag("use_rel_pos", True)
    everywhere = len({n for n in fields.integers("global_attn_indexes", (2, 5, 8, 11)) if n < layers})
    bias = 3 * width if fields.flag("qkv_bias", True) else 0

    tables = 2 * head if relative else 0
    mixing = TowerGroup(
        layers=layers - everywhere if window else 0,
        attention_width=width,
        linear_params=4 * width**2,
        other_params=bias + width + 2 * width + (2 * (window or side) - 1) * tables,
        activation_values=8 * width,
    )
    if window:
        # Windows are whole: the grid is padded for attention and cut again. Scores of relative positions, by row and
        # column, cost as much as so many keys more.
        padded = (-(-side // window) * window / side) ** 2
        keys = window**2 + (window if relative else 0)
        mixing = replace(mixing, positions_per_patch=padded, window_patches=max(1, round(keys / padded)))
    whole = replace(
        mixing,
        layers=layers - mixing.layers,
        other_params=bias + width + 2 * width + (2 * side - 1) * tables,
        window_patches=None,
        positions_per_patch=1.0,
    )
    by_row = TowerGroup(whole.layers if relative else 0, width, 0, 0, 0, window_patches=side)
    feeding = TowerGroup(
        layers, 0, 2 * width * inner, inner + width + 2 * width, 4 * width + 2 * inner + 2 * width
    )
    positions = side**2 * width if fields.flag("use_abs_pos", True) else 0
    return Tower(
        hidden_size=width,
        patch_params=values * width,
        patch_values=values,
        groups=tuple(group for group in (whole, by_row, mixing, feeding) if group.layers),
        adapter=(neck(fields),),
        patches_per_token=1.0,
        other_params=width + positions,
    )


def neck(fields: Fields) -> AdapterStage:
    """Return the neck: a matrix and a convolution of 3 x 3 on each patch, a norm after each."""
    width, out = fields.integer("hidden_size"), fields.integer("output_channels", default=256)
    return AdapterStage(width * out + 9 * out * out, 4 * out, width + 11 * out)


def halving(channels: int, out: int, patches_per_unit: float) -> AdapterStage:
    """Return a convolution of 3 x 3 and stride 2 without bias."""
    return AdapterStage(9 * channels * out, 0, 9 * channels + out, patches_per_unit=patches_per_unit)
