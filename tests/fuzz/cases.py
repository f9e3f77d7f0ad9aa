"""Make broken files: valid documents, of which some are edited, in one of the formats, framings and packings of OTLP."""

import functools
import gzip
import random
import struct
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

from fuzz import oracle
from fuzz.documents import Json, document
from fuzz.mutations import broken_bytes, edited, text_of, unknown_field, varint

_GZIP: Final = functools.partial(gzip.compress, mtime=0)
"""Without the time of day: a seed makes the same bytes always."""
DOCUMENTS: Final = 5
_MOST_EDITED: Final = 3


@dataclass
class Case:
    """A file, and what a reader must find in it."""

    name: str
    data: bytes
    expected: list[oracle.Found] = field(default_factory=list)
    faulty: bool = False
    """Something in it is certainly wrong, so that a count or a note must say so."""
    made: str = ""
    """How, for who looks into a failure."""


def make(seed: int) -> Case:
    """Return the case of a seed; ids are drawn, so that no two cases share one."""
    dice = random.Random(seed)
    make_one = dice.choices((_json_lines, _messages), (3, 2))[0]
    case = make_one(dice, f"{seed:06d}")
    if dice.random() < 0.35:
        _pack(case, dice)
    return case


def _documents(dice: random.Random) -> tuple[list[Json], set[int]]:
    """Return valid documents and which of them are to be edited."""
    made = [document(dice) for _ in range(dice.randint(1, DOCUMENTS))]
    return made, set(dice.sample(range(len(made)), min(len(made), dice.randint(0, _MOST_EDITED))))


def _json_lines(dice: random.Random, name: str) -> Case:
    made, touched = _documents(dice)
    case = Case(f"{name}.jsonl", b"")
    lines = []
    for number, item in enumerate(made):
        if number not in touched:
            lines.append(text_of(item, dice))
            # Whatever becomes of its neighbours.
            case.expected += oracle.valid_spans(item)
        elif dice.random() < 0.6:
            lines.append(text_of(edited(item, dice), dice))
        else:
            lines.append(broken_bytes(text_of(item, dice), dice))
    case.data = _joined(lines, touched, dice)
    _judge_lines(case)
    return case


def _joined(lines: list[bytes], touched: set[int], dice: random.Random) -> bytes:
    """Put lines together as writers do it, and as those do that died."""
    end = dice.choice((b"\n", b"\n", b"\n", b"\r\n", b"\n\n", b"\n \t\n"))
    found = b"\xef\xbb\xbf" if dice.random() < 0.05 else b""
    for number, line in enumerate(lines):
        found += line
        # A writer that died leaves no line end, and the next one goes on behind it.
        died = number in touched and dice.random() < 0.15
        found += b"" if died else end
    if dice.random() < 0.1:
        found += dice.choice((b"\x00" * 512, b"{", b'{"resourceSpans":[{', b"garbage", b"\xff\xfe"))
    return found.removesuffix(end) if dice.random() < 0.3 else found


def _judge_lines(case: Case) -> None:
    """Add what each line has that parses, edited or not; a line that does not is a fault."""
    for line in case.data.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        text = line.strip(b" \t\r\x00")
        if not text:
            continue
        try:
            parsed = oracle.parse_line(text)
        except (oracle.RepeatedKey, RecursionError, UnicodeDecodeError):
            # Parsers differ in what they take; bad characters cost no more than themselves.
            continue
        except ValueError:
            case.faulty = True
            continue
        case.expected += oracle.valid_spans(parsed)
        case.faulty |= oracle.has_faulty_span(parsed)


def _messages(dice: random.Random, name: str) -> Case:
    made, touched = _documents(dice)
    frame = dice.choice((_length32, varint, _nothing))
    pack = dice.choice((bytes, bytes, bytes, zstd.compress, _GZIP)) if frame is not _nothing else bytes
    case = Case(f"{name}.pb", b"")
    packed_by = {zstd.compress: "zstd", _GZIP: "gzip"}.get(pack, "plain")
    case.made = f"{frame.__name__}, {packed_by}:"
    found = []
    for number, item in enumerate(made):
        data = oracle.to_message(item)
        if number in touched:
            found.append(_edited_message(data, next(iter(item)), frame, pack, case, dice))
        else:
            untouched = list(oracle.valid_spans(item))
            case.made += f" good[{len(untouched)}]"
            case.expected += untouched
            packed = pack(data)
            found.append(frame(len(packed)) + packed)
    case.data = b"".join(found)
    return case


def _edited_message(
    data: bytes,
    signal: str,
    frame: Callable[[int], bytes],
    pack: Callable[[bytes], bytes],
    case: Case,
    dice: random.Random,
) -> bytes:
    """Return a message with a fault in it, with its length before it, and note what is to be found in it all the same."""
    way = dice.choice(("unknown", "doubled", "empty", "bytes", "packed", "length", "between"))
    if frame is _nothing and way not in ("unknown", "doubled"):
        # Without lengths a fault can swallow what follows, for any parser.
        way = "unknown"
    case.made += f" {way}"
    if way == "unknown":
        data += unknown_field(dice)
    elif way == "doubled":
        data += data
    elif way == "empty":
        data = b""
    elif way == "bytes":
        data = broken_bytes(data, dice)
    parsed = oracle.parse_message(data, signal)
    if parsed and frame is not _nothing and way != "length":
        found = list(oracle.valid_spans(parsed)) if way != "packed" else []
        case.made += f"[{len(found)}]"
        case.expected += found
    case.faulty |= parsed is None and frame is not _nothing
    packed = pack(data)
    if way == "packed":
        packed = broken_bytes(packed, dice)
    framed = frame(len(packed)) + packed
    if way == "length":
        wrong = max(0, len(packed) + dice.choice((-9, -1, 1, 7, 2**20, 2**31 - 1)))
        return frame(min(wrong, 2**32 - 1)) + packed
    return framed + dice.randbytes(dice.randint(1, 30)) if way == "between" else framed


def _length32(length: int) -> bytes:
    return struct.pack(">I", length)


def _nothing(length: int) -> bytes:
    return b""


def _pack(case: Case, dice: random.Random) -> None:
    """Pack a file as a whole, and damage the packed bytes now and then."""
    kind: tuple[str, Callable[[bytes], bytes], Callable[[], Any]] = dice.choice(
        (("gz", _GZIP, lambda: zlib.decompressobj(31)), ("zst", zstd.compress, zstd.ZstdDecompressor))
    )
    suffix, pack, unpacker = kind
    cut = dice.randrange(len(case.data) + 1) if dice.random() < 0.3 else 0
    packed = pack(case.data[:cut]) + pack(case.data[cut:]) if cut else pack(case.data)
    case.name += f".{suffix}"
    if dice.random() < 0.6:
        case.data = packed
        return
    at = dice.randrange(len(packed))
    damaged = packed[:at] if dice.random() < 0.5 else packed[:at] + dice.randbytes(3) + packed[at + 3 :]
    if damaged != packed:
        # Files are small: all of one may stand in the block that was hit.
        case.data, case.expected, case.faulty = damaged, [], _ends_early(damaged, unpacker)


def _ends_early(packed: bytes, unpacker: Callable[[], Any]) -> bool:
    """Say whether an unpacker finds a fault, or wants more."""
    while packed:
        unpacked = unpacker()
        try:
            unpacked.decompress(packed)
        except (zlib.error, zstd.ZstdError):
            return True
        if not unpacked.eof:
            return True
        packed = unpacked.unused_data.lstrip(b"\x00")
    return False
