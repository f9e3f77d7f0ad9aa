"""Tell what an unpacked input file is from its bytes: OTLP JSON lines, OTLP protobuf or Parquet. Names lie."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, Final, Literal, NamedTuple

from vtprof_analyzer.ingest.framing import CERTAIN, FRAMINGS, Framing, Kind, Messages

_HEAD_BYTES: Final = 64 << 10
_PARQUET: Final = (b"PAR1", b"PARE")
"""The second one is encrypted."""
_DATABASE_AT: Final = 8
_DATABASE: Final = b"DUCK"
"""What every DuckDB file has there."""
_JSON: Final = re.compile(rb'[\xef\xbb\xbf\s\x00]*(?:\{\s*"|\[\s*\{\s*")')
"""A document's begin, after a byte order mark, blanks and padding; no OTLP message begins so."""
_RESOURCE: Final = b'"resource'
_CONTROLS: Final = bytes(range(1, 9)) + bytes(range(14, 32))
_TEXT_RATIO: Final = 0.02
"""Share of control characters from which on bytes are no text: random ones have a tenth."""
_SEARCHED_BYTES: Final = 1 << 20
"""Where the first message has to be found of a file that does not begin with one."""
_WEIGHED_BYTES: Final = 16 << 20
"""Where the messages that begin there have to end, to be weighed: whatever a file is, no more of it is searched."""
_BY_CERTAINTY: Final[tuple[Framing, ...]] = ("length32", "varint", "whole")
"""A search for records without lengths finds those of messages with lengths too."""


class Format(NamedTuple):
    """What a file holds; ``framing`` is how protobuf messages follow one another."""

    kind: Literal["json", "protobuf", "parquet"] | None
    """None: none of these."""
    framing: Framing | None = None


def detect(path: Path, *, framed: bool = False) -> Format:
    """Return the format of an unpacked file; ``framed`` tells that its messages are packed one by one.

    Whatever is text counts as JSON: its reader finds whole documents beside faults. Raises OSError.
    """
    with path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
        if head.startswith(_PARQUET):
            return Format("parquet")
        if begins_database(head):
            return Format(None)
        if _JSON.match(head):
            return Format("json")
        size = os.fstat(stream.fileno()).st_size
        framings: tuple[Framing, ...] = ("length32",) if framed else FRAMINGS
        found = _follow(stream, size, framings, passing=False)
        if framed and found:
            return found
        if not framed and (weighed := _weighed(stream, size, found)):
            return weighed
        if found := _follow(stream, size, framings, passing=True):
            return found
        controls = len(head) - len(head.translate(None, _CONTROLS))
        if not framed and (_RESOURCE in head or controls <= _TEXT_RATIO * len(head)):
            return Format("json")
        # A fault at the begin costs its message, not the file.
        for framing in ("length32",) if framed else _BY_CERTAINTY:
            messages = Messages(stream, size, framing)
            start = messages.next_start(1, _SEARCHED_BYTES)
            if start is not None and (kind := messages.kind(start)):
                return _messages(kind, framing)
    return Format("json" if framed else None)


def begins_database(head: bytes) -> bool:
    """Say whether a file that begins so is a DuckDB database."""
    return head[_DATABASE_AT:].startswith(_DATABASE)


def is_database(path: Path) -> bool:
    """Say whether a file is a DuckDB database. Raises OSError."""
    with path.open("rb") as stream:
        return begins_database(stream.read(_DATABASE_AT + len(_DATABASE)))


def _follow(stream: BinaryIO, size: int, framings: Iterable[Framing], *, passing: bool) -> Format | None:
    """Return the format whose lengths lead from the begin to a message, if ``passing`` over others that are faulty."""
    for framing in framings:
        if kind := Messages(stream, size, framing).kind(passing=passing):
            return _messages(kind, framing)
    return None


def _weighed(stream: BinaryIO, size: int, found: Format | None) -> Format | None:
    """Return the format of which most of the begin is made, or the one that was found where none has more of it.

    Zeros, and a length with a fault, can lead to a message by the wrong framing; it leads to no further ones.
    """
    if found and found.framing == "whole":
        return found
    half = min(size, _SEARCHED_BYTES) / 2
    own = _certain_bytes(stream, size, found.framing) if found and found.framing else 0
    if own >= half:
        return found
    weights = {
        framing: own if found and framing == found.framing else _certain_bytes(stream, size, framing)
        for framing in _BY_CERTAINTY
    }
    best: Framing = "length32" if weights["length32"] >= weights["varint"] else "varint"
    # Without lengths the records of messages that have them are found too.
    if weights["whole"] > 2 * weights[best]:
        best = "whole"
    if weights[best] > (own if found else half):
        messages = Messages(stream, size, best)
        start = messages.next_start(0, _SEARCHED_BYTES)
        if start is not None and (kind := messages.kind(start)):
            return _messages(kind, best)
    return found


def _certain_bytes(stream: BinaryIO, size: int, framing: Framing) -> int:
    """Return how much of the begin of a file is messages that nothing else looks like [B]."""
    messages = Messages(stream, min(size, _WEIGHED_BYTES), framing).between(0, _SEARCHED_BYTES)
    return sum(len(message.data) for message in messages if message.kind in CERTAIN)


def _messages(kind: Kind, framing: Framing) -> Format:
    return Format("json" if kind == "json" else "protobuf", framing)
