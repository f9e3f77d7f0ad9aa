"""Print rows in columns, for a terminal or as Markdown."""

from collections.abc import Iterator, Sequence

Row = Sequence[str]


def lines(rows: Sequence[Row], *, markdown: bool) -> Iterator[str]:
    """Yield the lines of a table; the first row is its head."""
    if markdown:
        yield "| " + " | ".join(rows[0]) + " |"
        yield "|---" * len(rows[0]) + "|"
        yield from ("| " + " | ".join(row) + " |" for row in rows[1:])
        return
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()
