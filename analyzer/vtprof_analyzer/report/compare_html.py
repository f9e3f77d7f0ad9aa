"""A comparison as one HTML page that needs no network, in the look of the report: verdict, pictures, tables, trust."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Final

from vtprof_analyzer.regress.comparison import Comparison
from vtprof_analyzer.report import compare_charts, compare_tables, compare_trust, compare_ttft, html
from vtprof_analyzer.report.compare_headline import headline, mean_ttft
from vtprof_analyzer.report.compare_json import SCHEMA_VERSION, generator
from vtprof_analyzer.report.compare_phrases import (
    NOISE_SOURCES,
    NOT_KNOWN,
    change,
    finite,
    joined,
    magnitude,
    phase_name,
    runs,
    small,
    volume,
    what,
)
from vtprof_analyzer.report.details_parts import Detail
from vtprof_analyzer.report.format import DASH, counted
from vtprof_analyzer.report.html_tags import cell, missing, note, row_head, section, table, text, tile

_ASSETS: Final = Path(__file__).with_name("assets")
_TONES: Final = {
    "regression": "worse",
    "improvement": "better",
    "no_change": "same",
    "insufficient_data": "unsure",
}
_WARNINGS: Final = 60
_NAMED: Final = 3


def render(comparison: Comparison) -> str:
    """Return the page."""
    specs = {name: spec for name, spec in compare_charts.specs(comparison).items() if spec is not None}
    places = {name: html.place(name, spec) for name, spec in specs.items()}
    page = Template((_ASSETS / "page.html").read_text(encoding="utf-8"))
    style = "".join((_ASSETS / name).read_text(encoding="utf-8") for name in ("style.css", "compare.css"))
    return page.substitute(
        title=escape(f"vtprof · {runs(comparison.base)} → {runs(comparison.new)}"),
        style=style,
        body=_body(comparison, places),
        scripts=html.scripts(specs) if specs else "",
    )


def _body(comparison: Comparison, charts: Mapping[str, str]) -> str:
    parts = [
        _header(comparison),
        "<main>",
        _warnings(comparison),
        _numbers(comparison),
        _ttft(comparison, charts.get("ttft")),
        *_effects(comparison, charts.get("effects")),
        _detail(compare_tables.shifts(comparison, brief=False)),
        *_strata(comparison, charts.get("strata")),
        *(_detail(detail) for detail in compare_tables.metrics(comparison, brief=False)),
        _trust(comparison),
        "</main>",
        f"<footer>{escape(generator())} · comparison schema {SCHEMA_VERSION}</footer>",
    ]
    return "\n".join(part for part in parts if part)


def _header(comparison: Comparison) -> str:
    lead, rest = headline(comparison)
    sides = "".join(
        f'<p class="soft">{name} {text(runs(side))} · {text(volume(side))}</p>'
        for name, side in (("BASE", comparison.base), ("NEW", comparison.new))
    )
    return f"""<header class="page">
<div class="eyebrow"><span>vtprof compare</span></div>
<h1>{text(runs(comparison.base))} → {text(runs(comparison.new))}</h1>
{sides}
<p class="headline {_TONES[comparison.verdict]}"><strong>{text(lead)}</strong> {text(rest)}</p>
</header>"""


def _warnings(comparison: Comparison) -> str:
    items = "".join(f"<li>{text(line)}</li>" for line in compare_trust.warnings(comparison, _WARNINGS))
    return f'<ul class="doubts">{items}</ul>' if items else ""


def _numbers(comparison: Comparison) -> str:
    base, new, moved = mean_ttft(comparison)
    found = [f"{what(effect)} {change(effect.effect_ratio)}" for effect in comparison.causes]
    better = [f"{what(effect)} {change(effect.effect_ratio)}" for effect in comparison.improvements]
    workload = [
        name
        for name, flag in (("mix", comparison.workload_shift), ("load", comparison.load_increase))
        if flag
    ]
    # What would show as several times as much alone (a queue, unexplained time) makes no range with the others.
    known = [
        (phase, ratio)
        for phase, ratio in comparison.mde.items()
        if finite(ratio) is not None and ratio <= 0.5
    ]
    least = sorted(known, key=lambda item: item[1])
    noise = finite(comparison.run_noise_ratio)
    tiles = [
        tile("Mean TTFT", moved if moved != DASH else NOT_KNOWN, [f"{base} → {new}"]),
        tile("Regressions", str(len(found)), [joined(found, _NAMED) or "none found"]),
        tile("Improvements", str(len(better)), [joined(better, _NAMED) or "none found"]),
        tile(
            "Workload", "other " + " and ".join(workload) if workload else "alike",
            [f"{counted(len(comparison.shifts), 'difference')} beyond the thresholds"],
        ),
        tile(
            "Minimum detectable effect", _range([ratio for _, ratio in least]),
            [joined([f"{phase_name(phase)} {magnitude(ratio)}" for phase, ratio in least], 2 * _NAMED)],
        ),
        tile(
            "Run-to-run noise", NOT_KNOWN if noise is None else small(noise),
            [NOISE_SOURCES[comparison.run_noise_source]],
        ),
    ]  # fmt: skip
    return f'<dl class="tiles">{"".join(tiles)}</dl>'


def _range(ratios: Sequence[float]) -> str:
    if not ratios:
        return NOT_KNOWN
    least, most = magnitude(ratios[0]), magnitude(ratios[-1])
    return least if least == most else f"{least.removesuffix(' %')} to {most}"


def _ttft(comparison: Comparison, chart: str | None) -> str:
    told = compare_ttft.budget(comparison)
    if told is None:
        return section("ttft", compare_ttft.TITLE, missing(compare_ttft.NONE))
    rows = [
        row_head("BASE") + cell(told.base, "n") + cell("", "n"),
        *(row_head(row.name) + cell(row.shown_ms, "n") + cell(row.shown_ratio, "n") for row in told.rows),
        row_head("NEW") + cell(told.new, "n") + cell(told.ratio, "n"),
    ]
    heads = [("part", ""), ("TTFT", "n"), ("of BASE", "n")]
    numbers = table("", heads, rows)
    return section(
        "ttft", compare_ttft.TITLE, note(compare_ttft.note(comparison)), chart or "",
        f"<details><summary>The numbers</summary>{numbers}</details>" if chart else numbers,
    )  # fmt: skip


def _effects(comparison: Comparison, chart: str | None) -> list[str]:
    details = compare_tables.effects(comparison, brief=False)
    if not details:
        return [section("effects", "Effects", missing("No phase could be compared."))]
    legend = "Line: interval, which may go beyond the edge; diamond: found; grey: changes below the MDE."
    first = [note(f"{compare_tables.effect_note(comparison)}. {legend if chart else ''}"), chart or ""]
    return [
        _detail(detail, *(first if number == 0 else []), anchor=f"effects-{number}")
        for number, detail in enumerate(details)
    ]


def _strata(comparison: Comparison, chart: str | None) -> list[str]:
    details = compare_tables.strata(comparison, brief=False)
    return [
        _detail(detail, chart or "", folded=chart is not None) if number == 0 and chart else _detail(detail)
        for number, detail in enumerate(details)
    ]


def _detail(detail: Detail, *before: str, anchor: str | None = None, folded: bool = False) -> str:
    parts = list(before)
    if detail.rows:
        heads = [(head, "" if detail.is_word(column) else "n") for column, head in enumerate(detail.heads)]
        rows = [
            row_head(row[0])
            + "".join(
                cell(words, "word" if detail.is_word(column) else "n")
                for column, words in enumerate(row[1:], 1)
            )
            for row in detail.rows
        ]
        shown = table(detail.caption, heads, rows)
        parts.append(f"<details><summary>The numbers</summary>{shown}</details>" if folded else shown)
    parts += [note(line if line.endswith((".", "…")) else f"{line}.") for line in detail.lines]
    return section(anchor or detail.anchor, detail.title, *parts)


def _trust(comparison: Comparison) -> str:
    items = "".join(f"<li>{text(line)}</li>" for line in compare_trust.trust(comparison))
    return section("trust", compare_trust.TITLE, f'<ul class="notes">{items}</ul>')
