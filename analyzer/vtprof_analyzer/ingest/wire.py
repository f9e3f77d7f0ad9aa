"""Look at protobuf bytes without parsing them: where fields stand, and which OTLP signal a message carries.

OTLP's requests have the same outer form for every signal, and a parser takes one for the other: what tells them apart
are the fields of the innermost items (opentelemetry-proto: trace.proto, metrics.proto, logs.proto, profiles.proto).
"""

from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

Signal = Literal["traces", "metrics", "logs", "profiles", "empty"]

_VARINT: Final = 0
_I64: Final = 1
_LEN: Final = 2
_I32: Final = 5
_VARINT_BYTES: Final = 10
_FIXED_BYTES: Final = {_I64: 8, _I32: 4}
_DEPRECATED: Final = 1000
"""Field of `ResourceSpans` and its like until 0.15: instrumentation libraries."""
_ITEMS_LOOKED_AT: Final = 16


class Field(NamedTuple):
    """One field of a message: its number, wire type, and where its content stands."""

    number: int
    wire: int
    begin: int
    end: int


def varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    """Return the number at ``position`` and where it ends. Raises ValueError when there is none."""
    value = 0
    for shift in range(_VARINT_BYTES):
        if position >= end:
            break
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return value, position
    raise ValueError("no varint")


def fields(data: bytes, position: int, end: int) -> Iterator[Field]:
    """Yield the fields of the message between two positions. Raises ValueError where the bytes are no message."""
    while position < end:
        tag, position = varint(data, position, end)
        number, wire = tag >> 3, tag & 7
        begin = position
        if wire == _VARINT:
            _, position = varint(data, position, end)
        elif wire == _LEN:
            length, begin = varint(data, position, end)
            position = begin + length
        elif wire in _FIXED_BYTES:
            position += _FIXED_BYTES[wire]
        else:
            raise ValueError("a wire type that nobody writes")
        if not number or position > end:
            raise ValueError("a field beyond the end")
        yield Field(number, wire, begin, position)


def signal_of(message: bytes) -> Signal | None:
    """Return what an OTLP request carries; None when the bytes are none.

    Fields that OTLP does not have yet are passed over, as protobuf wants it, where an item tells that this is OTLP.
    """
    try:
        return _signal(message)
    except ValueError:
        return None


def _signal(message: bytes) -> Signal | None:
    profiles = strange = False
    looked = 0
    found: Signal = "empty"
    for entry in fields(message, 0, len(message)):
        if entry.wire != _LEN or entry.number > 2:
            strange = True
            continue
        if strange:
            return None  # later fields come last: these are the bytes of something else
        if entry.number == 2:
            profiles = True  # the dictionary, which only profiles have
            continue
        for scope in fields(message, entry.begin, entry.end):
            if scope.number == _DEPRECATED:
                continue
            if scope.wire != _LEN or scope.number > 3:
                strange = True
                continue
            if scope.number != 2 or found != "empty" or looked >= _ITEMS_LOOKED_AT:
                continue
            for item in fields(message, scope.begin, scope.end):
                if item.wire != _LEN or item.number > 3:
                    strange = True
                    continue
                if item.number == 2:
                    looked += 1
                    found = _signal_of_item(message, item) or found
                    if found != "empty" or looked >= _ITEMS_LOOKED_AT:
                        break
    # Items there were, and none of them is one; or nothing is there but what OTLP does not have.
    if found == "empty" and (looked or strange):
        return "profiles" if profiles and not strange else None
    return "profiles" if profiles else found


def _signal_of_item(message: bytes, item: Field) -> Signal | None:
    """Return what a span, metric or log record is; None where its fields do not tell."""
    seen = {(f.number, f.wire): f for f in fields(message, item.begin, item.end)}
    if (7, _I64) in seen or (8, _I64) in seen:
        return "traces"  # start and end
    if (1, _I64) in seen or (11, _I64) in seen:
        return "logs"  # time, and time of observation
    first, second = seen.get((1, _LEN)), seen.get((2, _LEN))
    if first is None:
        return "traces" if (5, _LEN) in seen else None
    ids = second is not None and (first.end - first.begin, second.end - second.begin) == (16, 8)
    gauge = seen.get((5, _LEN))
    points = (
        (7, _LEN) in seen or (10, _LEN) in seen or (gauge and message[gauge.begin : gauge.end][:1] == b"\n")
    )
    return "traces" if ids and not points else "metrics"
