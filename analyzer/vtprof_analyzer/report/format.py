"""Numbers and foreign text, as people read them: one unit, few digits, no control characters. No layout here.

``None`` is never turned into a number: every function takes a known value, except ``known``.
"""

import math
import unicodedata
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TypeVar

from vtprof_schemas.units import BYTES_PER_GIB, BYTES_PER_KIB, BYTES_PER_MIB, NS_PER_S

NOT_RECORDED = "not recorded"
DASH = "–"
MINUS = "−"
TEXT_LIMIT = 240
"""Longest foreign text that is shown in full."""

_VISIBLE_SPACE = {ord(c): " " for c in "\t\n\r\v\f\u2028\u2029\u00a0"}
# Control, format (bidi overrides, zero width), surrogate, private use, unassigned: nothing a reader could see.
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})

T = TypeVar("T")


def safe(text: object, limit: int = TEXT_LIMIT) -> str:
    """Return foreign text as one visible line: control characters spelled out, at most ``limit`` characters."""
    cut = str(text)[: limit + 1].translate(_VISIBLE_SPACE)
    seen = "".join(_spelled(c) if unicodedata.category(c) in _UNSEEN else c for c in cut)
    return seen if len(seen) <= limit else seen[: limit - 1] + "…"


def _spelled(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def known(value: T | None, show: Callable[[T], str], otherwise: str = NOT_RECORDED) -> str:
    """Show a value that may be unknown."""
    return otherwise if value is None else show(value)


def significant(value: float, digits: int = 3) -> str:
    """Show ``value`` with ``digits`` significant digits and thousands separators; huge and tiny as 1.2e+21."""
    if value == 0:
        return "0"
    if not 1e-6 <= abs(value) < 1e15:
        return f"{value:.{digits - 1}e}"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{places}f}"


def plain(value: float, digits: int = 3) -> str:
    """Show ``value`` as ``significant`` does, without zeros behind the last digit that counts."""
    text = significant(value, digits)
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text


def ratio(value: float) -> str:
    """Show a ratio with two digits; below a hundredth it only says so, which keeps its column narrow."""
    return "< 0.01" if 0 < value < 0.01 else significant(value, 2)


def count(value: float) -> str:
    """Show a number of things: 18,204."""
    return f"{value:,.0f}" if abs(value) < 1e15 else f"{value:.2e}"


def counted(value: int, one: str, many: str | None = None) -> str:
    """Show a number of named things: ``1 request``, ``2 requests``."""
    return f"{count(value)} {one if value == 1 else many or one + 's'}"


def percent(share: float) -> str:
    """Show a share of one; near 0 and near 1 with a decimal, so that 99.7 % is not all and 0.2 % is not nothing."""
    value = share * 100
    if abs(value) >= 1e6:
        return f"{value:.2e} %"
    if 0 < value < 0.05:
        return "< 0.1 %"
    if 99.95 < value < 100:
        return "> 99.9 %"
    decimals = 1 if 0 < value < 0.95 or 99.05 < value < 100 else 0
    return f"{value:,.{decimals}f} %"


def whole_percents(shares: Sequence[float | None]) -> list[int | None]:
    """Round shares of one to whole percents that add up to the rounded sum: largest remainder, first one on a tie."""
    numbers = [(index, share * 100) for index, share in enumerate(shares) if share is not None]
    rounded = {index: math.floor(value + 1e-9) for index, value in numbers}
    missing = round(sum(value for _, value in numbers)) - sum(rounded.values())
    by_remainder = sorted(numbers, key=lambda pair: (rounded[pair[0]] - pair[1], pair[0]))
    for index, _ in by_remainder[: max(missing, 0)]:
        rounded[index] += 1
    return [rounded.get(index) for index in range(len(shares))]


def whole_percent(number: int) -> str:
    """Show one of ``whole_percents``."""
    return f"{count(number)} %"


def duration(ms: float) -> str:
    """Show milliseconds in the unit that fits: 2.00 ns, 850 µs, 14.2 ms, 2.31 s, 12.4 min, 3.20 h."""
    size_ms = abs(ms)
    if size_ms == 0:
        return "0 ms"
    if size_ms < 0.9995e-6:  # no clock tells so little; only means and fits hold it
        return "about 0 ns"
    if size_ms < 0.9995e-3:
        return f"{significant(ms * 1_000_000)} ns"
    if size_ms < 0.9995:
        return f"{significant(ms * 1_000)} µs"
    if size_ms < 999.5:
        return f"{significant(ms)} ms"
    if size_ms < 119_500:
        return f"{significant(ms / 1_000)} s"
    if size_ms < 7_170_000:
        return f"{significant(ms / 60_000)} min"
    return f"{significant(ms / 3_600_000)} h"


def size(amount: float) -> str:
    """Show bytes in binary units."""
    for unit, scale in (("GiB", BYTES_PER_GIB), ("MiB", BYTES_PER_MIB), ("KiB", BYTES_PER_KIB)):
        if abs(amount) >= 0.9995 * scale:
            return f"{plain(amount / scale)} {unit}"
    return f"{count(amount)} B"


def scaled(value: float, unit: str) -> str:
    """Show a rate or an amount with an SI prefix: 791 TFLOP/s, 4.3 TB/s, 25.1 M tokens."""
    spaced = "" if "/s" in unit or not unit else " "
    for prefix, scale in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= 0.9995 * scale and not (prefix == "k" and "/s" not in unit):
            return f"{plain(value / scale)} {prefix}{spaced}{unit}".rstrip()
    return f"{count(value) if float(value).is_integer() else plain(value)} {unit}".rstrip()


def tokens(value: int) -> str:
    """Show a number of tokens: 26 tokens, 25.1 M tokens."""
    return counted(value, "token") if value < 1_000_000 else scaled(value, "tokens")


def energy(joules: float) -> str:
    """Show energy in joules, or in kWh from one on."""
    return f"{plain(joules / 3.6e6)} kWh" if joules >= 3.6e6 else f"{plain(joules)} J"


def time_range(started_unix_nano: int | None, ended_unix_nano: int | None) -> str:
    """Show when the run was, in UTC: ``2026-11-21 14:02–14:32 UTC``."""
    start, end = _moment(started_unix_nano), _moment(ended_unix_nano)
    if start is None:
        return f"time {NOT_RECORDED}"
    if end is None or end == start:
        return f"{start:%Y-%m-%d %H:%M} UTC"
    if end.date() == start.date():
        return f"{start:%Y-%m-%d %H:%M}–{end:%H:%M} UTC"
    return f"{start:%Y-%m-%d %H:%M} – {end:%Y-%m-%d %H:%M} UTC"


def _moment(unix_nano: int | None) -> datetime | None:
    if unix_nano is None:
        return None
    try:
        return datetime.fromtimestamp(unix_nano // NS_PER_S, UTC).replace(second=0)
    except (OverflowError, ValueError, OSError):
        return None


def dots(confidence: str) -> str:
    """Show a confidence as dots: all three are filled when both witnesses agree."""
    filled = {"high": 3, "medium": 2, "low": 1}.get(confidence, 0)
    return "●" * filled + "○" * (3 - filled)
