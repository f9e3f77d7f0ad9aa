"""Where the attributes of a span go, planned once for each shape: a kind of span with its keys and value types in order.

Recorders write few shapes, so that values are taken by their place in the list and no key is looked up span by span.
"""

import re
from collections.abc import Collection, Sequence
from functools import cache
from typing import Final, NamedTuple

from vtprof_analyzer.ingest import dialects
from vtprof_analyzer.ingest.columns import COUNTERS, KNOWN_KEYS, SPAN_ATTRIBUTES
from vtprof_schemas import names

OTHER, INT, DOUBLE, STRING = range(4)
"""The slot of an attribute that holds its value."""
_SLOTS: Final = {
    names.INT: (INT,),
    # Exporters write a double that is whole as an int.
    names.DOUBLE: (DOUBLE, INT),
    names.STRING: (STRING,),
}


class Plan(NamedTuple):
    """What becomes of each attribute of a shape; places count from 1."""

    places: dict[str, int]
    """Place of each column's attribute."""
    rest: list[int]
    """Places of the attributes without a column."""
    unknown: list[str]
    """Keys outside the vocabulary."""
    mistyped: bool
    """A column's attribute has a value of another type."""


@cache
def _columns(kind: str) -> dict[str, tuple[str, str]]:
    """Return the column and type of each key that a kind of span carries."""
    foreign = {dialects.VLLM: dialects.VLLM_KEYS, dialects.SGLANG: dialects.SGLANG_KEYS}
    columns = {key.key: (key.column, key.type) for key in foreign.get(kind, ())}
    groups = {"phase"}
    if kind == names.SPAN_REQUEST:
        groups.add("request")
    if kind in (names.SPAN_STEP, names.SPAN_WINDOW):
        groups.add("step")
    groups.update(phase for phase, span in names.PHASE_SPANS.items() if span == kind)
    for attribute in SPAN_ATTRIBUTES:
        own = kind in names.SPANS and attribute.where in groups
        if own or attribute.key.startswith(COUNTERS):
            columns[attribute.key] = (attribute.column, attribute.type)
    return columns


def _is_sglang(name: str) -> bool:
    patterns = (dialects.SGLANG_ROOT, dialects.SGLANG_THREAD)
    return name in dialects.SGLANG_PHASES or any(re.fullmatch(pattern, name) for pattern in patterns)


def keys_with_column(name: str) -> Collection[str]:
    """Return the keys whose values a span of this name has columns for; none for spans of other tools."""
    if name in names.SPANS:
        return _columns(name)
    if name == dialects.VLLM_REQUEST_SPAN:
        return _columns(dialects.VLLM)
    return _columns(dialects.SGLANG) if _is_sglang(name) else ()


def plan(kind: str, keys: Sequence[str | None], slots: Sequence[int]) -> Plan:
    """Return where the attributes of one shape go; of a repeated key the first one counts."""
    columns = _columns(kind)
    places: dict[str, int] = {}
    rest: list[int] = []
    mistyped = False
    for place, (key, slot) in enumerate(zip(keys, slots, strict=True), start=1):
        column, type_ = columns.get(key or "", (None, ""))
        if column is None or column in places:
            rest.append(place)
        else:
            places[column] = place
            mistyped |= slot not in _SLOTS[type_]
    unknown = [key for place in rest if (key := keys[place - 1]) is not None and key not in KNOWN_KEYS]
    return Plan(places, rest, unknown, mistyped)
