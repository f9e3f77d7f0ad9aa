"""Towers of Gemma 4, a transformer with two norms around each half of a layer, and of Gemma 3n, a convolutional network.

Gemma 4 Unified has none: one matrix makes an embedding of a square of pixels, and audio goes on as samples.
"""

from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.spec import Tower, TowerGroup
from vtprof_analyzer.models.vision.timm import convolutional

_MOBILENET = "mobilenetv5_300m_enc"
_MOBILENET_PARAMS = 294_126_912
"""Gemma-3n-E2B and -E4B as published, less all that transformers builds and the shared layers' unused projections."""
_MOBILENET_STRIDE = 48
"""768 pixels a side become 16 positions."""


def tower(fields: Fields, layers_run: int | None) -> Tower:
    """Turn a vision section into a tower by its ``model_type``; raise `DataError` that names the field at fault."""
    kind = fields.text("model_type")
    if kind == "gemma3n_vision":
        return _mobilenet(fields)
    if kind == "gemma4_unified_vision":
        return _patches_alone(fields)
    if kind == "gemma4_unified_audio":
        values = fields.integer("audio_embed_dim", default=640)
        return Tower(values, 0, values, groups=(), adapter=(), patches_per_token=1.0)
    return _gemma4(fields, layers_run)


def _patches_alone(fields: Fields) -> Tower:
    """Return Gemma 4 Unified's patch embedding: a norm, a matrix, a norm, positions of two directions, a norm."""
    side = fields.integer("patch_size") * fields.integer("pooling_kernel_size", default=3)
    values, width = 3 * side**2, fields.integer("mm_embed_dim")
    return Tower(
        hidden_size=width,
        patch_params=values * width,
        patch_values=values,
        groups=(),
        adapter=(),
        patches_per_token=1.0,
        other_params=2 * values + 5 * width + 2 * fields.integer("mm_posemb_size", default=1120) * width,
    )


def _mobilenet(fields: Fields) -> Tower:
    name = fields.text("architecture", default=_MOBILENET)
    if name != _MOBILENET:
        raise fields.fault("architecture", f"is {name!r}; Gemma 3n's tower is {_MOBILENET}")
    return convolutional(fields.integer("hidden_size", default=2048), _MOBILENET_STRIDE, _MOBILENET_PARAMS)


def _gemma4(fields: Fields, layers_run: int | None) -> Tower:
    width = fields.integer("hidden_size")
    inner = fields.integer("intermediate_size")
    head_dim = fields.integer("head_dim")
    query_width = fields.integer("num_attention_heads") * head_dim
    kv_width = fields.integer("num_key_value_heads", "num_attention_heads") * head_dim
    layers = fields.integer("num_hidden_layers")
    run = layers if layers_run is None else max(0, min(layers, layers_run))
    patch_values = 3 * fields.integer("patch_size") ** 2
    group = TowerGroup(
        layers=run,
        attention_width=query_width,
        linear_params=width * (2 * query_width + 2 * kv_width) + 3 * width * inner,
        other_params=4 * width + 2 * head_dim,
        activation_values=2 * (width + query_width) + 2 * kv_width + (2 * width + 3 * inner) + 8 * width,
    )
    return Tower(
        hidden_size=width,
        patch_params=patch_values * width,
        patch_values=patch_values,
        groups=(group,) if run else (),
        adapter=(),
        patches_per_token=1.0,
        other_params=2 * fields.integer("position_embedding_size") * width,
        idle_params=(layers - run) * (group.linear_params + group.other_params),
    )
