"""The parts that every format shows alike, as sections of the HTML report."""

from collections.abc import Sequence

from vtprof_analyzer.report.details import Part, details
from vtprof_analyzer.report.details_parts import Detail
from vtprof_analyzer.report.html_tags import cell, note, row_head, section, table
from vtprof_analyzer.report.model import Report


def sections(report: Report, parts: Sequence[Part]) -> list[str]:
    """Return a section for each part that has something to say."""
    return [section(detail.anchor, detail.title, *_content(detail)) for detail in details(report, parts)]


def inner(report: Report, parts: Sequence[Part]) -> list[str]:
    """Return the parts' contents alone, to stand within another section; tables keep their headings as captions."""
    return [
        piece
        for detail in details(report, parts)
        for piece in _content(detail, f"{detail.title}. {detail.caption}".strip())
    ]


def _content(detail: Detail, caption: str | None = None) -> list[str]:
    content = [note(line if line.endswith((".", "…")) else f"{line}.") for line in detail.lines]
    if detail.rows:
        # A row's own head stands on the left, be it a number.
        heads = [(head, "" if n == 0 or detail.is_word(n) else "n") for n, head in enumerate(detail.heads)]
        rows = [
            row_head(row[0])
            + "".join(cell(words, _kind(detail, n)) for n, words in enumerate(row[1:], start=1))
            for row in detail.rows
        ]
        content.append(table(detail.caption if caption is None else caption, heads, rows))
    return content


def _kind(detail: Detail, column: int) -> str:
    """Return the class of a cell: a number, words of one line, or, in the last column, a sentence."""
    if not detail.is_word(column):
        return "n"
    return "word" if column < len(detail.heads) - 1 else ""
