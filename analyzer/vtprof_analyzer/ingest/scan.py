"""Look over a file before it is parsed: cheap checks that send it to the fast reader or to the careful one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

_SPANS: Final = b'{"resourceSpans"'
_METRICS: Final = b'{"resourceMetrics"'
_LOGS: Final = b'{"resourceLogs"'
_READ_BUFFER_BYTES: Final = 4 << 20


@dataclass(frozen=True)
class Scan:
    """What a first look at a plain file tells."""

    lines: int
    longest_bytes: int
    clean: bool  # every line begins and ends like an OTLP document in plain form
    spans: bool
    metrics: bool
    logs: bool


def scan(path: Path) -> Scan:
    """Read a file once, without parsing: line count, longest line, kinds of signal.

    The longest line bounds the parser's buffers, whose size would else have to be guessed.
    """
    lines = longest = 0
    clean = True
    seen = {_SPANS: False, _METRICS: False, _LOGS: False}
    with path.open("rb", buffering=_READ_BUFFER_BYTES) as stream:
        for line in stream:
            longest = max(longest, len(line))
            if line.isspace():
                continue
            lines += 1
            kind = next((k for k in seen if line.startswith(k)), None)
            if kind is None or not line[-8:].rstrip().endswith(b"}"):
                clean = False
            else:
                seen[kind] = True
    return Scan(lines, longest, clean, seen[_SPANS], seen[_METRICS], seen[_LOGS])
