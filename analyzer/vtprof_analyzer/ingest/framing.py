"""Cut a file of OTLP protobuf into its messages, in bounded memory; a fault costs its message.

Three framings are read. ``length32``: a 4-byte big-endian length before each message (the Collector's file exporter
with ``format: proto``). ``varint``: a varint length (``writeDelimitedTo`` of the protobuf libraries). ``whole``: one
request, or several on end, without lengths; each of its top-level records is a valid request of its own and is read
as one. Each message may be compressed on its own, as the Collector does it with zstd.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, Final, Literal, NamedTuple

from vtprof_analyzer.ingest.lines import MAX_LINE_BYTES, is_packed, unpack_message
from vtprof_analyzer.ingest.wire import Signal, signal_of, varint

Framing = Literal["length32", "varint", "whole"]
Kind = Signal | Literal["json"]
FRAMINGS: Final[tuple[Framing, ...]] = ("whole", "length32", "varint")

MAX_MESSAGE_BYTES: Final = MAX_LINE_BYTES
"""Longest message that is read, unpacked: a parser holds it whole."""
MAX_NOTES_PER_FILE: Final = 20
_LENGTH: Final = struct.Struct(">I")
_HEADER_BYTES: Final = 11
_JSON: Final = re.compile(rb'[\s\[]*\{\s*"resource')
_BEGIN: Final = b"\n"
"""Field 1, with a length: how every OTLP request begins."""
_INNER_BEGINS: Final = (b"\n", b"\x12", b"\x1a", b"\xc2", b"")
"""How the first record of a request begins: resource, scopes, schema, or what preceded scopes; or past the window."""
CERTAIN: Final = ("traces", "metrics", "logs", "json")
"""What nothing else looks like."""
_PROBED_MESSAGES: Final = 64
_WINDOW_BYTES: Final = 1 << 20
_BEGINS: Final = rb"(?:\n|\x28\xb5\x2f\xfd|\x1f\x8b\x08)"
"""Of a message, plain or packed with zstd or gzip."""
_CANDIDATES: Final = {
    "length32": re.compile(rb"(?s)(?=[\x00-\x0f]..." + _BEGINS + rb")"),
    "varint": re.compile(rb"(?=[\x80-\xff]{0,4}[\x01-\x7f]" + _BEGINS + rb")"),
    "whole": re.compile(rb"(?=\n)"),
}


class Message(NamedTuple):
    """One message of a file, or what stands in its place."""

    position: int
    """Where it begins in the file, its length included."""
    data: bytes
    kind: Kind | None
    """None: it cannot be used, and ``fault`` says why."""
    fault: str = ""
    packed: bool = False
    """It begins as packed data does: the length before it is to be trusted, whatever its own is."""


@dataclass
class MessageCounts:
    """What was met in the messages of one file."""

    messages: int = 0
    dropped_messages: int = 0
    dropped_spans: int = 0
    ignored_signals: int = 0
    notes: list[str] = field(default_factory=list)
    fault: str | None = None
    """Why reading stopped early."""

    def note(self, what: str) -> None:
        """Remember a fault for the report; past a bound only the counts grow."""
        if len(self.notes) < MAX_NOTES_PER_FILE:
            self.notes.append(what)

    def add(self, other: "MessageCounts") -> None:
        """Take in what another part of the same file had."""
        self.messages += other.messages
        self.dropped_messages += other.dropped_messages
        self.dropped_spans += other.dropped_spans
        self.ignored_signals += other.ignored_signals
        self.fault = self.fault or other.fault
        for what in other.notes:
            self.note(what)


class _Frame(NamedTuple):
    start: int
    """Where the length stands,"""
    begin: int
    """the message's bytes,"""
    end: int
    """and the next message."""


def _frame(head: bytes, start: int, framing: Framing) -> _Frame:
    """Return the frame that begins with ``head``, which stands at ``start``. Raises ValueError where none does."""
    if framing == "length32":
        if len(head) < _LENGTH.size:
            raise ValueError("no length")
        begin = start + _LENGTH.size
        return _Frame(start, begin, begin + _LENGTH.unpack_from(head)[0])
    if framing == "varint":
        length, used = varint(head, 0, len(head))
        return _Frame(start, start + used, start + used + length)
    if head[:1] != _BEGIN:
        raise ValueError("no record")
    length, used = varint(head, 1, len(head))
    return _Frame(start, start, start + used + length)


class Messages:
    """The messages of a file, by position, up to a size that is fixed: its writer may go on."""

    def __init__(self, stream: BinaryIO, size: int, framing: Framing) -> None:
        self._stream = stream
        self._size = size
        self._framing = framing

    def kind(self, position: int = 0, *, passing: bool = True) -> Kind | None:
        """Return what the first certain message is, where lengths lead to one; None where the framing is another.

        Unless ``passing``, they have to lead there over messages that can be used.
        """
        for _ in range(_PROBED_MESSAGES):
            frame = self._at(position)
            if frame is None:
                break
            kind = self._read_frame(frame).kind
            if kind in CERTAIN:
                return kind
            if kind is None and not passing:
                break
            position = frame.end
        return None

    def between(self, begin: int, stop: int) -> Iterator[Message]:
        """Yield the messages that begin from ``begin`` to before ``stop``."""
        position = after = begin
        while position < min(stop, self._size):
            frame = self._at(position)
            message = self._read_frame(frame) if frame else None
            if frame and message and (message.kind or self._leads_on(frame.end)):
                yield message
                after, position = frame.begin, frame.end
                continue
            # The length is not to be trusted, nor the one before: packed data can be followed by zeros, and so a length
            # that is a little too large take the first bytes of the next one.
            found = self.next_start(max(after, position - _LENGTH.size) + 1)
            what = "the last message ends early" if found is None and frame is None else "no OTLP message"
            lost = (self._size if found is None else found) - position
            if lost > 0:
                yield Message(position, b"", None, f"{what}; {lost} bytes from byte {position} on left out")
            if found is None:
                return
            position = found

    def next_start(self, position: int, stop: int | None = None) -> int | None:
        """Return where the first message begins, from ``position`` on, that is certain to be one.

        The search ends at ``stop``, or up to a MiB after it.
        """
        while position < min(self._size if stop is None else stop, self._size):
            window = self._read(position, position + _WINDOW_BYTES + _HEADER_BYTES)
            for match in _CANDIDATES[self._framing].finditer(window):
                at = match.start()
                if at >= _WINDOW_BYTES:
                    break
                frame = self._candidate(window, at, position)
                if frame and self._read_frame(frame).kind in CERTAIN:
                    return frame.start
            position += _WINDOW_BYTES
        return None

    def _at(self, position: int) -> _Frame | None:
        """Return the frame at a position; None where none begins that ends within the file."""
        try:
            frame = _frame(self._read(position, position + _HEADER_BYTES), position, self._framing)
        except ValueError:
            return None
        return frame if frame.end <= self._size else None

    def _leads_on(self, position: int) -> bool:
        """Say whether a message that cannot be used is followed by one that can, or by the end."""
        following = self._at(position)
        if following is None:
            return position == self._size
        message = self._read_frame(following)
        return message.kind in CERTAIN or message.packed

    def _read_frame(self, frame: _Frame) -> Message:
        data, why, packed = b"", f"longer than {MAX_MESSAGE_BYTES >> 20} MiB", False
        if frame.end - frame.begin <= MAX_MESSAGE_BYTES:
            data, why = self._read(frame.begin, frame.end), ""
            packed = is_packed(data)
        if packed:
            data, why = unpack_message(data, MAX_MESSAGE_BYTES)
        kind = None if why else self._kind_of(data)
        if kind is None:
            fault = f"the message at byte {frame.start}: {why or 'no OTLP'}; left out"
            return Message(frame.start, b"", None, fault, packed)
        return Message(frame.start, data, kind, packed=packed)

    def _kind_of(self, data: bytes) -> Kind | None:
        # Only the Collector puts JSON into frames.
        framed_json = self._framing == "length32" and _JSON.match(data) and data.rstrip()[-1:] in b"}]"
        return "json" if framed_json else signal_of(data)

    def _candidate(self, window: bytes, at: int, position: int) -> _Frame | None:
        """Return the frame that may begin at a place of a window; None where arithmetic alone speaks against it."""
        try:
            frame = _frame(window[at : at + _HEADER_BYTES], position + at, self._framing)
            begin = frame.begin - position
            if frame.end > self._size:
                return None
            if is_packed(window[begin : begin + _HEADER_BYTES]):
                return frame
            if window[begin : begin + 1] != _BEGIN:
                return None
            inner, used = varint(window, begin + 1, min(len(window), begin + _HEADER_BYTES))
        except ValueError:
            return None
        if inner and window[used : used + 1] not in _INNER_BEGINS:
            return None
        return frame if used + inner <= frame.end - position else None

    def _read(self, begin: int, end: int) -> bytes:
        self._stream.seek(begin)
        return self._stream.read(max(0, min(end, self._size) - begin))
