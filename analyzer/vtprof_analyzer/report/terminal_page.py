"""A page of text for a terminal: blocks below each other, as wide as asked within bounds, without trailing blanks."""

from collections.abc import Iterable, Sequence
from io import StringIO
from typing import Final

from rich.console import Console, RenderableType

MIN_WIDTH: Final = 60
MAX_WIDTH: Final = 110


def page_width(width: int) -> int:
    """Return the columns that a page has where ``width`` are asked for: neither too few for a table nor too many to read."""
    return min(max(width, MIN_WIDTH), MAX_WIDTH)


def printed(blocks: Iterable[Sequence[RenderableType]], width: int, color: bool) -> str:
    """Return the blocks as text of ``page_width(width)`` columns, an empty line between those that hold anything."""
    out = StringIO()
    console = Console(
        file=out,
        width=page_width(width),
        force_terminal=color,
        color_system="standard" if color else None,
        no_color=not color,
        markup=False,
        highlight=False,
        emoji=False,
        legacy_windows=False,
        _environ={},
    )
    for block in blocks:
        for part in block:
            console.print(part)
        if block:
            console.print()
    lines = (line.rstrip() for line in out.getvalue().splitlines())
    return "\n".join(lines).strip("\n") + "\n"
