"""Vision transformers of the plain kind (CLIP, SigLIP, DINO, ViT, AIMv2, EVA-CLIP …): one builder, a `Style` for each.

Parameters are those of transformers' vision models; pooling and projection heads, which no language model reads, are
idle.
"""

from dataclasses import dataclass
from typing import Literal

from vtprof_analyzer.models.fields import Fields, divide
from vtprof_analyzer.models.spec import Tower, TowerGroup

Positions = Literal["learned", "num_patches", "none"]
"""A learned table of the image's grid and class token, one of ``num_patches`` rows, or none (rotary, sinusoids)."""
Head = Literal["none", "siglip", "aimv2", "pooler", "projection"]


@dataclass(frozen=True)
class Style:
    """What one kind of vision transformer has and another has not."""

    rms: bool = False
    """Norms without bias."""
    class_token: bool = False
    mask_token: bool = False
    """Only of use in training, but loaded."""
    registers: int = 0
    positions: Positions = "learned"
    patch_bias: bool = True
    pre_norm: bool = False
    """A norm between patch embedding and first layer."""
    post_norm: bool = True
    query_bias: bool = True
    key_bias: bool = True
    value_bias: bool = True
    out_bias: bool = True
    mlp_bias: bool = True
    gated: bool = False
    inner_norms: bool = False
    """Norms before the output projection of attention and MLP (EVA-02's sub-norms)."""
    query_key_norms: bool = False
    layer_scale: bool = False
    head: Head = "none"
    head_bias: bool = True
    """Of an AIMv2 head's key and value."""
    other_params: int = 0
    """What else the embeddings hold."""


def tower(fields: Fields, layers_run: int | None) -> Tower:
    """Turn a vision section into a tower by its ``model_type``; a composite of text and vision gives its vision part.

    Raises `DataError` that names the field which is missing or wrong.
    """
    nested = fields.section("vision_config")
    kind = fields.text("model_type") or ""
    if nested is not None:
        width = fields.first("projection_dim")
        values = nested.values if width is None else {**nested.values, "projection_dim": width}
        nested = Fields(values, nested.path, nested.file, nested.assumed)
        return build(nested, _style(nested, kind), layers_run)
    return build(fields, _style(fields, kind), layers_run)


def build(fields: Fields, style: Style, layers_run: int | None, inner: int | None = None) -> Tower:
    """Build the tower of a section with transformers' usual field names.

    ``inner`` is the width inside the MLP where no field ``intermediate_size`` (or ``mlp_ratio``) says it.
    """
    width = fields.integer("hidden_size")
    layers = fields.integer("num_hidden_layers")
    divide(fields, "num_attention_heads", width, fields.integer("num_attention_heads"))
    inner = inner if inner is not None else _inner(fields, width, style)
    patch_values = fields.integer("num_channels", default=3) * fields.integer("patch_size") ** 2
    run = layers if layers_run is None else max(0, min(layers, layers_run))
    group = _layers(run, width, inner, width // fields.integer("num_attention_heads"), style)
    norm = width if style.rms else 2 * width
    own_tokens = int(style.class_token) + style.registers
    embeddings = width * (own_tokens + _positions(fields, style) + int(style.patch_bias))
    norms = norm * (int(style.pre_norm) + int(style.post_norm))
    idle = (layers - run) * (group.linear_params + group.other_params)
    return Tower(
        hidden_size=width,
        patch_params=patch_values * width,
        patch_values=patch_values,
        groups=(group,) if run else (),
        adapter=(),
        patches_per_token=1.0,
        class_tokens=own_tokens,
        other_params=embeddings + norms + style.other_params,
        idle_params=idle + _head(fields, style, width, inner) + width * int(style.mask_token),
    )


def _layers(count: int, width: int, inner: int, head_dim: int, style: Style) -> TowerGroup:
    """Return like layers: attention of the full width, an MLP of two matrices or three, two norms."""
    norm = width if style.rms else 2 * width
    first = 2 if style.gated else 1
    biases = width * (style.query_bias + style.key_bias + style.value_bias + style.out_bias)
    biases += (first * inner + width) * int(style.mlp_bias)
    norms = 2 * norm
    if style.inner_norms:
        norms += norm + (1 if style.rms else 2) * inner
    if style.query_key_norms:
        norms += 2 * (head_dim if style.rms else 2 * head_dim)
    return TowerGroup(
        layers=count,
        attention_width=width,
        linear_params=4 * width**2 + (first + 1) * width * inner,
        other_params=biases + norms + (2 * width if style.layer_scale else 0),
        # In and out of the fused qkv, the output, the fused first and the last matrix of the MLP; two norms.
        activation_values=4 * width + 2 * width + (2 * width + (first + 1) * inner) + 4 * width,
    )


def _inner(fields: Fields, width: int, style: Style) -> int:
    """Return the width inside the MLP; DINOv2's gated one keeps two thirds of it, rounded up to a multiple of 8."""
    if fields.first("intermediate_size") is not None or fields.first("mlp_ratio") is None:
        return fields.integer("intermediate_size")
    inner = max(1, int(width * fields.number("mlp_ratio")))
    return (int(inner * 2 / 3) + 7) // 8 * 8 if style.gated else inner


def _positions(fields: Fields, style: Style) -> int:
    """Return the rows of the position table."""
    if style.positions == "none":
        return 0
    if style.positions == "num_patches":
        return fields.integer("num_patches")
    patch = fields.integer("patch_size")
    return _grid_patches(fields, patch) + int(style.class_token)


def _grid_patches(fields: Fields, patch: int) -> int:
    size = fields.first("image_size")
    if isinstance(size, (list, tuple)) and len(size) == 2 and all(isinstance(side, int) for side in size):
        sides = fields.integers("image_size", ())
        return (sides[0] // patch) * (sides[1] // patch)
    return int((fields.integer("image_size") // patch) ** 2)


def _head(fields: Fields, style: Style, width: int, inner: int) -> int:
    """Return the parameters of the head behind the last layer."""
    if style.head == "siglip":  # a probe, attention over all patches, a norm and an MLP
        return width + (4 * width**2 + 4 * width) + 2 * width + (2 * width * inner + width + inner)
    if style.head == "aimv2":  # a class token that attends, and its output projection
        return width + 3 * width**2 + width + 2 * width * int(style.head_bias)
    if style.head == "pooler":
        size = fields.integer("pooler_output_size", default=width)
        return width * size + size
    if style.head == "projection":
        return width * fields.integer("projection_dim")
    return 0


def _style(fields: Fields, kind: str) -> Style:
    """Return the style of a model type, or of the vision part of a composite's type."""
    family = kind.removesuffix("_vision_model")
    if family == "siglip":
        return Style(head="siglip" if fields.flag("vision_use_head", True) else "none")
    if family == "siglip2":
        head: Head = "siglip" if fields.flag("vision_use_head", True) else "none"
        return Style(positions="num_patches", head=head)
    if family == "dinov2":
        return _dino(fields, fields.flag("use_mask_token", True), 0)
    if family == "dinov2_with_registers":
        return _dino(fields, True, fields.integer("num_register_tokens", default=4, minimum=0))
    if family == "dinov3_vit":
        return _dino_3(fields)
    if family in ("vit", "ijepa"):
        bias = fields.flag("qkv_bias", True)
        plain = family == "ijepa"
        return Style(
            class_token=not plain,
            query_bias=bias,
            key_bias=bias,
            value_bias=bias,
            head="none" if plain else "pooler",
        )
    if family == "aimv2":
        return _aimv2(fields)
    if family == "mlcd":
        heads = fields.integer("num_attention_heads")
        half = divide(fields, "num_attention_heads", fields.integer("hidden_size"), heads) // 2
        return Style(class_token=True, positions="none", patch_bias=False, pre_norm=True, other_params=half)
    if family == "eva_clip":
        return Style(class_token=True, key_bias=False, gated=True, inner_norms=True, head="projection")
    return _clip(fields, projected=kind == family)


def _clip(fields: Fields, projected: bool) -> Style:
    """Return CLIP's style: a class token, a norm before the layers, and where it stands alone a projection."""
    classes = fields.first("architectures")
    named = isinstance(classes, list) and any(str(name).endswith("WithProjection") for name in classes)
    return Style(
        class_token=True,
        patch_bias=False,
        pre_norm=True,
        head="projection" if projected or named else "none",
    )


def _dino(fields: Fields, mask_token: bool, registers: int) -> Style:
    bias = fields.flag("qkv_bias", True)
    return Style(
        class_token=True,
        mask_token=mask_token,
        registers=registers,
        query_bias=bias,
        key_bias=bias,
        value_bias=bias,
        gated=fields.flag("use_swiglu_ffn", False),
        layer_scale=True,
    )


def _dino_3(fields: Fields) -> Style:
    return Style(
        class_token=True,
        mask_token=True,
        registers=fields.integer("num_register_tokens", default=0, minimum=0),
        positions="none",
        query_bias=fields.flag("query_bias", True),
        key_bias=fields.flag("key_bias", False),
        value_bias=fields.flag("value_bias", True),
        out_bias=fields.flag("proj_bias", True),
        mlp_bias=fields.flag("mlp_bias", True),
        gated=fields.flag("use_gated_mlp", False),
        layer_scale=True,
    )


def _aimv2(fields: Fields) -> Style:
    bias = fields.flag("qkv_bias", False)
    return Style(
        rms=True,
        positions="none" if fields.flag("is_native", False) else "learned",
        pre_norm=True,
        query_bias=bias,
        key_bias=bias,
        value_bias=bias,
        out_bias=bias,
        mlp_bias=fields.flag("mlp_bias", False),
        gated=True,
        head="aimv2" if fields.flag("use_head", True) else "none",
        head_bias=bias,
    )
