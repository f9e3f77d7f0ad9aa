"""Look over a file before it is parsed: cheap checks that send it to the fast reader or to the careful one."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from vtprof_analyzer.ingest.lines import MAX_LINE_BYTES

_SPANS: Final = b'{"resourceSpans"'
_METRICS: Final = b'{"resourceMetrics"'
_LOGS: Final = b'{"resourceLogs"'
_READ_BUFFER_BYTES: Final = 256 << 10
_PIECE_BYTES: Final = 64 << 10
"""What is read of a line at once: new memory for the whole of each long line costs more than reading it."""
_END_BYTES: Final = 8
_MAX_BLANK_LINES: Final = 1_000_000


@dataclass(frozen=True)
class Scan:
    """What a first look at a plain file tells: of all its lines, or of those before ``tail_at``."""

    lines: int
    """Lines that are not blank."""
    all_lines: int
    longest_bytes: int
    clean: bool
    """Every line begins and ends like an OTLP document in plain form. Nothing else is told of a file that is not."""
    spans: bool
    metrics: bool
    logs: bool
    tail_at: int | None = None
    """Where the last line begins, when it alone is not clean: a writer was stopped in the middle of it."""


def scan(path: Path) -> Scan:
    """Read a file once, without parsing: line count, longest line, kinds of signal.

    The longest line bounds the parser's buffers, whose size would else have to be guessed.
    """
    lines = every = longest = position = 0
    tail_at: int | None = None
    before_tail = 0
    seen = {_SPANS: False, _METRICS: False, _LOGS: False}
    unclean = Scan(0, 0, 0, False, False, False, False)
    with path.open("rb", buffering=_READ_BUFFER_BYTES) as stream:
        for head, end, size, blank in _lines(stream):
            if size > MAX_LINE_BYTES:
                return unclean
            every += 1
            if blank:
                if every - lines > _MAX_BLANK_LINES:
                    return unclean
            elif tail_at is not None:
                return unclean
            else:
                kind = next((k for k in seen if head.startswith(k)), None)
                if kind is None or not end[-_END_BYTES:].rstrip().endswith(b"}"):
                    tail_at, before_tail = position, every - 1
                else:
                    lines += 1
                    longest = max(longest, size)
                    seen[kind] = True
            position += size
    if tail_at is not None and not lines:
        return unclean
    before = every if tail_at is None else before_tail
    return Scan(lines, before, longest, True, seen[_SPANS], seen[_METRICS], seen[_LOGS], tail_at)


def _lines(stream: BinaryIO) -> Iterator[tuple[bytes, bytes, int, bool]]:
    """Yield the beginning of each line, its end, its size [B] and whether it is blank; one too long not to its end."""
    while piece := stream.readline(_PIECE_BYTES):
        head = end = piece
        size, blank = len(piece), piece.isspace()
        while not piece.endswith(b"\n") and size <= MAX_LINE_BYTES:
            piece = stream.readline(_PIECE_BYTES)
            if not piece:
                break
            end = end[-_END_BYTES:] + piece
            size, blank = size + len(piece), blank and piece.isspace()
        yield head, end, size, blank
