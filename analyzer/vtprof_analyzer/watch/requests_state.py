"""Requests as plain JSON, bit by bit: numbers as packed columns, texts as they are."""

import base64
import zlib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final

import numpy as np

from vtprof_analyzer.regress.requests import Requests

_INTEGERS: Final = ("start_ns", "model")
_FLOATS: Final = tuple(one.name for one in fields(Requests) if one.name not in ("ids", "models", *_INTEGERS))


def packed(requests: Requests) -> dict[str, Any]:
    """Return requests as plain JSON."""
    numbers = np.concatenate(
        [getattr(requests, name).astype("<i8").view("<f8") for name in _INTEGERS]
        + [getattr(requests, name).astype("<f8") for name in _FLOATS]
    )
    return {
        "ids": [str(one) for one in requests.ids.tolist()],
        "models": list(requests.models),
        "columns": [*_INTEGERS, *_FLOATS],
        "numbers": base64.b64encode(zlib.compress(numbers.tobytes(), 1)).decode("ascii"),
    }


def unpacked(state: Mapping[str, Any]) -> Requests:
    """Return the requests of `packed`; raises ValueError, KeyError or TypeError where it is none."""
    ids, names = [str(one) for one in state["ids"]], [str(one) for one in state["columns"]]
    if names != [*_INTEGERS, *_FLOATS]:
        raise ValueError("requests with other columns")
    try:
        # No more is unpacked than the columns hold.
        inflate = zlib.decompressobj()
        raw = inflate.decompress(
            base64.b64decode(state["numbers"], validate=True), 8 * len(ids) * len(names) + 1
        )
    except zlib.error as error:
        raise ValueError(f"packed requests: {error}") from error
    if len(raw) != 8 * len(ids) * len(names):
        raise ValueError("packed requests of another length")
    numbers = np.frombuffer(raw, "<f8").reshape(len(names), len(ids)).copy()
    columns: dict[str, Any] = dict(zip(names, numbers, strict=True))
    columns |= {name: columns[name].view("<i8").astype(np.int64) for name in _INTEGERS}
    models = tuple(str(one) for one in state["models"])
    model = columns["model"]
    if len(ids) and (model.min() < 0 or model.max() >= len(models)):
        raise ValueError("packed requests of a model without a name")
    return Requests(ids=np.array(ids, dtype=str), models=models, **columns)
