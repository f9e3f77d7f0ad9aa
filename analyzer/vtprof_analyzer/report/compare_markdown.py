"""A comparison as Markdown for a pull-request comment: the verdict and what was found, the tables folded away.

Foreign text is escaped so that it can be neither HTML, a link, a mention, a reference nor a table cell's end.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from vtprof_analyzer.regress.comparison import Comparison
from vtprof_analyzer.report import compare_tables, compare_trust, compare_ttft
from vtprof_analyzer.report.compare_headline import CAUSES, effect_sentence, headline
from vtprof_analyzer.report.compare_json import generator
from vtprof_analyzer.report.compare_phrases import models, runs, volume
from vtprof_analyzer.report.details_parts import Detail
from vtprof_analyzer.report.format import count
from vtprof_analyzer.report.markdown import escape as escape_markdown

LIMIT: Final = 60_000
"""Characters; GitHub refuses comments of more than 65,536."""
_FINDINGS: Final = 12
_WARNINGS: Final = 6
_UNLINKED: Final = (("@", "@\u200b"), ("#", "#\u200b"), ("www.", "www\u200b."))
"""GitHub makes mentions and references of rendered text, where a backslash has gone."""


def render(comparison: Comparison) -> str:
    """Return the comparison as GitHub-flavoured Markdown of at most ``LIMIT`` characters."""
    lead, rest = headline(comparison)
    shown = [
        f"### vtprof compare: {escape(runs(comparison.base))} → {escape(runs(comparison.new))}",
        f"**{escape(lead)}** {escape(rest)}",
        _findings(comparison),
        _workload(comparison),
        _list(f"⚠ {line}" for line in compare_trust.warnings(comparison, _WARNINGS)),
    ]
    end = [
        "\n".join(
            ("<details><summary>Can this be trusted?</summary>", "", _trust(comparison), "", "</details>")
        ),
        f"<sub>{escape(generator())}</sub>",
    ]
    room = LIMIT - sum(len(block) + 2 for block in (*shown, *end)) - _REST
    return "\n\n".join(block for block in (*shown, _folded(comparison, room), *end) if block.strip()) + "\n"


_REST: Final = 500
"""Characters kept for what surrounds the tables."""


def escape(text: str) -> str:
    """Escape every character that means something to Markdown, HTML or GitHub."""
    escaped = escape_markdown(text)
    for mark, broken in _UNLINKED:
        escaped = escaped.replace(mark, broken)
    return escaped


def _findings(comparison: Comparison) -> str:
    several = len(models(comparison)) > 1
    found = [*comparison.causes, *comparison.improvements]
    if len(found) <= CAUSES:
        return ""  # the verdict has said it
    lines = [effect_sentence(effect, several) for effect in found[:_FINDINGS]]
    more = len(found) - _FINDINGS
    return _list([*lines, *([f"{count(more)} more"] if more > 0 else [])])


def _workload(comparison: Comparison) -> str:
    if not comparison.shifts:
        return ""
    detail = compare_tables.shifts(comparison, brief=True)
    rows = [f"{what}: {base} → {new} ({change})" for what, base, new, change, _ in detail.rows[:_FINDINGS]]
    return f"The workload differs, which is no regression:\n\n{_list(rows)}"


def _folded(comparison: Comparison, room: int) -> str:
    """Return the tables that have room, folded away."""
    blocks, left = [], 0
    for block in _tables(comparison):
        if len(block) + 2 > room:
            left += 1
            continue
        blocks.append(block)
        room -= len(block) + 2
    if left:
        blocks.append(f"{count(left)} tables more in HTML and JSON: no room in a comment.")
    inner = "\n\n".join(blocks)
    return f"<details><summary>Effects, where TTFT's change comes from, raw figures</summary>\n\n{inner}\n\n</details>"


def _tables(comparison: Comparison) -> list[str]:
    effects = compare_tables.effects(comparison, brief=True)
    return [
        _budget(comparison),
        *(_detail(detail) for detail in effects),
        f"<sub>{escape(compare_tables.effect_note(comparison))}</sub>",
        _detail(compare_tables.shifts(comparison, brief=True)),
        *(_detail(detail) for detail in compare_tables.strata(comparison, brief=True)),
        *(_detail(detail) for detail in compare_tables.metrics(comparison, brief=True)),
    ]


def _budget(comparison: Comparison) -> str:
    told = compare_ttft.budget(comparison)
    if told is None:
        return f"#### {compare_ttft.TITLE}\n\n{escape(compare_ttft.NONE)}"
    rows = [
        ("BASE", told.base, ""),
        *((escape(row.name), row.shown_ms, row.shown_ratio) for row in told.rows),
        ("NEW", told.new, told.ratio),
    ]
    note = f"<sub>{escape(compare_ttft.note(comparison))}</sub>"
    shown = _table(("", "TTFT", "of BASE"), rows, (True, False, False))
    return "\n\n".join((f"#### {compare_ttft.TITLE}", shown, note))


def _detail(detail: Detail) -> str:
    parts = [f"#### {escape(detail.title)}"]
    if detail.rows:
        rows = [[escape(words) for words in row] for row in detail.rows]
        parts.append(
            _table(detail.heads, rows, [detail.is_word(index) for index in range(len(detail.heads))])
        )
    if detail.lines:
        parts.append(_list(detail.lines))
    return "\n\n".join(parts)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], words: Sequence[bool]) -> str:
    rule = ["---" if is_word else "---:" for is_word in words]
    return "\n".join("| " + " | ".join(line) + " |" for line in (heads, rule, *rows))


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {escape(line)}" for line in lines)


def _trust(comparison: Comparison) -> str:
    sides = [
        f"{name}: {runs(side)} · {volume(side)}"
        for name, side in (("BASE", comparison.base), ("NEW", comparison.new))
    ]
    return _list([*sides, *compare_trust.trust(comparison)])
