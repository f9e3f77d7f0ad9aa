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
)
from vtprof_analyzer.report.format import count, plain, safe

TITLE: Final = "Can this be trusted?"


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


def _side(name: str, side: SideSummary, own: bool) -> str:
    told = f"{deployment(side)}; " if own else ""
    return f"{name}: {told}{skipped(side)}"


def warnings(comparison: Comparison, most: int) -> list[str]:
    """Return why the sides may not be comparable, and what in the input was odd."""
    lines = [safe(line, SENTENCE) for line in comparison.warnings[:most]]
    left = len(comparison.warnings) - most
    return [*lines, f"{count(left)} more warnings in the JSON document"] if left > 0 else lines
