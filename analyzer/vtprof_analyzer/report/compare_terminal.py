"""A comparison as text for a terminal: 80 columns, readable without colour, the verdict on the first screen.

Everything goes through ``rich`` as ``Text`` objects, never as markup: what an input says cannot style the page.
"""

from collections.abc import Sequence
from typing import Final

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from vtprof_analyzer.regress.comparison import Comparison
from vtprof_analyzer.report import compare_tables, compare_trust, compare_ttft
from vtprof_analyzer.report.compare_headline import headline
from vtprof_analyzer.report.compare_phrases import runs, volume
from vtprof_analyzer.report.details_parts import Detail
from vtprof_analyzer.report.format import safe
from vtprof_analyzer.report.terminal_page import page_width, printed
from vtprof_analyzer.report.terminal_table import detail_table

_BAR_CELLS: Final = 24
_WARNINGS: Final = 12
_STYLES: Final = {
    "regression": "bold red",
    "improvement": "bold green",
    "no_change": "bold",
    "insufficient_data": "bold yellow",
}


def render(
    comparison: Comparison, width: int = 80, color: bool = False, full_report: str | None = None
) -> str:
    """Return the comparison for a terminal of ``width`` columns; ``full_report`` is the path of the HTML page."""
    room = page_width(width) - 2
    blocks = [
        _head(comparison),
        _verdict(comparison),
        *_warnings(comparison),
        _ttft(comparison),
        *_effects(comparison, room),
        *(_part(detail, room) for detail in _details(comparison)),
        _trust(comparison, full_report),
    ]
    return printed(blocks, width, color)


def _details(comparison: Comparison) -> list[Detail]:
    return [
        compare_tables.shifts(comparison, brief=True),
        *compare_tables.strata(comparison, brief=True),
        *compare_tables.metrics(comparison, brief=True),
    ]


def _effects(comparison: Comparison, width: int) -> list[list[RenderableType]]:
    blocks = [_part(detail, width) for detail in compare_tables.effects(comparison, brief=True)]
    if blocks:
        blocks[-1].append(_indent(Text(compare_tables.effect_note(comparison), style="dim")))
    return blocks


def _head(comparison: Comparison) -> list[RenderableType]:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True, overflow="ellipsis", max_width=32)
    grid.add_column()
    for name, side in (("BASE", comparison.base), ("NEW", comparison.new)):
        grid.add_row(Text(name, style="bold"), Text(runs(side)), Text(volume(side)))
    return [Text("vtprof compare", style="dim"), grid]


def _verdict(comparison: Comparison) -> list[RenderableType]:
    lead, rest = headline(comparison)
    return [Text.assemble((lead, _STYLES[comparison.verdict]), " ", rest)]


def _warnings(comparison: Comparison) -> list[list[RenderableType]]:
    lines = compare_trust.warnings(comparison, _WARNINGS)
    return [[_indent(Text(f"! {line}")) for line in lines]] if lines else []


def _ttft(comparison: Comparison) -> list[RenderableType]:
    budget = compare_ttft.budget(comparison)
    if budget is None:
        return [_title(compare_ttft.TITLE), _indent(Text(compare_ttft.NONE))]
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    for _ in range(2):
        grid.add_column(no_wrap=True, justify="right")
    grid.add_column(no_wrap=True)
    bars = _bars([row.change_ms for row in budget.rows])
    grid.add_row("BASE", budget.base)
    for row, bar in zip(budget.rows, bars, strict=True):
        grid.add_row(row.name, row.shown_ms, row.shown_ratio, bar)
    grid.add_row("NEW", budget.new, budget.ratio)
    return [
        _title(compare_ttft.TITLE),
        _indent(grid),
        _indent(Text(compare_ttft.note(comparison), style="dim")),
    ]


def _bars(changes: Sequence[float]) -> list[str]:
    """Return bars to the right of a common zero for more, to its left for less, in half cells."""
    most, least = max(0.0, *changes), max(0.0, *(-change for change in changes))
    if most + least == 0:
        return [""] * len(changes)
    halves = [round(abs(change) * 2 * _BAR_CELLS / (most + least)) for change in changes]
    left = max((length + 1) // 2 if change < 0 else 0 for change, length in zip(changes, halves, strict=True))
    bars = []
    for change, length in zip(changes, halves, strict=True):
        full, half = divmod(length, 2)
        bar = "▐" * half + "█" * full if change < 0 else "█" * full + "▌" * half
        bars.append(bar.rjust(left) if change < 0 else " " * left + bar)
    return bars


def _part(detail: Detail, width: int) -> list[RenderableType]:
    parts: list[RenderableType] = [_title(detail.title)]
    if detail.rows:
        parts += [_indent(part) for part in detail_table(detail, width)]
    mark = "· " if detail.rows else ""
    return [*parts, *(_indent(Text(f"{mark}{line}")) for line in detail.lines)]


def _trust(comparison: Comparison, full_report: str | None) -> list[RenderableType]:
    parts: list[RenderableType] = [_title(compare_trust.TITLE)]
    parts += [_indent(Text(f"· {line}")) for line in compare_trust.trust(comparison)]
    if full_report is not None:
        parts.append(Text(f"Full report: {safe(full_report, 1_000)}", overflow="fold"))
    return parts


def _title(text: str) -> Text:
    return Text(text, style="bold")


def _indent(part: RenderableType) -> Padding:
    return Padding(part, (0, 0, 0, 2))
