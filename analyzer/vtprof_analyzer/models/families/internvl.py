"""InternVL: InternViT, pixel shuffle and an MLP before a decoder, in transformers' form and in that of its own code.

``internvl_chat`` configs keep the decoder in ``llm_config``. InternVL3.5-Flash (``flash_mode``) has a second, narrower
projector and a router between them; both projectors run on every tile.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vtprof_analyzer.models.config_defaults import complete
from vtprof_analyzer.models.families import parts
from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.spec import AdapterStage, ModelSpec, Tower
from vtprof_analyzer.models.text.registry import language_model
from vtprof_analyzer.models.vision.registry import encoder, layers_run

_FLASH_NOTE = (
    "the router sends each tile through 256 or 64 tokens by its content: 256 are counted;"
    " image_seq_length in processor_config.json says otherwise (64 is r = 1/16)"
)


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """Turn a config into a spec; raise `DataError` that names the field which is missing or wrong."""
    top = Fields(config)
    chat = top.text("model_type") == "internvl_chat"
    key = "llm_config" if chat else "text_config"
    text = parts.text_section(config, key=key)
    if chat:
        text = Fields(complete(text.values), key)
    vision = _vision(parts.vision_section(config))
    language = language_model(text) if chat else parts.language_model(top, text)
    tower = _with_projector(encoder(vision, _layers(top, vision)), top, language.hidden_size)
    flash = chat and top.first("flash_mode") is not None and top.flag("flash_mode", False)
    if flash:
        tower = _with_router(tower, top, language.hidden_size)
    return ModelSpec(
        model_type=str(config["model_type"]),
        vision=tower,
        language=language,
        dtype=parts.dtype(top, text),
        notes=(_FLASH_NOTE,) if flash else (),
    )


def _vision(section: Fields) -> Fields:
    """Return the tower's section; in early files of its own code it has no type."""
    return Fields({"model_type": "intern_vit_6b", **section.values}, section.path)


def _layers(top: Fields, vision: Fields) -> int:
    selected = top.first("select_layer", "vision_feature_layer")
    if isinstance(selected, bool) or not isinstance(selected, (int, type(None))):
        raise top.fault("vision_feature_layer", "is no layer")
    return layers_run(-1 if selected is None else selected, vision.integer("num_hidden_layers"))


def _shuffle(top: Fields) -> int:
    """Return the patches a side that become one token."""
    ratio = top.number("downsample_ratio", default=0.5)
    if not 1 / 64 <= ratio <= 1.0:
        raise top.fault("downsample_ratio", f"is {ratio:g}; it must be at most 1 and leave a token of a tile")
    return int(1 / ratio)


def _with_projector(tower: Tower, top: Fields, out: int) -> Tower:
    merged = _shuffle(top) ** 2
    width = tower.hidden_size * merged
    stage = AdapterStage(
        linear_params=width * out + out * out,
        other_params=2 * width + 2 * out,
        activation_values=2 * width + width + 3 * out,
        patches_per_unit=float(merged),
    )
    return replace(tower, adapter=(stage,), patches_per_token=float(merged))


def _with_router(tower: Tower, top: Fields, out: int) -> Tower:
    """Add Flash's second projector on squares of sixteen patches, the pooling of a tile to one vector, and the gate."""
    width = tower.hidden_size
    merged = _shuffle(top) ** 4
    narrow = width * merged
    inner = 2 * out
    second = AdapterStage(
        linear_params=narrow * inner + inner * inner + inner * out,
        other_params=2 * narrow + 2 * inner + out,
        activation_values=3 * narrow + 4 * inner + out,
        patches_per_unit=float(merged),
    )
    # One query attends to the tile's patches four times: once with the first attention, three times with the second.
    keys = AdapterStage(2 * width**2, 2 * width, 4 * width)
    query = AdapterStage(2 * width**2, 4 * width, 6 * width, None, queries=1, cross_attention_width=width)
    gate = AdapterStage(
        linear_params=4 * 8 * width**2 + 2 * width,
        other_params=4 * (5 * width + 2 * width) + 2 * width + 2,
        activation_values=4 * 12 * width + 3 * width,
        patches_per_unit=None,
        queries=1,
    )
    thrice = (replace(keys, runs=3), replace(query, runs=3, cross_attention_width=3 * width))
    # Two further attentions are loaded but never called; a learned query.
    idle = 2 * (4 * width**2 + 6 * width) + width
    return replace(
        tower,
        adapter=(*tower.adapter, second, keys, query, *thrice, gate),
        idle_params=tower.idle_params + idle,
    )
