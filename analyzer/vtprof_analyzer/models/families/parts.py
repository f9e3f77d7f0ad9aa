"""What most families read alike from a composite config: its sections in either form, its data type, the decoder."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from vtprof_analyzer.models.config_defaults import complete
from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.spec import LanguageModel, ModelSpec, Tower, TowerGroup
from vtprof_analyzer.models.text import registry as text_registry
from vtprof_analyzer.models.vision.registry import encoder
from vtprof_analyzer.models.weights import canonical_dtype

_DECODERS = {"kimi_k2": "deepseek_v3"}
"""Decoders that are another one under a name of their own."""
_NAMED = ("hidden_size", "num_hidden_layers", "num_attention_heads")
"""What every flat config names: a default in its place would pass for a size of the model (C14)."""


def text_section(config: Mapping[str, Any], flat_type: str | None = None, key: str = "text_config") -> Fields:
    """Return the text section; of an old flat config its top level, under the model type ``flat_type``.

    Raises `DataError` when there is neither.
    """
    section = Fields(config).section(key)
    if section is None and flat_type is None:
        raise Fields(config).missing(key)
    if section is None:
        flat = {name: value for name, value in config.items() if not name.endswith("_config")}
        for name in _NAMED:
            if flat.get(name) is None:
                raise Fields(config).missing(name)
        return Fields(complete({**flat, "model_type": flat_type}))
    kind = section.text("model_type")
    if kind is None and flat_type is not None:
        return Fields(complete(section.values, flat_type), key)
    return Fields(complete({**section.values, "model_type": _DECODERS.get(kind or "", kind)}), key)


def vision_section(config: Mapping[str, Any], key: str = "vision_config", kind: str | None = None) -> Fields:
    """Return the section of the tower, of model type ``kind`` where one is given; raise `DataError` when there is none."""
    section = Fields(config).section(key)
    if section is None:
        raise Fields(config).missing(key)
    return section if kind is None else Fields(complete({**section.values, "model_type": kind}), key)


def tied(top: Fields, text: Fields) -> bool:
    """Tell whether the output head is the embedding.

    The top level decides; older files have the flag in the text section alone, where a true counts unless it is what
    the section's class has by default.
    """
    inner = text.flag("tie_word_embeddings", False)
    if top.first("tie_word_embeddings") is None:
        return inner
    usual = complete({}, text.text("model_type")).get("tie_word_embeddings") is True
    return top.flag("tie_word_embeddings", False) or (inner and not usual)


def language_model(top: Fields, text: Fields) -> LanguageModel:
    """Return the language model of a text section, its head tied as `tied` says."""
    return text_registry.language_model(text, tied(top, text))


def dtype(top: Fields, *sections: Fields) -> str | None:
    """Return the data type that a config or one of its sections names; None where none does or it is not known."""
    for fields in (top, *sections):
        name = fields.first("dtype", "torch_dtype")
        if isinstance(name, str):
            return canonical_dtype(name)
    return None


def beside(tower: Tower, ratio: float) -> Tower:
    """Return a further tower whose patches are ``ratio`` times those of the tower beside it, by which work is counted."""
    embedding = TowerGroup(1, 0, tower.patch_params, 0, tower.patch_values + tower.hidden_size)
    groups = tuple(
        replace(
            group,
            positions_per_patch=group.positions_per_patch * ratio,
            window_patches=group.window_patches and max(1, round(group.window_patches / ratio)),
        )
        for group in (embedding, *tower.groups)
    )
    adapter = tuple(
        replace(stage, patches_per_unit=stage.patches_per_unit and stage.patches_per_unit / ratio)
        for stage in tower.adapter
    )
    return replace(
        tower,
        patch_params=0,
        patch_values=0,
        groups=groups,
        adapter=adapter,
        patches_per_token=tower.patches_per_token / ratio,
    )


def composite(config: Mapping[str, Any], adapt: Callable[[Tower, Fields, Fields, int], Tower]) -> ModelSpec:
    """Return the spec of a model of one tower and one decoder, each of a type of its own, and an adapter between.

    ``adapt`` gets the tower, the top of the config, its vision section and the decoder's width. Raises `DataError` that
    names the field at fault.
    """
    top, vision, text = Fields(config), vision_section(config), text_section(config)
    language = language_model(top, text)
    return ModelSpec(
        model_type=str(config["model_type"]),
        vision=adapt(encoder(vision), top, vision, language.hidden_size),
        language=language,
        dtype=dtype(top, text),
    )
