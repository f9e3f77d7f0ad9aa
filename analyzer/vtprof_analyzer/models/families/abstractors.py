"""mPLUG-Owl2, Honeybee, OpenFlamingo and Moondream: a plain tower behind an abstractor or an MLP of their own kind."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vtprof_analyzer.models.config_defaults import complete
from vtprof_analyzer.models.families import parts
from vtprof_analyzer.models.families.llava import mlp
from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.spec import AdapterStage, Attention, LanguageModel, LayerGroup, ModelSpec, Tower
from vtprof_analyzer.models.vision.vit import Style, build

_CLIP_L = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
}
_SO400M = {
    **_CLIP_L,
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "image_size": 378,
}
_PHI_1_5 = {
    "model_type": "phi",
    "vocab_size": 51200,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 24,
    "num_attention_heads": 32,
}
_CLIP_STYLE = Style(class_token=True, patch_bias=False, pre_norm=True)


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """Turn a config of one of these models into a spec; raise `DataError` that names the field at fault."""
    kind, top = str(config["model_type"]), Fields(config)
    text = _text(kind, top)
    language = parts.language_model(top, text)
    if kind == "mplug_owl2":
        language, tower = _multiway(language), _owl(top, language.hidden_size)
    elif kind == "honeybee":
        tower = _honeybee(top, language.hidden_size)
    elif kind == "flamingo":
        tower = _flamingo(top)
        language = _crossed(language, top, tower.hidden_size)
    else:
        plain = build(_section(top, "vision_config", _SO400M), Style(), None)
        hidden = language.hidden_size
        inner = top.integer("projection_inner_size", default=4 * hidden)
        stage = AdapterStage(
            plain.hidden_size * inner + inner * hidden, inner + hidden, plain.hidden_size + 2 * inner + hidden
        )
        tower = replace(plain, adapter=(stage,))
    return ModelSpec(
        model_type=kind,
        vision=tower,
        language=language,
        dtype=parts.dtype(top, text),
    )


def _text(kind: str, top: Fields) -> Fields:
    """Return the text section: mPLUG-Owl2's is the file itself, Moondream's file says nothing of its decoder."""
    if kind == "moondream1":
        section = top.section("text_config") or top.section("phi_config")
        return Fields(complete({**_PHI_1_5, **(section.values if section else {}), "model_type": "phi"}))
    return parts.text_section(top.values, "llama")


def _section(top: Fields, key: str, defaults: Mapping[str, Any]) -> Fields:
    section = top.section(key)
    return Fields({**defaults, **(section.values if section else {})}, key)


def _owl(top: Fields, out: int) -> Tower:
    """Return the tower with six layers of queries that attend to patches and queries, a gated MLP in each."""
    visual = top.section("visual_config") or Fields({}, "visual_config")
    plain = build(_section(visual, "visual_model", {**_CLIP_L, "image_size": 448}), _CLIP_STYLE, None)
    fields = _section(visual, "visual_abstractor", {})
    width, layers = (
        fields.integer("hidden_size", default=1024),
        fields.integer("num_hidden_layers", default=6),
    )
    inner, queries = (
        fields.integer("intermediate_size", default=2816),
        fields.integer("num_learnable_queries", default=64),
    )
    source = fields.integer("encoder_hidden_size", default=plain.hidden_size)
    grid = fields.integer("grid_size", default=32) ** 2
    keys = AdapterStage(layers * 2 * source * width, layers * (2 * width + 2 * source), layers * 4 * width)
    rest = AdapterStage(
        linear_params=layers * (2 * width**2 + 3 * width * inner),
        # Biases, two norms and that inside the MLP, tables of positions of queries and patches, the queries themselves.
        other_params=layers
        * (2 * width + 2 * inner + width + 4 * width + 2 * inner + (queries + grid) * width)
        + queries * width,
        activation_values=layers * (8 * width + 3 * inner),
        patches_per_unit=None,
        queries=queries,
        query_attention_width=layers * width,
        cross_attention_width=layers * width,
    )
    last = AdapterStage(width * out, 2 * out, width + out, patches_per_unit=None, queries=queries)
    patches = (448 // 14) ** 2
    return replace(plain, adapter=(keys, rest, last), patches_per_token=patches / (queries + 1))


def _multiway(language: LanguageModel) -> LanguageModel:
    """Return the decoder with keys, values and norms of their own for visual tokens."""

    def ways(group: LayerGroup) -> LayerGroup:
        hidden, attention = language.hidden_size, group.attention
        return replace(
            group,
            visual_linear_params=hidden * attention.kv_values_read_per_token,
            other_params=group.other_params + 2 * hidden,
        )

    return replace(language, groups=tuple(ways(group) for group in language.groups))


def _honeybee(top: Fields, out: int) -> Tower:
    """Return the tower with the C-Abstractor: residual blocks, pooling to the queries, blocks again, an MLP.

    Depthwise convolutions and squeeze-and-excitation are counted as weights only.
    """
    plain = build(_section(top, "vision_config", {**_CLIP_L, "image_size": 336}), _CLIP_STYLE, None)
    fields = _section(top, "projector_config", {})
    kind = fields.text("projector_type", default="c-abs")
    if kind != "c-abs":
        raise fields.fault("projector_type", f"is {kind!r}, an abstractor without a cost model yet")
    width = fields.integer("hidden_size", default=1024)
    depth = fields.integer("depth", default=3)
    if width != plain.hidden_size:
        raise fields.fault("hidden_size", f"is {width}, while the tower's is {plain.hidden_size}")
    queries = fields.integer("num_query_tokens", default=144)
    squeezed = width // 4
    excitation = 2 * width * squeezed + squeezed + width
    small = depth * (9 * width + 6 * width + excitation)
    patches = max(1, 336 // 14) ** 2
    table = patches * width if fields.flag("pos_emb", True) else 0
    before = AdapterStage(depth * 2 * width**2, small + table, depth * 8 * width)
    after = AdapterStage(
        depth * 2 * width**2, small, depth * 8 * width, patches_per_unit=None, queries=queries
    )
    readout = mlp(
        width, out, depth=fields.integer("mlp_depth", default=2), patches_per_unit=None, queries=queries
    )
    ends = fields.integer("num_eos_tokens", default=0, minimum=0)
    readout = replace(readout, other_params=readout.other_params + ends * out)
    return replace(plain, adapter=(before, after, readout), patches_per_token=patches / (queries + ends))


def _flamingo(top: Fields) -> Tower:
    """Return the tower with the perceiver resampler: latents attend to patches and themselves, layer by layer."""
    plain = build(_section(top, "vision_config", {**_CLIP_L, "image_size": 224}), _CLIP_STYLE, None)
    width, depth = plain.hidden_size, top.integer("resampler_depth", default=6)
    latents = top.integer("num_latents", default=64)
    inner = top.integer("resampler_heads", default=8) * top.integer("resampler_head_dim", default=64)
    keys = AdapterStage(depth * 2 * width * inner, depth * 2 * width, depth * (width + 2 * inner))
    rest = AdapterStage(
        linear_params=depth * (2 * width * inner + 8 * width**2),
        other_params=depth * 4 * width + latents * width + 2 * width,
        activation_values=depth * (2 * width + 2 * inner + 10 * width),
        patches_per_unit=None,
        queries=latents,
        query_attention_width=depth * inner,
        cross_attention_width=depth * inner,
    )
    patches = (224 // 14) ** 2
    return replace(plain, adapter=(keys, rest), patches_per_token=patches / latents)


def _crossed(language: LanguageModel, top: Fields, visual: int) -> LanguageModel:
    """Return the decoder with a gated cross-attention layer and MLP before every few of its layers."""
    every = top.integer("cross_attn_every_n_layers", default=4)
    heads = Attention(
        top.integer("cross_attn_heads", default=8),
        top.integer("cross_attn_heads", default=8),
        top.integer("cross_attn_head_dim", default=64),
        cross=True,
    )
    hidden, inner = language.hidden_size, heads.query_width
    layer = LayerGroup(
        layers=max(1, language.layers // every),
        attention=heads,
        linear_params=2 * hidden * inner + 8 * hidden**2,
        other_params=4 * hidden + 2,
        activation_values=2 * hidden + 2 * inner + 10 * hidden + 4 * hidden,
        cross_linear_params=2 * visual * inner,
    )
    return replace(language, groups=(*language.groups, layer))
