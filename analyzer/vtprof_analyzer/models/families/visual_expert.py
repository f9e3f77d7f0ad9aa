"""CogVLM, CogVLM2, GLM-4V-9B (an EVA2-CLIP-E tower) and InternLM-XComposer2 (CLIP): extra weights for visual tokens.

CogVLM's layers have a second set of matrices that visual tokens use in place of the first; XComposer2 has low-rank
matrices that work on visual tokens beside the others. GLM-4V has the same tower and an ordinary decoder.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vtprof_analyzer.models.config_defaults import complete
from vtprof_analyzer.models.families import parts, text_only
from vtprof_analyzer.models.families.llava import mlp
from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.spec import AdapterStage, LanguageModel, LayerGroup, ModelSpec, Tower, TowerGroup
from vtprof_analyzer.models.vision.vit import Style, build

_EVA_E = {
    "hidden_size": 1792,
    "intermediate_size": 15360,
    "num_hidden_layers": 63,
    "num_heads": 16,
    "patch_size": 14,
    "in_channels": 3,
}
LOW_RANK = "low-rank matrices of visual tokens are counted as weights; the FLOPs that they add are left out"


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """Turn a config of one of these models into a spec; raise `DataError` that names the field at fault."""
    kind, top = str(config["model_type"]), Fields(config)
    if kind == "chatglm":
        if top.section("vision_config") is None:
            return text_only.spec(config)
        text = top
        language = parts.language_model(top, text)
        tower = _glm_4v(top, language.hidden_size)
    elif kind == "cogvlm":
        # Grouped queries of CogVLM2 have a name of their own.
        kv = config.get("num_multi_query_heads") or config.get("num_attention_heads")
        text = Fields(complete({**_flat(config), "model_type": "llama", "num_key_value_heads": kv}))
        language = _with_experts(parts.language_model(top, text), top)
        tower = _cogvlm(top, language.hidden_size, text.integer("intermediate_size"))
    else:
        text = Fields(complete({**_flat(config), "model_type": "internlm2"}))
        language = _with_low_rank(parts.language_model(top, text), top, text.integer("intermediate_size"))
        tower = _xcomposer(top, language.hidden_size)
    return ModelSpec(
        model_type=kind,
        vision=tower,
        language=language,
        dtype=parts.dtype(top, text),
        notes=(LOW_RANK,) if "xcomposer" in kind else (),
    )


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if not isinstance(value, Mapping)}


def _eva(top: Fields) -> tuple[Tower, int]:
    """Return the tower and its patches: norms behind attention and MLP, one table for patches and the class token."""
    section = top.section("vision_config")
    fields = Fields({**_EVA_E, "image_size": 490, **(section.values if section else {})}, "vision_config")
    width, inner = fields.integer("hidden_size"), fields.integer("intermediate_size")
    patch = fields.integer("patch_size")
    patches = max(1, fields.integer("image_size") // patch) ** 2
    values = fields.integer("in_channels") * patch**2
    rows = fields.integer("num_positions", default=patches + 1)
    group = TowerGroup(
        layers=fields.integer("num_hidden_layers"),
        attention_width=width,
        linear_params=4 * width**2 + 2 * width * inner,
        other_params=4 * width + inner + width + 4 * width,
        activation_values=12 * width + 2 * inner,
    )
    tower = Tower(
        hidden_size=width,
        patch_params=values * width,
        patch_values=values,
        groups=(group,),
        adapter=(),
        patches_per_token=1.0,
        class_tokens=1,
        other_params=width + width + rows * width,
    )
    return tower, patches


def _gated(source: int, out: int, inner: int, joined: int) -> AdapterStage:
    """Return a matrix, a norm and a gated MLP without biases, and two learned vectors that end the image."""
    return AdapterStage(
        linear_params=source * out + 3 * out * inner,
        other_params=2 * out + 2 * out,
        activation_values=source + 4 * out + 3 * inner + out,
        patches_per_unit=float(joined),
    )


def _cogvlm(top: Fields, out: int, inner: int) -> Tower:
    tower, _ = _eva(top)
    width = tower.hidden_size
    if top.first("num_multi_query_heads") is None:
        return replace(tower, adapter=(_gated(width, out, inner, 1),))
    joining = AdapterStage(4 * width * width, width, 5 * width, patches_per_unit=4.0)
    return replace(tower, adapter=(joining, _gated(width, out, inner, 4)), patches_per_token=4.0)


def _glm_4v(top: Fields, out: int) -> Tower:
    tower, _ = _eva(top)
    joining = AdapterStage(
        4 * tower.hidden_size * out, out, 4 * tower.hidden_size + out, patches_per_unit=4.0
    )
    gated = _gated(out, out, top.integer("ffn_hidden_size"), 4)
    return replace(tower, adapter=(joining, gated), patches_per_token=4.0)


def _with_experts(language: LanguageModel, top: Fields) -> LanguageModel:
    """Return the decoder with a second set of all matrices; that of CogVLM2 has a bias on queries, keys and values."""
    biased = top.first("num_multi_query_heads") is not None

    def twice(group: LayerGroup) -> LayerGroup:
        attention = group.attention
        bias = attention.query_width + attention.kv_values_read_per_token if biased else 0
        return replace(
            group, visual_linear_params=group.linear_params, other_params=group.other_params + bias
        )

    return replace(language, groups=tuple(twice(group) for group in language.groups))


def _with_low_rank(language: LanguageModel, top: Fields, inner: int) -> LanguageModel:
    rank = top.integer("plora_rank", default=256)
    hidden = language.hidden_size

    def beside(group: LayerGroup) -> LayerGroup:
        attention = group.attention
        qkv = attention.query_width + attention.kv_values_read_per_token
        sides = (hidden + qkv) + (attention.query_width + hidden) + 3 * (hidden + inner)
        return replace(group, visual_linear_params=rank * sides)

    return replace(language, groups=tuple(beside(group) for group in language.groups))


def _xcomposer(top: Fields, out: int) -> Tower:
    """Return CLIP ViT-L/14, all but its last layer, and an MLP; 4KHD joins four patches and ends rows by a vector."""
    side = top.integer("img_size", default=336)
    clip = Fields(
        {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": side,
            "patch_size": 14,
        }
    )
    plain = build(clip, Style(class_token=True, patch_bias=False, pre_norm=True), 23)
    if side != 336:
        return replace(plain, adapter=(mlp(plain.hidden_size, out),))
    joined = 4 * plain.hidden_size
    return replace(
        plain,
        adapter=(mlp(joined, out, per_token=True),),
        patches_per_token=4.0,
        other_params=plain.other_params + 2 * joined,
    )
