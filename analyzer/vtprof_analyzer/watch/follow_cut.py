"""What a file is, which one it is, and where it can be cut: whole lines, whole messages, or not at all."""

import hashlib
import os
import re
import struct
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Final, Literal, NamedTuple

from vtprof_analyzer.ingest.formats import Format, detect
from vtprof_analyzer.ingest.lines import MAX_LINE_BYTES, detect_packing, unpack_message
from vtprof_analyzer.runs.kinds import kind_of

Cut = Literal["lines", "frames", "whole"]
"""At line ends, between messages with 4-byte lengths, or nowhere."""
Content = Literal["traces", "table"]

PIECE_BYTES: Final = 8 << 20
_HEAD_BYTES: Final = 64 << 10
_COPY_BYTES: Final = 1 << 20
_LENGTH: Final = struct.Struct(">I")
_PARQUET: Final = b"PAR1"
_LEAST_PARQUET_BYTES: Final = 12
_PACKED_HEAD_BYTES: Final = 256 << 10
_UNPACKED_BYTES: Final = 64 << 20
_JSON: Final = re.compile(rb"(?:\xef\xbb\xbf)?\s*[\[{]")
_LINE_END: Final = re.compile(rb"\n")
_FRAMES: Final = "zstd frames"
_TIME: Final = re.compile(rb'[tT]imeUnixNano"\s*:\s*"?(\d{16,19})\b')


class NotYet(Exception):
    """Too little of a file is there to know it by, or it has to be complete to be read."""


class NotOurs(Exception):
    """A file that holds nothing that is followed; why, in words."""


class Looked(NamedTuple):
    """What a file is."""

    key: str
    """Stands for it, whatever its name."""
    cut: Cut
    content: Content
    packed: bool
    """It has to be unpacked as a whole before it is cut."""
    header: bytes = b""
    """table: its first line."""


class Part(NamedTuple):
    """What was read of a file."""

    end: int
    """Position behind it."""
    exhausted: bool
    """Nothing more can be read at present."""
    staged: bool
    """Whether there was anything."""
    too_long: int = 0
    """Lines that were passed over."""


def look(path: Path, *, steady: bool, final: bool) -> Looked:
    """Return what a file is. ``steady``: nobody seems to write to it; ``final``: nobody does.

    Raises OSError, NotYet or NotOurs.
    """
    packing = detect_packing(path)
    packed = packing.name not in ("plain", _FRAMES)
    head = _unpacked_head(path) if packed else _head(path)
    if not head.strip():
        raise NotYet
    if head.startswith(_PARQUET) and not packed:
        return _look_parquet(path)
    kind = kind_of(path)
    if kind == "database":
        raise NotOurs("a database; give traces or a request table")
    if kind == "table":
        # All tables have the same header: a row tells them apart.
        key = _key(head, 2, final=final)
        return Looked(key, "lines", "table", packed, head.partition(b"\n")[0] + b"\n")
    framed = packing.name == _FRAMES
    format_ = Format("json") if packed and _JSON.match(head) else detect(path, framed=framed)
    if not packed and (format_.framing == "length32" or framed):
        if len(head) < _LENGTH.size:
            raise NotYet
        end = _LENGTH.size + _LENGTH.unpack_from(head)[0]
        if path.stat().st_size < end:
            raise NotYet
        return Looked(_digest(head[:end]), "frames", "traces", packed=False)
    if format_.kind == "json" and not format_.framing and not _is_spread(head):
        return Looked(_key(head, 1, final=final), "lines", "traces", packed)
    if not steady:
        raise NotYet
    if format_.kind is None and not packed:
        raise NotOurs("neither OTLP (JSON or protobuf) nor a request table")
    return Looked(f"{_digest(head)}-{path.stat().st_size}", "whole", "traces", packed=False)


def _look_parquet(path: Path) -> Looked:
    with path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        stream.seek(max(0, size - _HEAD_BYTES))
        end = stream.read()
    if size < _LEAST_PARQUET_BYTES or not end.endswith(_PARQUET):
        raise NotYet
    content: Content = "table" if kind_of(path) == "table" else "traces"
    return Looked(f"{_digest(end)}-{size}", "whole", content, packed=False)


def _head(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(_HEAD_BYTES)


def _unpacked_head(path: Path) -> bytes:
    with path.open("rb") as stream:
        data = stream.read(_PACKED_HEAD_BYTES)
    head, _ = unpack_message(data, _UNPACKED_BYTES)
    return head[:_HEAD_BYTES]


def _key(head: bytes, lines: int, *, final: bool) -> str:
    """Return what stands for the first lines of a file. Raises NotYet while they are not there."""
    ends = [match.end() for match in islice(_LINE_END.finditer(head), lines)]
    if len(ends) < lines and len(head) < _HEAD_BYTES and not final:
        raise NotYet
    return _digest(head[: ends[-1]].rstrip(b"\r\n") if len(ends) == lines else head)


def _is_spread(head: bytes) -> bool:
    """Say whether a document is spread over lines, as pretty printers write it."""
    first, end, _ = head.lstrip(b"\xef\xbb\xbf \t\r\n").partition(b"\n")
    return bool(end) and not first.rstrip().endswith((b"}", b"]"))


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def read_piece(
    plain: Path, cut: Cut, begin: int, stop: int, staged: Path, *, header: bytes, final: bool
) -> Part:
    """Copy what is whole from ``begin`` on, before ``stop`` and about `PIECE_BYTES`, to ``staged``.

    ``final``: what stands before ``stop`` is taken as it is. ``header`` is put before it, but for the begin of the file.
    Raises OSError.
    """
    if cut == "whole":
        # Readers that take it at once know best how.
        staged.symlink_to(plain.absolute())
        return Part(stop, True, True)
    if stop <= begin:
        return Part(begin, True, False)
    with plain.open("rb") as stream:
        if cut == "frames":
            end = _frames_end(stream, begin, stop)
        else:
            end, passed = _lines_end(stream, begin, stop, final=final, quoted=bool(header))
            if passed:
                return Part(end, end >= stop, False, passed)
        if end <= begin:
            return Part(begin, True, False)
        stream.seek(begin)
        with staged.open("wb") as out:
            if begin:
                out.write(header)
            left = end - begin
            while left and (chunk := stream.read(min(left, _COPY_BYTES))):
                out.write(chunk)
                left -= len(chunk)
    return Part(end, end >= stop or stop - begin <= PIECE_BYTES, True)


def rest_of(staged: Path) -> int:
    """Return how many bytes stand behind the last line end of a piece."""
    size = staged.stat().st_size
    rest = 0
    with staged.open("rb") as stream:
        while rest < size:
            begin = max(0, size - rest - _HEAD_BYTES)
            stream.seek(begin)
            at = stream.read(size - rest - begin).rfind(b"\n")
            if at >= 0:
                return size - begin - at - 1
            rest = size - begin
    return rest


def _frames_end(stream: BinaryIO, begin: int, stop: int) -> int:
    """Return where the last message ends that is whole."""
    end = begin
    while end - begin < PIECE_BYTES and end + _LENGTH.size <= stop:
        stream.seek(end)
        length = _LENGTH.unpack(stream.read(_LENGTH.size))[0]
        if end + _LENGTH.size + length > stop:
            break
        end += _LENGTH.size + length
    return end


def _lines_end(stream: BinaryIO, begin: int, stop: int, *, final: bool, quoted: bool) -> tuple[int, int]:
    """Return where the last line ends that is whole, and how many lines from ``begin`` on are too long to be read."""
    stream.seek(begin)
    data = stream.read(min(PIECE_BYTES, stop - begin))
    at = begin + len(data)
    end = _last_line(data, quoted=quoted)
    if end:
        return (at if final and at >= stop else begin + end), 0
    # One line longer than a piece, or one that is not whole.
    while at < stop:
        data = stream.read(min(PIECE_BYTES, stop - at))
        if not data:
            break
        newline = data.find(b"\n")
        at += newline + 1 if newline >= 0 else len(data)
        if newline >= 0:
            return at, int(at - begin > MAX_LINE_BYTES)
    if final or at - begin > MAX_LINE_BYTES:
        return at, int(at - begin > MAX_LINE_BYTES)
    return begin, 0


def _last_line(data: bytes, *, quoted: bool) -> int:
    """Return the length of the whole lines of some data; a line end within quotes is none."""
    end = data.rfind(b"\n") + 1
    while quoted and end and data.count(b'"', 0, end) % 2:
        end = data.rfind(b"\n", 0, end - 1) + 1
    return end


def first_time(plain: Path) -> int:
    """Return the first time that a file tells, Unix time [ns]; 0 where it tells none as text."""
    return _time(plain, 0, min)


def last_time(plain: Path) -> int:
    """Return the latest time in the last lines of a file, likewise."""
    return _time(plain, -_HEAD_BYTES, max)


def _time(plain: Path, at: int, chosen: Callable[[list[int]], int]) -> int:
    try:
        with plain.open("rb") as stream:
            if at:
                stream.seek(0, os.SEEK_END)
                stream.seek(max(0, stream.tell() + at))
            found = [int(one) for one in _TIME.findall(stream.read(_HEAD_BYTES))]
    except OSError:
        return 0
    return chosen(found) if found else 0
