"""What breaks in OTLP: edits that know its structure, of a document, of a message's bytes, and of bytes as such."""

import copy
import json
import random
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

from fuzz.documents import BASE_NS, Json, value

_NUMBERS: Final = (
    0, -1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 2**64 + 5, 10**30, 1.5, 1e308, -0.0, "0x1F", "1e18", " 7 ", "٣", "",
)  # fmt: skip
_VALUES: Final = (None, True, [], {}, [[]], "text", "\ud800", "\x00", *_NUMBERS)
_DEPTHS: Final = (5, 60, 1_100, 6_000)
_DEEP_MARK: Final = "nested"
"""Stands in a document for a value so deep that Python cannot handle it as objects."""
_DEEP: Final = re.compile(rf'\{{\s*"{_DEEP_MARK}"\s*:\s*(\d+)\s*\}}')
_LONG: Final = (5_000, 20_000, 300_000)


def nodes(item: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each place of a document as container and key."""
    pairs = item.items() if isinstance(item, dict) else enumerate(item) if isinstance(item, list) else ()
    for key, inner in pairs:
        yield item, key
        yield from nodes(inner)


def _spans(item: Json) -> list[Json]:
    return [
        span
        for resource in item.get("resourceSpans", [])
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
    ]


def _replace(item: Json, dice: random.Random) -> None:
    container, key = dice.choice(list(nodes(item)))
    container[key] = copy.deepcopy(dice.choice(_VALUES))


def _remove(item: Json, dice: random.Random) -> None:
    container, key = dice.choice(list(nodes(item)))
    del container[key]


def _rename(item: Json, dice: random.Random) -> None:
    places = [(container, key) for container, key in nodes(item) if isinstance(container, dict)]
    container, key = dice.choice(places)
    snake = "".join("_" + c.lower() if c.isupper() else c for c in key)
    container[dice.choice((snake, key.upper(), key + "\u0000", "", "value"))] = container.pop(key)


def _graft(item: Json, dice: random.Random) -> None:
    places = list(nodes(item))
    (container, key), (donor, taken) = dice.choice(places), dice.choice(places)
    container[key] = copy.deepcopy(donor[taken])


def _wrap(item: Json, dice: random.Random) -> None:
    container, key = dice.choice(list(nodes(item)))
    container[key] = [container[key]]


def _in_a_span(edit: Callable[[Json, random.Random], None]) -> Callable[[Json, random.Random], None]:
    def apply(item: Json, dice: random.Random) -> None:
        spans = _spans(item)
        if spans:
            edit(dice.choice(spans), dice)
        else:
            _replace(item, dice)

    return apply


def _number(span: Json, dice: random.Random) -> None:
    field = dice.choice(("startTimeUnixNano", "endTimeUnixNano", "kind", "flags"))
    span[field] = dice.choice((*_NUMBERS, str(dice.choice(_NUMBERS)), str(BASE_NS - 1), BASE_NS))


def _identity(span: Json, dice: random.Random) -> None:
    field = dice.choice(("traceId", "spanId", "parentSpanId", "name"))
    span[field] = dice.choice(
        ("", "0" * 32, "0" * 16, "g" * 16, "ab" * 16, "ABCDEF0123456789", "ab", None, 7, [1])
    )


def _own_parent(span: Json, dice: random.Random) -> None:
    span["parentSpanId"] = span["spanId"]


def _attribute(span: Json, dice: random.Random) -> None:
    chosen = dice.choice(span["attributes"]) if span["attributes"] else {"key": "custom"}
    span["attributes"].append(
        {**chosen, "value": value(dice.choice((True, "seven", 10**20, -1, 2.5, [1, "a"])))}
    )


def _nested(span: Json, dice: random.Random) -> None:
    span["attributes"].append({"key": "custom.deep", "value": {_DEEP_MARK: dice.choice(_DEPTHS)}})


def _enormous(span: Json, dice: random.Random) -> None:
    size = dice.choice(_LONG)
    if dice.random() < 0.5:
        span["attributes"].append({"key": "custom.long", "value": {"stringValue": "x" * size}})
    else:
        span["attributes"] += [{"key": f"k{n}", "value": {"intValue": str(n)}} for n in range(size // 100)]


STRUCTURAL: Final = (
    _replace, _remove, _rename, _graft, _wrap,
    *map(_in_a_span, (_number, _identity, _own_parent, _attribute, _nested, _enormous)),
)  # fmt: skip


def edited(item: Json, dice: random.Random) -> Json:
    """Return a copy of a document with one to three edits of its structure."""
    found = copy.deepcopy(item)
    for _ in range(dice.choice((1, 1, 2, 3))):
        if not any(True for _ in nodes(found)):
            break
        try:
            dice.choice(STRUCTURAL)(found, dice)
        except (KeyError, TypeError, AttributeError):
            # An earlier edit has removed what this one looks for.
            _replace(found, dice)
    return found


def text_of(item: Any, dice: random.Random) -> bytes:
    """Return a document as one line of JSON, in one of the ways in which writers spell it."""
    separators = dice.choice(((",", ":"), (",", ":"), (", ", ": "), (" , ", "\t: ")))
    text = json.dumps(item, separators=separators, ensure_ascii=dice.random() < 0.5)
    return _DEEP.sub(lambda found: _nest(int(found[1])), text).encode("utf-8", "surrogatepass")


def _nest(depth: int) -> str:
    return '{"arrayValue":{"values":[' * depth + '{"stringValue":"end"}' + "]}}" * depth


def broken_bytes(data: bytes, dice: random.Random) -> bytes:
    """Return bytes with some flipped, cut out, doubled, inserted, or cut off."""
    found = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 5))):
        at = dice.randrange(len(found) + 1)
        length = dice.choice((1, 2, 8, 64))
        edit = dice.randrange(5)
        if edit == 0 and found:
            found[at % len(found)] ^= 1 << dice.randrange(8)
        elif edit == 1:
            del found[at : at + length]
        elif edit == 2:
            found[at:at] = found[at : at + length]
        elif edit == 3:
            found[at:at] = dice.choice(
                (b"\x00", b"\xff\xfe", b'"', b"{", b"]}", b"\\", b"NaN", dice.randbytes(length))
            )
        else:
            del found[at:]
    return bytes(found)


def unknown_field(dice: random.Random) -> bytes:
    """Return a protobuf field that OTLP does not have, of any wire type, the wrong ones too."""
    number, wire = dice.choice((15, 99, 2**29 - 1)), dice.randrange(8)
    payload = {
        0: varint(dice.getrandbits(dice.choice((7, 63)))), 1: dice.randbytes(8), 2: b"\x03abc", 5: dice.randbytes(4),
    }.get(wire, dice.randbytes(3))  # fmt: skip
    return varint(number << 3 | wire) + payload


def varint(number: int) -> bytes:
    """Return a number as protobuf's varint."""
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])
