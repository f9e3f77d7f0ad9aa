"""The bundled models: facts of released checkpoints, found by the name that users say.

One JSON file of `catalogue/` holds a group of models: name to the ids of its checkpoints, where its numbers come from, and
the fields of its config files that set sizes and token counts. Nothing is downloaded.
"""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vtprof_analyzer.models import names
from vtprof_analyzer.models.config_defaults import complete
from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.original_llava import is_original


@dataclass(frozen=True)
class Bundled:
    """One released model."""

    name: str
    ids: tuple[str, ...]
    """Names of its checkpoints on the hub."""
    source: str
    confidence: str
    params: float | None
    """Parameters as published; None where no number is."""
    values: Mapping[str, Any]

    @property
    def files(self) -> ModelFiles:
        """Return its config files as they would be read from a folder."""
        config, image, video, processor = (
            self.values.get(key) for key in ("config", "preprocessor", "video_preprocessor", "processor")
        )
        return ModelFiles(self.name, config, image, video, processor, bundled=True)


@functools.cache
def bundled_models() -> tuple[Bundled, ...]:
    """Return all bundled models, group by group in the order of their files."""
    files = sorted((Path(__file__).parent / "catalogue").glob("*.json"))
    return tuple(
        _bundled(name, values)
        for file in files
        for name, values in json.loads(file.read_text("utf-8")).items()
    )


def _bundled(name: str, values: Mapping[str, Any]) -> Bundled:
    billions = values.get("params_b")
    params = values.get("params") or (billions * 1e9 if billions else None)
    return Bundled(name, tuple(values.get("ids", ())), values["source"], values["confidence"], params, values)


def find_bundled(name: str) -> Bundled | None:
    """Return the model of this name or checkpoint id, however written; None when there is none, or no single one.

    A checkpoint's organisation, its tuning (``-Instruct``, ``-it``), date and quantisation (``-AWQ``, ``-FP8``) may be
    there or not: token counts and numbers of parameters are the same.
    """
    exact = exactly(name)
    if exact is not None:
        return exact
    said = names.bare(name)
    for plain in dict.fromkeys((said, names.unquantised(said))):
        for shorter in dict.fromkeys((plain, names.untuned(plain), names.undated(plain))):
            model = known_keys().get(names.key(shorter))
            if model is not None:
                return model
    return None


def exactly(name: str) -> Bundled | None:
    """Return the model of this very name or checkpoint id, in any case: by far the cheapest to tell."""
    said = name.strip().lower()
    return next(
        (m for m in bundled_models() if said in (m.name.lower(), *(id_.lower() for id_ in m.ids))), None
    )


def is_variant(name: str) -> bool:
    """Tell whether a name that `find_bundled` knows is that of quantised weights which are not bundled as such."""
    said = names.bare(name)
    return names.unquantised(said) != said and names.key(said) not in known_keys()


@functools.cache
def known_keys() -> Mapping[names.Key, Bundled]:
    """Return the models by all keys of their names and ids.

    Names and ids as they are go before those without tuning, and these leave out what stands for a whole series:
    ``SmolVLM-Instruct`` is one model, of ``SmolVLM`` there are three.
    """
    known: dict[names.Key, Bundled] = {}
    series: dict[tuple[str, ...], set[str]] = {}
    for model in bundled_models():
        for called in (model.name, *model.ids):
            for found in names.keys(names.bare(called)):
                known.setdefault(found, model)
                series.setdefault(found.words, set()).add(model.name)
    for model in bundled_models():
        for called in (model.name, *model.ids):
            for found in names.keys(names.untuned(names.bare(called))):
                if found.sizes or len(series.get(found.words, {model.name}) | {model.name}) == 1:
                    known.setdefault(found, model)
    return known


def published_processor(config: Mapping[str, Any]) -> Bundled | None:
    """Return a bundled model of the same type whose processor config can stand in for one that is missing.

    Released models of a family differ in their limits: one with the same tower and width is taken before one of the type
    alone, and one whose images have another size not at all. The original LLaVA projects say everything in config.json:
    a processor config of another form would tell nothing of them.
    """
    if is_original(config):
        return None
    wanted = _sizes(config)
    best: tuple[int, Bundled] | None = None
    for model in bundled_models():
        known = model.values.get("config") or {}
        if known.get("model_type") != config.get("model_type") or not model.files.has_processor:
            continue
        sizes = _sizes(known)
        if sizes[0] != wanted[0]:
            continue
        alike = sum(one == other for one, other in zip(sizes[1:], wanted[1:], strict=True))
        if best is None or alike > best[0]:
            best = (alike, model)
    return best[1] if best else None


def _sizes(config: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return image size, tower and text widths of a config, defaults filled in."""
    whole = complete(config)
    vision, text = (whole.get(key) for key in ("vision_config", "text_config"))
    vision = vision if isinstance(vision, Mapping) else {}
    text = text if isinstance(text, Mapping) else whole
    size = vision.get("image_size", whole.get("image_size"))
    return (
        tuple(size) if isinstance(size, list) else size,
        vision.get("hidden_size"),
        text.get("hidden_size"),
        text.get("num_hidden_layers"),
    )


_SERIES_SHOWN = 8
_TELLING = 3
"""Letters from which the beginning of a name tells a series."""


def suggest_models(name: str, limit: int = 4) -> list[str]:
    """Return bundled names that may have been meant: the sizes of that series, else those most alike, best first."""
    import difflib  # only for what is not found

    said = names.undated(names.unquantised(names.bare(name.rpartition("/")[2])))
    wanted = names.key(said)
    begin = " ".join(wanted.words)
    if len(begin) >= _TELLING:
        ranked: list[tuple[bool, bool, str]] = []
        for model in bundled_models():
            ways = names.keys(names.bare(model.name))
            if any(" ".join(way.words).startswith(begin) for way in ways):
                other_size = not any(set(wanted.sizes) & set(way.sizes) for way in ways)
                longer = all(way.words != wanted.words for way in ways)
                ranked.append((other_size, longer, model.name))
        if ranked:
            return [known for *_, known in sorted(ranked, key=lambda rank: rank[:2])][:_SERIES_SHOWN]
    known = {model.name.lower(): model.name for model in bundled_models()}
    return [known[near] for near in difflib.get_close_matches(said, known, limit, 0.5)]
