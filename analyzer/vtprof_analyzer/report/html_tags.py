"""The few HTML elements that the report's sections are made of; every text that goes in is escaped here."""

import re
from collections.abc import Iterable, Sequence
from html import escape

from vtprof_analyzer.report.charts import COLOURS, OTHER_COLOUR
from vtprof_analyzer.report.format import DASH, NOT_RECORDED

_NUMBER_AND_UNIT = re.compile(r"(?<=\d) (?=[%A-Za-zµ])")


def text(words: str) -> str:
    """Escape running text, and keep a number and its unit on one line."""
    return escape(_NUMBER_AND_UNIT.sub("\u00a0", words))


def section(anchor: str, title: str, *parts: str) -> str:
    """Return a section with its heading; the parts are HTML."""
    inner = "\n".join(part for part in parts if part)
    return (
        f'<section aria-labelledby="{anchor}">\n<h2 id="{anchor}">{escape(title)}</h2>\n{inner}\n</section>'
    )


def note(words: str) -> str:
    """Return a quiet paragraph."""
    return f'<p class="note">{text(words)}</p>'


def missing(words: str) -> str:
    """Return what stands where a chart or table would be, had it been recorded."""
    return f'<p class="missing">{text(words)}</p>'


def tile(name: str, value: str, more: Iterable[str] = ()) -> str:
    """Return one number with its name and what belongs to it."""
    unknown = " unknown" if value == NOT_RECORDED else ""
    lines = "".join(f'<dd class="more">{text(line)}</dd>' for line in more)
    return f'<div><dt>{escape(name)}</dt><dd class="value{unknown}">{escape(value)}</dd>{lines}</div>'


def cell(words: str, kind: str = "") -> str:
    """Return a table cell; ``kind`` is ``n`` for numbers or ``word``. Unknown values are set back."""
    classes = " ".join(part for part in (kind, "unknown" if words in (DASH, NOT_RECORDED) else "") if part)
    return f'<td class="{classes}">{text(words)}</td>' if classes else f"<td>{text(words)}</td>"


def row_head(words: str, colour: bool = False) -> str:
    """Return a row's header, with the phase's colour beside it."""
    swatch = (
        f'<span class="swatch" style="background:{COLOURS.get(words, OTHER_COLOUR)}"></span>'
        if colour
        else ""
    )
    return f'<th scope="row">{swatch}{text(words)}</th>'


def bar(share: float | None, threshold: float | None = None) -> str:
    """Return a cell with a bar for a share of one, and a mark at its threshold."""
    if share is None:
        return "<td></td>"
    mark = "" if threshold is None else f'<b style="left:{_clamped(threshold)}%"></b>'
    return (
        f'<td aria-hidden="true"><span class="bar"><i style="width:{_clamped(share)}%"></i>{mark}</span></td>'
    )


def _clamped(share: float) -> str:
    return f"{min(max(share, 0.0), 1.0) * 100:.2f}"


def table(caption: str, heads: Sequence[tuple[str, str]], rows: Iterable[str]) -> str:
    """Return a table that scrolls by itself when narrow; heads are (text, kind), rows are cells as HTML."""
    head = "".join(f'<th scope="col" class="{kind}">{escape(words)}</th>' for words, kind in heads)
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    label = escape(caption or "rows")
    return (
        (f'<p class="caption">{text(caption)}</p>\n' if caption else "")
        + f'<div class="scroll" role="region" aria-label="{label}" tabindex="0"><table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>"
    )
