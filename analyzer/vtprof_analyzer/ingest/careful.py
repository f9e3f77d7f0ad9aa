"""The careful reader: one document at a time through Python's json, written again in plain form for the fast reader.

It is slow and sees every fault: only files that the fast reader refuses come here.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

from vtprof_analyzer.ingest.lines import MAX_LINE_BYTES, read_lines
from vtprof_analyzer.ingest.repair import repair

MAX_NOTES_PER_FILE: Final = 20
WHOLE_DOCUMENT_BYTES: Final = 256 << 20
"""Largest file that is tried as one document spread over many lines."""
MAX_BARREN_LINES: Final = 1_000_000
"""Lines in a row without anything usable after which a file is given up: it is something else."""
_MAX_INT_DIGITS: Final = 20
_DOCUMENT_BEGIN: Final = re.compile(r'\{\s*"resource_?(?:[sS]pans|[mM]etrics|[lL]ogs)"')
_BOM: Final = b"\xef\xbb\xbf"
_PADDING: Final = b" \t\r\n\x00"


@dataclass
class CarefulCounts:
    """What was met in one file."""

    lines: int = 0
    malformed_lines: int = 0
    truncated_lines: int = 0
    ignored_signals: int = 0
    dropped_spans: int = 0
    mistyped_values: int = 0
    barren_lines: int = 0
    """Lines at the end without anything usable."""
    gave_up: bool = False
    notes: list[tuple[int | None, str]] = field(default_factory=list)

    def note(self, line: int | None, what: str) -> None:
        """Remember a fault for the report; past a bound only the counts grow."""
        if len(self.notes) < MAX_NOTES_PER_FILE:
            self.notes.append((line, what))


def _int(text: str) -> int | None:
    # A megabyte of digits is legal JSON and takes forever to convert; 64 bits need 20.
    return int(text) if len(text) <= _MAX_INT_DIGITS else None


_DECODER: Final = json.JSONDecoder(parse_int=_int)


def parse(data: bytes) -> Any:
    """Parse one document; raises ValueError when it is none."""
    try:
        return _DECODER.decode(data.decode("utf-8", "replace"))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _salvage(line: bytes) -> Iterator[Any]:
    """Yield the whole documents inside a line that is none: a writer died and another went on in the same line."""
    # Positions are those of the text: a byte that is no UTF-8 becomes three.
    text = line.decode("utf-8", "replace")
    position = 0
    while match := _DOCUMENT_BEGIN.search(text, position):
        try:
            document, position = _DECODER.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            position = match.start() + 1
            continue
        yield document


def _write(document: Any, number: int | None, counts: CarefulCounts, out: BinaryIO) -> bool:
    """Write what is usable of a document; return False when it is no OTLP."""
    repaired = repair(document)
    if repaired is None:
        return False
    counts.ignored_signals += repaired.ignored_signals
    counts.dropped_spans += repaired.dropped_spans
    counts.mistyped_values += repaired.mistyped_values
    for fault in repaired.faults[:MAX_NOTES_PER_FILE]:
        counts.note(number, fault)
    for plain in repaired.documents:
        # Lone surrogates cannot be written as UTF-8.
        text = json.dumps(plain, separators=(",", ":"), ensure_ascii=False)
        out.write(text.encode("utf-8", "replace") + b"\n")
    return True


def _whole_document(path: Path) -> Any:
    """Return the file as one document over many lines, as pretty printers write it; None when it is not one."""
    with path.open("rb") as stream:
        data = stream.read(WHOLE_DOCUMENT_BYTES + 1)
    if len(data) > WHOLE_DOCUMENT_BYTES:
        return None
    try:
        return parse(data.removeprefix(_BOM).strip(_PADDING))
    except ValueError:
        return None


def write_plain_copy(path: Path, out: BinaryIO, lines_before: int = 0, barren: int = 0) -> CarefulCounts:
    """Copy the usable documents of a plain file to ``out``, one a line in plain form; count and name the others.

    ``lines_before`` says how many lines stand before the file's first one, where it is a part of another, and
    ``barren`` how many of these, right before it, had nothing usable.
    """
    counts = CarefulCounts()
    for number, raw in enumerate(read_lines(path), start=lines_before + 1):
        if barren >= MAX_BARREN_LINES:
            # Past the bound of notes: what comes after is not even counted.
            counts.notes.append(
                (None, f"{barren:,} lines in a row without OTLP; left out from line {number} on")
            )
            counts.gave_up = True
            break
        barren += 1
        if raw is None:
            counts.lines += 1
            counts.malformed_lines += 1
            counts.note(number, f"longer than {MAX_LINE_BYTES >> 20} MiB; left out")
            continue
        data = raw.removeprefix(_BOM) if number == 1 else raw
        data = data.strip(_PADDING)
        if not data:
            continue
        counts.lines += 1
        try:
            document = parse(data)
        except ValueError:
            if number == counts.lines == 1 and data.startswith((b"{", b"[")) and raw.endswith(b"\n"):
                whole = _whole_document(path)
                if whole is not None:
                    if not _write(whole, None, counts, out):
                        counts.malformed_lines += 1
                        counts.note(None, "one JSON document, but no OTLP; left out")
                    return counts
            if _not_json(data, number, raw.endswith(b"\n"), counts, out):
                barren = 0
            continue
        if b"\\" not in data and not _is_utf8(data):
            counts.note(number, "not UTF-8; the bad characters were replaced")
        if _write(document, number, counts, out):
            barren = 0
        else:
            counts.malformed_lines += 1
            counts.note(number, "JSON, but no OTLP document; left out")
    counts.barren_lines = barren
    return counts


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _not_json(data: bytes, number: int, ended: bool, counts: CarefulCounts, out: BinaryIO) -> int:
    """Count a line that does not parse; use whole documents inside it and return how many."""
    salvaged = sum(_write(document, number, counts, out) for document in _salvage(data))
    if ended or salvaged:
        counts.malformed_lines += 1
        what = "not JSON; left out"
    else:
        counts.truncated_lines += 1
        what = "the last line is cut off; left out"
    counts.note(number, what + (f", {salvaged} whole document(s) inside it used" if salvaged else ""))
    return salvaged
