"""Which file knows which model type, and the way from a config to a `ModelSpec`."""

import importlib
import json
import reprlib
from collections.abc import Mapping
from typing import Any, Protocol, cast

from vtprof_analyzer.models.spec import ModelSpec
from vtprof_schemas.errors import DataError


class Family(Protocol):
    """What a family's module offers."""

    def spec(self, config: Mapping[str, Any]) -> ModelSpec:
        """Turn a config.json into a spec; raise `DataError` that names the field at fault."""
        ...


FAMILIES: dict[str, str] = {
    "qwen2_vl": "vtprof_analyzer.models.qwen2_vl",
    "qwen2_5_vl": "vtprof_analyzer.models.qwen2_vl",
}
"""Model type to module; a module is imported when it is asked for."""
MOST_PARAMS = 10**15
"""Hundreds of times the largest published models; below it no sum of costs can overflow."""
MOST_KV_VALUES = 2**32
"""Likewise, ten thousand times what a large model leaves in its cache for one token."""


def parse_config(text: str) -> dict[str, Any]:
    """Parse the text of a config.json; raise `DataError` when it is not a JSON object."""
    try:
        config = json.loads(text)
    except ValueError as error:
        raise DataError(f"model config: not JSON ({error}); use the config.json of the model") from None
    except RecursionError:
        raise DataError("model config: nested too deeply; use the config.json of the model") from None
    if not isinstance(config, dict):
        raise DataError(
            f"model config: {type(config).__name__} instead of an object; use the model's config.json"
        )
    return config


def model_type(config: Mapping[str, Any]) -> str | None:
    """Return the model type that a config names, or None."""
    value = config.get("model_type")
    return value if isinstance(value, str) and value else None


def is_known(config: Mapping[str, Any]) -> bool:
    """Tell whether the cost model knows the physics of this config's model type."""
    return model_type(config) in FAMILIES


def load_spec(config: Mapping[str, Any]) -> ModelSpec:
    """Turn a config into a `ModelSpec`; raise `DataError` for an unknown model type or a field at fault."""
    kind = model_type(config)
    if kind is None:
        raise DataError("model config: model_type is missing; use the config.json of the model as published")
    if kind not in FAMILIES:
        raise DataError(
            f"model config: model_type {reprlib.repr(kind)} has no cost model yet; known are {', '.join(sorted(FAMILIES))}"
        )
    spec = cast(Family, importlib.import_module(FAMILIES[kind])).spec(config)
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
    return spec
