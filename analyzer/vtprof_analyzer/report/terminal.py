"""The report as text for a terminal: 80 columns, readable without colour, the verdict on the first screen.

Everything goes through ``rich`` as ``Text`` objects, never as markup: what a trace says cannot style the page.
"""

from collections.abc import Sequence
from functools import partial

from rich.cells import set_cell_size
from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from vtprof_analyzer.report import (
    absent_phrases,
    advice_phrases,
    energy_phrases,
    engine_phrases,
    kv_phrases,
    phrases,
    trust_phrases,
)
from vtprof_analyzer.report.details import (
    AFTER_KV,
    AFTER_ROOFLINE,
    AFTER_STRATA,
    AFTER_TTFT,
    Part,
    brief_details,
)
from vtprof_analyzer.report.details_kv import more_dominance
from vtprof_analyzer.report.format import (
    DASH,
    NOT_RECORDED,
    count,
    dots,
    duration,
    known,
    percent,
    plain,
    ratio,
    safe,
    size,
    time_range,
    whole_percent,
    whole_percents,
)
from vtprof_analyzer.report.model import Finding, Percentiles, Report
from vtprof_analyzer.report.terminal_page import page_width, printed
from vtprof_analyzer.report.terminal_table import detail_table

FINDINGS_IN_FULL = 3
BAR_CELLS = 24
_EIGHTHS = " ▏▎▍▌▋▊▉"
_SEVERITY_STYLE = {"high": "bold red", "medium": "bold yellow", "low": "bold", "info": "dim"}
_SEVERITY_WORD = {"high": "HIGH", "medium": "MED", "low": "LOW", "info": "INFO"}


def render(report: Report, width: int = 80, color: bool = False, full_report: str | None = None) -> str:
    """Return the report for a terminal of ``width`` columns; ``full_report`` is the path of the HTML page."""
    more = partial(_more, width=page_width(width))
    blocks = (
        _head, _numbers, _verdict, _budget, partial(more, parts=AFTER_TTFT), _roofline,
        partial(more, parts=AFTER_ROOFLINE), _energy, _kv, partial(more, parts=AFTER_KV), _engine, _strata,
        partial(more, parts=AFTER_STRATA), _advice,
    )  # fmt: skip
    return printed([*(block(report) for block in blocks), _trust(report, full_report)], width, color)


def _head(report: Report) -> list[RenderableType]:
    grid = Table.grid(expand=True)
    grid.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    grid.add_column(no_wrap=True, justify="right")
    when = time_range(report.source.started_unix_nano, report.source.ended_unix_nano)
    grid.padding = (0, 2, 0, 0)
    grid.add_row(
        Text("vtprof analyze " + " ".join(safe(path) for path in report.source.paths), style="dim"),
        Text(when),
    )
    setting = phrases.setting(report.deployment)
    line = (
        phrases.subject(report.deployment)
        + (f" ({setting})" if setting else "")
        + " · "
        + phrases.volume(report)
    )
    return [grid, Text(line, style="bold")]


def _numbers(report: Report) -> list[RenderableType]:
    grid = _grid()
    grid.add_column(no_wrap=True)
    grid.add_column()
    summary = report.summary
    grid.add_row("TTFT", _percentiles(summary.ttft_ms))
    grid.add_row("TPOT", _percentiles(summary.tpot_ms))
    grid.add_row("goodput", phrases.goodput(report))
    if price := phrases.price(report):
        grid.add_row("cost", price)
    grid.add_row("KV", kv_phrases.kv_peak(report))
    grid.add_row("tokens", phrases.input_tokens(report))
    if sampled := phrases.sampling(report):
        grid.add_row("sampled", sampled)
    return [grid]


def _percentiles(values: Percentiles) -> str:
    pairs = (("p50", values.p50), ("p95", values.p95), ("p99", values.p99))
    if all(value is None for _, value in pairs):
        return NOT_RECORDED
    return "   ".join(set_cell_size(f"{name} {known(value, duration, DASH)}", 13) for name, value in pairs)


def _verdict(report: Report) -> list[RenderableType]:
    lead, rest = phrases.headline(report.headline)
    said = Text.assemble((lead.upper(), "bold"), " " if lead and rest else "", rest)
    return [said, *(Text(line) for line in more_dominance(report))]


def _budget(report: Report) -> list[RenderableType]:
    budget = report.ttft_budget
    rows = phrases.budget_rows(budget)
    if all(row.share is None for row in rows):
        return [_title("Where TTFT goes"), _indent(Text(absent_phrases.no_ttft(report)))]
    verdicts = {row.phase: phrases.verdict(row.bound) for row in report.phases}
    grid = _grid()
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True, width=BAR_CELLS)
    grid.add_column(no_wrap=True, justify="right")
    grid.add_column(no_wrap=True, justify="right")
    grid.add_column(no_wrap=True, overflow="ellipsis")
    for row, whole in zip(rows, whole_percents([row.share for row in rows]), strict=True):
        grid.add_row(
            safe(row.phase, 16),
            _bar(row.share),
            known(whole, whole_percent, DASH),
            known(row.p50_ms, duration, DASH),
            verdicts.get(row.phase, ""),
        )
    return [
        _title(f"Where TTFT goes ({phrases.population(report)}: share, median with zeros)"),
        _indent(grid),
    ]


def _bar(share: float | None) -> str:
    """Return a bar whose full length is 100 %."""
    if share is None:
        return ""
    eighths = round(min(max(share, 0.0), 1.0) * BAR_CELLS * 8)
    return "█" * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")


def _more(report: Report, width: int, parts: Sequence[Part]) -> list[RenderableType]:
    """Return the parts that all formats show alike, one below the other."""
    shown: list[RenderableType] = []
    for detail in brief_details(report, parts):
        shown += [Text(), _title(detail.title)] if shown else [_title(detail.title)]
        if detail.rows:
            shown += [_indent(part) for part in detail_table(detail, width - 2)]
        shown += [_indent(Text(f"· {line}" if not detail.rows else line)) for line in detail.lines]
    return shown


def _roofline(report: Report) -> list[RenderableType]:
    roof = report.deployment.roof
    parts: list[RenderableType] = [_title("Phases against the roofline")]
    parts.append(
        _indent(
            Text(
                phrases.roof_line(roof, report.deployment.roofs)
                if roof
                else absent_phrases.no_roof(report.deployment)
            )
        )
    )
    if not report.phases:
        return [*parts, _indent(Text(absent_phrases.no_roofline(report)))]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", collapse_padding=True)
    table.add_column("phase", no_wrap=True)
    columns = [
        ("steps", [known(row.steps, count, DASH) for row in report.phases]),
        ("time", [known(row.time_share, percent, DASH) for row in report.phases]),
        ("FLOP/B", [known(row.intensity, plain, DASH) for row in report.phases]),
        ("floor", [known(row.floor_ratio, ratio, DASH) for row in report.phases]),
        ("DRAM", [known(row.dram_bw_ratio, percent, DASH) for row in report.phases]),
        ("tensor", [known(row.tensor_ratio, percent, DASH) for row in report.phases]),
    ]
    columns = [(name, cells) for name, cells in columns if set(cells) != {DASH}]
    for name, _ in columns:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True, overflow="ellipsis")
    table.add_column("", no_wrap=True, min_width=3)
    for number, row in enumerate(report.phases):
        table.add_row(
            safe(row.phase, 12),
            *(cells[number] for _, cells in columns),
            phrases.verdict(row.bound),
            "" if row.bound == phrases.NOT_JUDGED else dots(row.confidence),
        )
    parts.append(_indent(table))
    parts.append(_indent(Text("; ".join(phrases.footnotes(report)), style="dim")))
    if all(row.intensity is None for row in report.phases):
        parts.append(_indent(Text(absent_phrases.no_roofline(report))))
    return parts + [
        _indent(Text("· " + phrases.phase_reason(row))) for row in report.phases if row.explanation
    ]


def _energy(report: Report) -> list[RenderableType]:
    told = report.energy
    if told is None:
        return []
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", collapse_padding=True)
    for head in energy_phrases.HEADS:
        table.add_column(head, justify="left" if head in ("phase", "label") else "right", no_wrap=True)
    for row in told.phases:
        table.add_row(*energy_phrases.cells(row, told))
    return [
        _title(energy_phrases.title(told)),
        *([_indent(table)] if told.phases else []),
        *(_indent(Text("· " + line)) for line in energy_phrases.lines(told, report.counters)),
    ]


def _kv(report: Report) -> list[RenderableType]:
    kv = report.kv
    known_rows = [row for row in kv.by_modality if row.share is not None or row.bytes is not None]
    parts: list[RenderableType] = [_title(f"{kv_phrases.kv_title(report)} ({safe(kv.how)})")]
    if not known_rows:
        return [*parts, _indent(Text(absent_phrases.no_kv(report)))]
    grid = _grid()
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True, width=BAR_CELLS)
    for _ in range(3):
        grid.add_column(no_wrap=True, justify="right")
    shown = kv_phrases.kv_rows(report)
    wholes = whole_percents([row.share for row in shown])
    for row, whole in zip(shown, wholes, strict=True):
        grid.add_row(
            safe(row.modality, 16),
            _bar(row.share),
            known(whole, whole_percent, DASH),
            known(row.bytes, size, DASH),
            known(row.tokens, lambda number: f"{count(number)} tokens", DASH),
        )
    parts.append(_indent(grid))
    how = kv_phrases.kv_peak_how(report)
    parts.append(_indent(Text(
        kv_phrases.kv_facts(report) + (f"; {how}" if how else ""), style="dim",
    )))  # fmt: skip
    return parts


def _engine(report: Report) -> list[RenderableType]:
    if report.engine is None:
        return []
    lines = engine_phrases.lines(report.engine)
    return [_title(f"{engine_phrases.TITLE} ({lines[0]})"), *(_indent(Text(line)) for line in lines[1:])]


def _strata(report: Report) -> list[RenderableType]:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", collapse_padding=True)
    table.add_column("visual tokens", no_wrap=True)
    for name in (f"requests{phrases.kept(report)}", "p50", "p95"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in report.strata:
        table.add_row(
            phrases.stratum(row.visual_stratum),
            count(row.requests),
            known(row.ttft_ms_p50, duration, DASH),
            known(row.ttft_ms_p95, duration, DASH),
        )
    if not report.strata:
        return [_title("TTFT by visual tokens"), _indent(Text(f"Tokens by modality: {NOT_RECORDED}."))]
    return [_title("TTFT by visual tokens of the request"), _indent(table)]


def _advice(report: Report) -> list[RenderableType]:
    parts: list[RenderableType] = [_title("What to do, largest gain first")]
    if not report.findings:
        parts.append(_indent(Text(advice_phrases.NO_FINDING)))
    grid = _grid()
    for _ in range(3):
        grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for number, finding in enumerate(report.findings, start=1):
        in_full = number <= FINDINGS_IN_FULL and not finding.same_saving_as
        title = Text(safe(finding.title, 120), style="bold" if in_full else "")
        grid.add_row(str(number), _severity(finding), safe(finding.rule, 12), title)
        if same := advice_phrases.same_saving(finding):
            grid.add_row("", "", "", Text(same, style="dim"))
        for line in _details(finding) if in_full else ():
            grid.add_row("", "", "", line)
    if grid.row_count:
        parts.append(_indent(grid))
    if together := advice_phrases.combined(report):
        parts.append(_indent(Text(together)))
    parts.append(_indent(Text(advice_phrases.rule_counts(report.rules), style="dim")))
    if silent := advice_phrases.not_fired(report):
        parts.append(_indent(Text(silent, style="dim")))
    return parts


def _details(finding: Finding) -> list[Text]:
    lines = [Text(f"{safe(finding.summary)}. {advice_phrases.saving_line(finding.saving)}")]
    for advice in finding.advice[:1]:
        mind = f" (mind: {safe(advice.risk)})" if advice.risk else ""
        lines.append(Text(f"→ {safe(advice.action)}{mind}"))
        line = advice_phrases.command(advice)
        if line:
            lines.append(Text(line, style="cyan"))
    if finding.accuracy:
        lines.append(Text(advice_phrases.ACCURACY, style="dim"))
    if reading := advice_phrases.reading(finding):
        lines.append(Text(reading))
    return lines


def _severity(finding: Finding) -> Text:
    word = _SEVERITY_WORD.get(finding.severity, safe(finding.severity, 6).upper())
    return Text(word, style=_SEVERITY_STYLE.get(finding.severity, ""))


def _trust(report: Report, full_report: str | None) -> list[RenderableType]:
    parts: list[RenderableType] = [
        Text.assemble(("Can this be trusted? ", "bold"), trust_phrases.trust(report))
    ]
    parts += [_indent(Text("· " + safe(note, 300))) for note in report.deployment.notes]
    if full_report is not None:
        parts.append(Text(f"Full report: {safe(full_report, 1_000)}", overflow="fold"))
    return parts


def _title(text: str) -> Text:
    return Text(text, style="bold")


def _grid() -> Table:
    return Table.grid(padding=(0, 2, 0, 0))


def _indent(part: RenderableType) -> Padding:
    return Padding(part, (0, 0, 0, 2))
