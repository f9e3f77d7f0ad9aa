"""Ovis and Ovis2: each patch becomes a distribution over a visual vocabulary, which weighs the rows of an embedding table.

Both forms are read: that of transformers, and that of the remote code with ``visual_tokenizer_config`` and ``llm_config``.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vtprof_analyzer.models.config_defaults import complete
from vtprof_analyzer.models.families import parts
from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.spec import AdapterStage, ModelSpec, Tower
from vtprof_analyzer.models.vision.registry import encoder
from vtprof_analyzer.models.vision.vit import Style, build

INDICATORS = 5
"""Rows of the table that stand for tags: no patch becomes one of them."""


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """Turn a config of Ovis or Ovis2 into a spec; raise `DataError` that names the field which is missing or wrong."""
    kind, top = str(config["model_type"]), Fields(config)
    if kind == "ovis2":
        vision, text = parts.vision_section(config), parts.text_section(config)
        bias = vision.flag("qkv_bias", False)
        style = Style(
            rms=True,
            pre_norm=True,
            query_bias=bias,
            key_bias=bias,
            value_bias=bias,
            out_bias=bias,
            mlp_bias=vision.flag("mlp_bias", False),
            gated=True,
        )
        tower, visual = build(vision, style, None), vision
        indicators = vision.integer("num_visual_indicator_tokens", default=INDICATORS, minimum=0)
    else:
        text = parts.text_section(config, key="llm_config")
        visual = parts.vision_section(config, "visual_tokenizer_config")
        tower, indicators = _backbone(visual), INDICATORS
    language = parts.language_model(top, text)
    if top.flag("disable_tie_weight", False):
        language = replace(language, tied_embeddings=False)
    if kind == "ovis2" and not language.tied_embeddings:
        # A head of its own has as many rows as the top of the file says, not the text section.
        language = replace(language, head_vocab_size=top.integer("vocab_size", default=language.vocab_size))
    rows = visual.integer("vocab_size", default=16384)
    if rows <= indicators:
        raise visual.fault("vocab_size", f"is {rows}, no more than its {indicators} indicators")
    stride = visual.integer("hidden_stride", default=1)
    width, out = tower.hidden_size * stride**2, language.hidden_size
    head = rows - indicators
    stage = AdapterStage(
        linear_params=width * head + rows * out,
        other_params=2 * head,
        activation_values=width + 4 * rows + out,
        patches_per_unit=float(stride**2),
    )
    return ModelSpec(
        model_type=kind,
        vision=replace(tower, adapter=(stage,), patches_per_token=float(stride**2)),
        language=language,
        dtype=parts.dtype(top, text),
    )


def _backbone(visual: Fields) -> Tower:
    """Return the tower of a remote-code config, which names another project's class for the same layers."""
    section = visual.section("backbone_config")
    if section is None:
        raise visual.missing("backbone_config")
    kind = section.text("model_type") or ""
    alone = {"use_head": False, "vision_use_head": False, "is_native": False}
    named = "aimv2_vision_model" if kind.startswith("aimv2") else kind
    return encoder(Fields(complete({**alone, **section.values, "model_type": named}), section.path))
