"""What became of an assumption, with the figures that show it, and all of them as a table for the docs."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

HOLDS, DIFFERS, NOT_OFFERED, NOT_SHOWN = "holds", "differs", "not offered", "not shown"
"""Not offered: by this driver or GPU, or to this user. Not shown: nothing happened that would show it."""


@dataclass(frozen=True)
class Figure:
    """A quantity that was measured."""

    name: str
    unit: str
    median: float
    p95: float
    n: int

    def __str__(self) -> str:
        """Return it as in the table; what was measured once has no quantile."""
        values = f"{self.median:.4g}" if self.n == 1 else f"{self.median:.4g} / {self.p95:.4g}"
        return f"{self.name} {values} {self.unit}".rstrip() + f" ({self.n})"


@dataclass(frozen=True)
class Finding:
    """An assumption and what became of it."""

    what: str
    assumed: str
    where: str
    verdict: str
    measured: Sequence[Figure] = ()
    note: str = ""


def figure(name: str, unit: str, values: Sequence[float]) -> Figure:
    """Return median and 95 % quantile of some values; at least one."""
    ranked = sorted(values)
    return Figure(
        name, unit, statistics.median(ranked), ranked[math.ceil(0.95 * len(ranked)) - 1], len(ranked)
    )


def table(findings: Iterable[Finding]) -> str:
    """Return a Markdown table."""
    lines = ["| What | Assumed | Measured: median / 95 % (n) | Verdict |", "|---|---|---|---|"]
    for one in findings:
        told = [str(figure) for figure in one.measured]
        text = "; ".join([*told, *([one.note] if one.note else [])]).replace("|", "/")
        lines.append(f"| {one.what} | {one.assumed} ({one.where}) | {text} | {one.verdict} |")
    return "\n".join(lines)
