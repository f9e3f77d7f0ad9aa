"""Whether a comparison can be believed, in lines that every format shares: what was read, left out, assumed and odd."""

from typing import Final

from vtprof_analyzer.regress.comparison import Comparison, SideSummary
from vtprof_analyzer.report.compare_phrases import (
    SENTENCE,
    deployment,
    level,
    magnitude,
    needed,
    noise,
    skipped,
    skipped_reasons,
)
from vtprof_analyzer.report.format import count, percent, plain, safe

TITLE: Final = "Can this be trusted?"
_MUCH_LEFT_OUT: Final = 0.05
"""Share of a side's requests."""


def trust(comparison: Comparison) -> list[str]:
    """Return what was read of each side, how sure the verdict is and what would make it surer."""
    base, new = comparison.base, comparison.new
    same = deployment(base) == deployment(new)
    lines = [f"both sides: {deployment(base)}"] if same else []
    lines += [_side(name, side, not same) for name, side in (("BASE", base), ("NEW", new))]
    lines += [
        noise(comparison),
        needed(comparison),
        f"judged at {level(comparison)} for all effects together (alpha {plain(comparison.alpha)})",
        f"effects below {magnitude(comparison.min_effect)} are no findings",
    ]
    return lines


def _named_once(line: str) -> str:
    """Return a note of a run without its name where the note begins with the same name."""
    name, _, rest = line.partition(": ")
    return rest if rest.startswith(f"{name}: ") else line


def _left_out(name: str, side: SideSummary) -> list[str]:
    """Return a line where so much of a side was left out that the rest may be of another kind."""
    number = sum(side.skipped.values())
    share = number / max(number + side.requests, 1)
    if share <= _MUCH_LEFT_OUT:
        return []
    told = f"{name}: {percent(share)} of its requests were left out, and the rest may be of another kind"
    return [f"{told}: {skipped_reasons(side)}"]


def _side(name: str, side: SideSummary, own: bool) -> str:
    told = f"{deployment(side)}; " if own else ""
    return f"{name}: {told}{skipped(side)}"


def warnings(comparison: Comparison, most: int) -> list[str]:
    """Return why the sides may not be comparable, and what in the input was odd."""
    sides = (("BASE", comparison.base), ("NEW", comparison.new))
    told = [*(line for name, side in sides for line in _left_out(name, side)), *comparison.warnings]
    lines = [safe(_named_once(line), SENTENCE) for line in told[:most]]
    left = len(told) - most
    return [*lines, f"{count(left)} more warnings in the JSON document"] if left > 0 else lines
