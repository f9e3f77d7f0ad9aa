"""Look over a file before it is parsed: cheap checks that send it to the fast reader or to the careful one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vtprof_analyzer.ingest.lines import MAX_LINE_BYTES

_SPANS: Final = b'{"resourceSpans"'
_METRICS: Final = b'{"resourceMetrics"'
_LOGS: Final = b'{"resourceLogs"'
_READ_BUFFER_BYTES: Final = 4 << 20
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
        while line := stream.readline(MAX_LINE_BYTES + 1):
            size = len(line)
            if size > MAX_LINE_BYTES:
                return unclean
            every += 1
            if line.isspace():
                if every - lines > _MAX_BLANK_LINES:
                    return unclean
            elif tail_at is not None:
                return unclean
            else:
                kind = next((k for k in seen if line.startswith(k)), None)
                if kind is None or not line[-8:].rstrip().endswith(b"}"):
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
