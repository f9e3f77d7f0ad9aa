"""Which file knows which model type, and the way from a config to a `ModelSpec` and to a token `Counter`."""

import importlib
import re
import reprlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol, cast

from vtprof_analyzer.models.config_defaults import complete
from vtprof_analyzer.models.config_file import parse_object
from vtprof_analyzer.models.files import (
    PREPROCESSOR_FILE,
    PROCESSOR_FILE,
    VIDEO_PREPROCESSOR_FILE,
    ModelFiles,
)
from vtprof_analyzer.models.known import ARCHITECTURES, FAMILIES, PROCESSORS, TOKEN_RULES
from vtprof_analyzer.models.original_llava import is_original
from vtprof_analyzer.models.spec import ModelSpec
from vtprof_analyzer.models.tokens.item import Counter
from vtprof_analyzer.models.weights import Quantization, quantization
from vtprof_schemas.errors import DataError

_FAMILIES = "vtprof_analyzer.models.families"
_TOKENS = "vtprof_analyzer.models.tokens"


class Family(Protocol):
    """What a family's module offers."""

    def spec(self, config: Mapping[str, Any]) -> ModelSpec:
        """Turn a config.json, its defaults filled in, into a spec; raise `DataError` that names the field at fault."""
        ...


class TokenRule(Protocol):
    """What a token rule's module offers."""

    def counter(self, files: ModelFiles) -> Counter:
        """Read the processor configs; raise `DataError` that names the field at fault."""
        ...


_TIED_BY_DECODER = frozenset({"internvl", "mistral3", "lighton_ocr"})
"""Types whose released files are silent on tying and mean what their decoder's class does, against their own class."""
_TEXT_SECTIONS = ("text_config", "llm_config", "language_config")
MOST_PARAMS = 10**15
"""Hundreds of times the largest published models; below it no sum of costs can overflow."""
MOST_KV_VALUES = 2**32
"""Likewise, ten thousand times what a large model leaves in its cache for one token."""


def parse_config(text: str) -> dict[str, Any]:
    """Parse the text of a config.json; raise `DataError` when it is not a JSON object."""
    try:
        return parse_object(text)
    except DataError as error:
        raise DataError(f"model config: {error}") from error


def model_type(config: Mapping[str, Any]) -> str | None:
    """Return the model type that a config names, itself or by its class, or None."""
    value = config.get("model_type")
    if isinstance(value, str) and value:
        return value
    classes = config.get("architectures")
    named = classes[0] if isinstance(classes, list) and classes else None
    return ARCHITECTURES.get(named) if isinstance(named, str) else None


def is_known(config: Mapping[str, Any]) -> bool:
    """Tell whether the cost model knows the physics of this config's model type without guessing."""
    from vtprof_analyzer.models.text.registry import is_text

    kind = model_type(config)
    return kind is not None and (kind in FAMILIES or is_text(kind))


def is_text_only(config: Mapping[str, Any]) -> bool:
    """Tell whether a config is that of a language model without a tower."""
    from vtprof_analyzer.models.text.registry import is_text

    kind = model_type(config)
    return kind is not None and kind not in FAMILIES and is_text(kind) and not _sections(config)


def load_spec(config: Mapping[str, Any]) -> ModelSpec:
    """Turn a config into a `ModelSpec`; raise `DataError` for an unknown model type or a field at fault.

    A model type without a file of its own is put together from its sections where both are of a known kind, and its
    notes say so.
    """
    kind = model_type(config)
    if kind is None:
        raise DataError("model config: model_type is missing; use the config.json of the model as published")
    whole = {**complete(config), "model_type": kind}
    given = config.get("text_config")
    text = given if isinstance(given, Mapping) else {}
    silent = given is not None and "tie_word_embeddings" not in config
    if silent and (kind in _TIED_BY_DECODER or "tie_word_embeddings" in text):
        # What the file says of its decoder goes before what the class around it has by default.
        whole["tie_word_embeddings"] = text.get("tie_word_embeddings")
    if kind in FAMILIES:
        family = cast(Family, importlib.import_module(f"{_FAMILIES}.{FAMILIES[kind]}"))
        spec = family.spec(whole)
    elif is_text_only(config):
        from vtprof_analyzer.models.families import text_only

        spec = text_only.spec(whole)
    elif _sections(whole):
        from vtprof_analyzer.models.families import generic

        spec = generic.spec(whole)
    else:
        raise DataError(
            f"model config: model_type {reprlib.repr(kind)} has no cost model yet, and no text_config and vision_config"
            " to put one together from; give a model of a known type, or a bundled name (--list-models)"
        )
    _check(spec)
    return replace(spec, notes=(*spec.notes, *spec.language.notes), quantization=_quantization(config))


def _quantization(config: Mapping[str, Any]) -> Quantization | None:
    """Return the quantisation of the weights: of the whole file, or where it says nothing of its text section."""
    sections = [config, *(config[key] for key in _TEXT_SECTIONS if isinstance(config.get(key), Mapping))]
    named = [
        section["quantization_config"]
        for section in sections
        if section.get("quantization_config") is not None
    ]
    return quantization(named[0]) if named else None


def load_counter(files: ModelFiles) -> Counter:
    """Return the token rule of a model; raise `DataError` for a model without one and for a field at fault."""
    kind = counted_type(files)
    if kind in TOKEN_RULES:
        module = TOKEN_RULES[kind]
        _note_mixed(files, kind)
    elif files.config is not None and is_text_only(files.config):
        raise DataError(
            f"{files.name}: {kind} is a text-only model and takes no media; give a vision-language model's folder"
        )
    else:
        module = "patches"
    return cast(TokenRule, importlib.import_module(f"{_TOKENS}.{module}")).counter(files)


_SHARED = {
    "aya_vision": ("GotOcr2ImageProcessor", "GotOcr2ImageProcessorFast"),
    "llava": ("PixtralProcessor", "PixtralImageProcessor", "PixtralImageProcessorFast"),
}
"""Token rule to classes of another one's that its published models name."""


def _note_mixed(files: ModelFiles, kind: str) -> None:
    """Note which processor configs name the class of another family than the config's; of unknown classes nothing."""
    # The original LLaVA projects say everything in config.json.
    if files.config is None or is_original(files.config):
        return
    places: list[tuple[list[str], str, Any]] = [(files.assumed, PROCESSOR_FILE, files.processor)]
    for notes, part, file, own in (
        (files.assumed, "image_processor", PREPROCESSOR_FILE, files.preprocessor),
        (files.assumed_of["video"], "video_processor", VIDEO_PREPROCESSOR_FILE, files.video_preprocessor),
    ):
        nested = (files.processor or {}).get(part)
        # Beside a nested one the file of its own is left from an older save.
        places.append((notes, file, own) if nested is None else (notes, PROCESSOR_FILE, nested))
    rule, said = TOKEN_RULES[kind], set[str]()
    for notes, file, values in places:
        for key in ("processor_class", "image_processor_type", "video_processor_type"):
            name = values.get(key) if isinstance(values, Mapping) else None
            other = _class_rule(name) if isinstance(name, str) else None
            if other not in (None, rule) and name not in _SHARED.get(rule, ()) and file not in said:
                said.add(file)
                notes.append(
                    f"{file} is {name}'s, the config's model_type is {kind}: the counts mix two families"
                )


def _class_rule(name: str) -> str | None:
    """Return the token rule of a processor's class, or of the class that an image or video processor is part of."""
    part = re.fullmatch(r"(\w+?)(Image|Video)?Processor(Fast|Pil)?", name)
    kinds = [PROCESSORS.get(name), part and PROCESSORS.get(f"{part[1]}Processor")]
    return next((TOKEN_RULES.get(kind) for kind in kinds if kind), None)


def counted_type(files: ModelFiles) -> str:
    """Return the model type by which tokens are counted: the config's, or that of the processor's class."""
    if files.config is not None:
        kind = model_type(files.config)
        if kind is None:
            raise DataError(
                f"{files.name}: config.json has no model_type; use the file of the model as published"
            )
        return kind
    for part in (files.processor, files.preprocessor, files.video_preprocessor):
        name = (part or {}).get("processor_class")
        if isinstance(name, str) and name in PROCESSORS:
            return PROCESSORS[name]
    raise DataError(
        f"{files.name}: without config.json, and with no processor_class that is known, the model's family cannot be told;"
        " put its config.json there"
    )


def _sections(config: Mapping[str, Any]) -> list[str]:
    """Return the sections of a config that describe towers."""
    towers = ("vision_config", "audio_config", "vision_tower", "mm_vision_tower", "visual")
    return [key for key in towers if config.get(key) is not None]


def _check(spec: ModelSpec) -> None:
    kv_values = sum(group.layers * group.attention.kv_values_per_token for group in spec.language.groups)
    for product, limit, what in (
        (spec.params.total, MOST_PARAMS, "parameters"),
        (kv_values, MOST_KV_VALUES, "KV values a token"),
    ):
        if product > limit:
            raise DataError(
                f"model config: its sizes multiply to {product:.1e} {what}, more than any model has;"
                " use the config.json of the model as published"
            )
