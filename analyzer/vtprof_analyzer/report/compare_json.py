"""A comparison as one JSON document (compare.schema.json): the result itself, with what wrote it and the verdict in words.

Finite numbers only; a number that is not known is null. ASCII only, so that no name in it can steer a terminal.
"""

import json
import math
from dataclasses import asdict
from importlib import metadata
from typing import Any, Final

from vtprof_analyzer.regress.comparison import Comparison
from vtprof_analyzer.report.compare_headline import sentence

SCHEMA_VERSION: Final = 1


def render(comparison: Comparison) -> str:
    """Return the document, indented."""
    return json.dumps(document(comparison), indent=2, ensure_ascii=True, allow_nan=False) + "\n"


def document(comparison: Comparison) -> dict[str, Any]:
    """Return the document."""
    told = asdict(comparison)
    told["mde"] = {phase: ratio for phase, ratio in told["mde"].items() if math.isfinite(ratio)}
    from_others = {
        "schema_version": SCHEMA_VERSION,
        "generator": generator(),
        "headline": sentence(comparison),
    }
    return {**from_others, **{name: _finite(part) for name, part in told.items()}}


def generator() -> str:
    """Return the program and its version."""
    return f"vtprof {metadata.version('vtprof')}"


def _finite(part: Any) -> Any:
    """Return the part with null for what is no number."""
    if isinstance(part, float):
        return part if math.isfinite(part) else None
    if isinstance(part, dict):
        return {key: _finite(value) for key, value in part.items()}
    if isinstance(part, (list, tuple)):
        return [_finite(value) for value in part]
    return part
