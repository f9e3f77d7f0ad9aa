"""A table of a report's part in a terminal, as wide as there is room."""

from typing import Final, Literal

from rich.cells import cell_len
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from vtprof_analyzer.report.details_parts import Detail

_LEAST_WORDS: Final = 14
"""Cells that a column of words keeps where there is little room."""
_LEAST_HEAD: Final = 20
"""Those of the first column, which tells the rows apart."""


def detail_table(detail: Detail, width: int) -> list[RenderableType]:
    """Return a part's table; numbers are never cut: columns that find no room are named below it."""
    needs = [
        max(cell_len(words) for words in (head, *(row[column] for row in detail.rows)))
        for column, head in enumerate(detail.heads)
    ]
    kept = [_LEAST_HEAD, *[_LEAST_WORDS] * (len(needs) - 1)]
    least = [min(need, kept[column]) if detail.is_word(column) else need for column, need in enumerate(needs)]
    fit = len(least)
    while fit > 1 and sum(least[:fit]) + 2 * (fit - 1) > width:
        fit -= 1
    room = width - sum(least[:fit]) - 2 * (fit - 1)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", collapse_padding=True)
    for column, head in enumerate(detail.heads[:fit]):
        more = min(room, needs[column] - least[column])
        room -= more
        justify: Literal["left", "right"] = "left" if detail.is_word(column) else "right"
        table.add_column(head, justify=justify, no_wrap=True, overflow="ellipsis", width=least[column] + more)
    for row in detail.rows:
        table.add_row(*row[:fit])
    left = ", ".join(head for head in detail.heads[fit:])
    return [table, Text(f"no room here: {left}", style="dim")] if left else [table]
