"""Towers of native resolution: patch transformers of the Qwen-VL, GLM-V, MoonViT and NaViT kind.

They differ in norms, gates, biases, position tables and attention windows; one builder makes them all.
"""

from collections.abc import Callable
from dataclasses import dataclass

from vtprof_analyzer.models.fields import Fields, divide
from vtprof_analyzer.models.spec import AdapterStage, Tower, TowerGroup


@dataclass(frozen=True)
class Layer:
    """Matrices, biases and norms of one layer."""

    width: int
    inner: int
    gated: bool = False
    """Three matrices in the MLP instead of two."""
    kv_width: int | None = None
    """Width of keys and of values where there are fewer heads of them."""
    qkv_bias: bool = True
    out_bias: bool = True
    mlp_bias: bool = True
    norm_values: int = 2
    """Values a channel of one norm: 2 for layer norms, 1 for RMS norms."""
    extra_params: int = 0
    """Norms on queries and keys."""

    @property
    def linear_params(self) -> int:
        """Return weights that multiply every patch."""
        kv = self.width if self.kv_width is None else self.kv_width
        return self.width * (2 * self.width + 2 * kv) + (3 if self.gated else 2) * self.width * self.inner

    @property
    def other_params(self) -> int:
        """Return biases and norms."""
        kv = self.width if self.kv_width is None else self.kv_width
        biases = (self.width + 2 * kv) * self.qkv_bias + self.width * self.out_bias
        biases += ((2 if self.gated else 1) * self.inner + self.width) * self.mlp_bias
        return biases + 2 * self.norm_values * self.width + self.extra_params

    @property
    def activation_values(self) -> int:
        """Return values read and written for one patch: in and out of each GEMM once, twice a norm in and out."""
        kv = self.width if self.kv_width is None else self.kv_width
        attention = (self.width + self.width + 2 * kv) + 2 * self.width
        mlp = 2 * self.width + (3 if self.gated else 2) * self.inner
        return attention + mlp + 4 * self.width


def build(
    fields: Fields,
    layer: Layer,
    layers_run: int | None,
    patch_values: int,
    other_params: int = 0,
    windowed: int = 0,
    window_side: int | None = None,
    adapter: tuple[AdapterStage, ...] = (),
    patches_per_token: float = 1.0,
) -> Tower:
    """Return a tower of like layers, ``windowed`` of them with attention in squares of ``window_side`` patches."""
    layers = fields.integer("vt_num_hidden_layers", "num_hidden_layers", "depth")
    run = layers if layers_run is None else min(layers, layers_run)
    windowed = min(windowed, run)
    groups = tuple(
        TowerGroup(
            layers=count,
            attention_width=layer.width,
            linear_params=layer.linear_params,
            other_params=layer.other_params,
            activation_values=layer.activation_values,
            window_patches=side**2 if side else None,
            window_sides=(side, side) if side else None,
        )
        for count, side in ((run - windowed, None), (windowed, window_side))
        if count
    )
    return Tower(
        hidden_size=layer.width,
        patch_params=patch_values * layer.width,
        patch_values=patch_values,
        groups=groups,
        adapter=adapter,
        patches_per_token=patches_per_token,
        other_params=other_params,
        idle_params=(layers - run) * (layer.linear_params + layer.other_params),
    )


def tower(fields: Fields, layers_run: int | None) -> Tower:
    """Turn a vision section into a tower by its ``model_type``.

    Raises `DataError` that names the field which is missing or wrong.
    """
    kind = fields.text("model_type") or ""
    return _READERS[kind](fields, layers_run)


def patch_values(fields: Fields, frames: int | None = None) -> int:
    """Return the input values of a patch: channels x frames x side squared (F4)."""
    side = fields.integer("patch_size", "spatial_patch_size")
    channels = fields.integer("in_channels", "num_channels", "in_chans", default=3)
    if frames is None:
        frames = fields.integer("temporal_patch_size", default=2)
    return channels * frames * side**2


def _head_dim(fields: Fields, width: int) -> int:
    """Return the size of a head; raise `DataError` for heads that do not divide the width."""
    keys = ("num_heads", "num_attention_heads")
    key = next((key for key in keys if fields.values.get(key) is not None), keys[0])
    return divide(fields, key, width, fields.integer(*keys))


def _qwen2(fields: Fields, layers_run: int | None) -> Tower:
    """Qwen2-VL: full attention, a two-matrix MLP, layer norms; its width is ``embed_dim``."""
    width = fields.integer("embed_dim")
    _head_dim(fields, width)
    layer = Layer(width, width * fields.integer("mlp_ratio", default=4))
    return build(fields, layer, layers_run, patch_values(fields))


def _qwen2_5(fields: Fields, layers_run: int | None) -> Tower:
    """Qwen2.5-VL and EXAONE 4.5: windows but for a few layers, a gated MLP, RMS norms; the latter shares key heads."""
    width = fields.integer("hidden_size")
    head_dim = _head_dim(fields, width)
    kv_heads = fields.first("num_key_value_heads")
    layer = Layer(
        width,
        fields.integer("intermediate_size"),
        gated=True,
        kv_width=None if kv_heads is None else head_dim * fields.integer("num_key_value_heads"),
        norm_values=1,
    )
    merge = fields.integer("spatial_merge_size", default=2)
    side = fields.integer("patch_size", "spatial_patch_size")
    window = fields.integer("window_size", default=112) // merge // side
    if window < 1:
        raise fields.fault("window_size", "holds no merged patch")
    depth = fields.integer("num_hidden_layers", "depth")
    run = depth if layers_run is None else min(depth, layers_run)
    full = len({index for index in fields.integers("fullatt_block_indexes", (7, 15, 23, 31)) if index < run})
    return build(
        fields, layer, layers_run, patch_values(fields), windowed=run - full, window_side=window * merge
    )


def _qwen3(fields: Fields, layers_run: int | None) -> Tower:
    """Qwen3-VL and later: full attention, a two-matrix MLP, a learned position table that is interpolated."""
    width = fields.integer("hidden_size")
    _head_dim(fields, width)
    layer = Layer(width, fields.integer("intermediate_size"))
    positions = fields.integer("num_position_embeddings", default=2304)
    return build(fields, layer, layers_run, patch_values(fields), other_params=(1 + positions) * width)


def _glm(fields: Fields, layers_run: int | None) -> Tower:
    """GLM-4.1V and 4.5V: a gated MLP as wide as what leaves the tower, position table, norms around the layers."""
    width = fields.integer("hidden_size")
    _head_dim(fields, width)
    bias = fields.flag("attention_bias", False)
    layer = Layer(
        width,
        fields.integer("out_hidden_size"),
        gated=True,
        qkv_bias=bias,
        out_bias=False,
        mlp_bias=False,
        norm_values=1,
    )
    positions = (fields.integer("image_size") // fields.integer("patch_size")) ** 2
    # The patch embedding's bias and the norms before and after the layers.
    return build(fields, layer, layers_run, patch_values(fields), other_params=(positions + 3) * width)


def _glm_ocr(fields: Fields, layers_run: int | None) -> Tower:
    """GLM-OCR: as GLM-4.1V with biases and norms on queries and keys, without the table."""
    width = fields.integer("hidden_size")
    head_dim = _head_dim(fields, width)
    bias = fields.flag("attention_bias", True)
    layer = Layer(
        width,
        fields.integer("intermediate_size"),
        gated=True,
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=bias,
        norm_values=1,
        extra_params=2 * head_dim,
    )
    return build(fields, layer, layers_run, patch_values(fields), other_params=2 * width)


def _siglip(fields: Fields, layers_run: int | None) -> Tower:
    """SigLIP's layers at native resolution (VideoLLaMA 3, PaddleOCR-VL, Keye-VL): rotary, and a table where there is one."""
    width = fields.integer("hidden_size")
    _head_dim(fields, width)
    kind = fields.text("model_type")
    positions = 0
    if kind != "video_llama_3_vision":
        positions = (fields.integer("image_size") // fields.integer("patch_size")) ** 2
    if kind == "keye_vision":
        positions += _KEYE_PACKED
    return build(
        fields,
        Layer(width, fields.integer("intermediate_size")),
        layers_run,
        patch_values(fields, frames=1),
        other_params=(positions + 1 + 2) * width,
    )


def _moonvit(fields: Fields, layers_run: int | None) -> Tower:
    """MoonViT (Kimi-VL, Kimi K2.5): layer norms, biases, a learned table that is interpolated, a final norm."""
    width = fields.integer("vt_hidden_size", "hidden_size")
    heads = fields.integer("vt_num_attention_heads", "num_attention_heads")
    divide(fields, "num_attention_heads", width, heads)
    layer = Layer(width, fields.integer("vt_intermediate_size", "intermediate_size"))
    table = fields.integer("init_pos_emb_height", "pos_emb_height", default=64)
    table *= fields.integer("init_pos_emb_width", "pos_emb_width", default=64)
    return build(
        fields, layer, layers_run, patch_values(fields, frames=1), other_params=(table + 1 + 2) * width
    )


def _ernie(fields: Fields, layers_run: int | None) -> Tower:
    """ERNIE 4.5 VL: Qwen2-VL's layers on single frames, a final norm."""
    width = fields.integer("hidden_size")
    _head_dim(fields, width)
    if fields.first("intermediate_size") is None:
        inner = width * fields.integer("mlp_ratio")
    else:
        inner = fields.integer("intermediate_size")
    return build(
        fields, Layer(width, inner), layers_run, patch_values(fields, frames=1), other_params=2 * width
    )


def _hunyuan(fields: Fields, layers_run: int | None) -> Tower:
    """HunyuanOCR: layer norms, biases, a table of the largest image's grid and one more row."""
    width = fields.integer("hidden_size")
    _head_dim(fields, width)
    edge = fields.integer("max_image_size") // fields.integer("patch_size")
    layer = Layer(width, fields.integer("intermediate_size"))
    return build(
        fields, layer, layers_run, patch_values(fields, frames=1), other_params=(edge**2 + 1 + 1) * width
    )


def _dots(fields: Fields, layers_run: int | None) -> Tower:
    """dots.ocr: a gated MLP, RMS norms, one of them after the patch embedding and one after the layers."""
    width = fields.integer("embed_dim")
    _head_dim(fields, width)
    bias = fields.flag("use_bias", False)
    layer = Layer(
        width,
        fields.integer("intermediate_size"),
        gated=True,
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=bias,
        norm_values=1,
    )
    norms = width * (1 + fields.flag("post_norm", True))
    frames = fields.integer("temporal_patch_size", default=1)
    return build(fields, layer, layers_run, patch_values(fields, frames), other_params=width + norms)


_KEYE_PACKED = 32_768
"""Rows of a second position table that Keye-VL loads."""
_READERS: dict[str, Callable[[Fields, int | None], Tower]] = {
    "qwen2_vl_vision": _qwen2,
    "qwen2_5_vl_vision": _qwen2_5,
    "qwen2_5_omni_vision_encoder": _qwen2_5,
    "exaone4_5_vision": _qwen2_5,
    "qwen3_vl_vision": _qwen3,
    "qwen3_vl_moe_vision": _qwen3,
    "qwen3_omni_moe_vision_encoder": _qwen3,
    "qwen3_5_vision": _qwen3,
    "qwen3_5_moe_vision": _qwen3,
    "glm4v_vision": _glm,
    "glm4v_moe_vision": _glm,
    "glm_ocr_vision": _glm_ocr,
    "video_llama_3_vision": _siglip,
    "paddleocr_vl_vision": _siglip,
    "keye_vision": _siglip,
    "moonvit": _moonvit,
    "kimi_k25_vision": _moonvit,
    "ernie4_5_vl_moe_vision": _ernie,
    "hunyuan_vl_vision": _hunyuan,
    "dots_vit": _dots,
}
