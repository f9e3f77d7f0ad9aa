"""The report as short Markdown for a pull-request comment: verdict, numbers, phases, what to do, trust.

Foreign text is escaped so that it can be neither HTML, a link, a mention nor a table cell's end.
"""

import re
from collections.abc import Container, Iterable, Sequence

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
    count,
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

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~@&!])")


def render(report: Report) -> str:
    """Return the report as GitHub-flavoured Markdown."""
    lead, rest = phrases.headline(report.headline)
    when = time_range(report.source.started_unix_nano, report.source.ended_unix_nano)
    setting = phrases.setting(report.deployment)
    blocks = [
        f"### {escape(phrases.subject(report.deployment))}",
        escape(" · ".join(part for part in (setting, phrases.volume(report), when) if part)),
        (f"**{escape(lead)}** " if lead else "") + escape(rest),
        _numbers(report),
        f"#### Where TTFT goes ({phrases.population(report)})",
        _budget(report),
        *_more(report, AFTER_TTFT),
        "#### Phases against the roofline",
        escape(
            phrases.roof_line(report.deployment.roof, report.deployment.roofs)
            if report.deployment.roof
            else absent_phrases.no_roof(report.deployment)
        ),
        _phases(report),
        *_more(report, AFTER_ROOFLINE),
        *_energy(report),
        f"#### {kv_phrases.kv_title(report)} ({escape(safe(report.kv.how))})",
        _kv(report),
        *_more(report, AFTER_KV),
        *_engine(report),
        *_strata(report),
        *_more(report, AFTER_STRATA),
        "#### What to do, largest gain first",
        *(_finding(number, finding) for number, finding in enumerate(report.findings, start=1)),
        escape(advice_phrases.combined(report) or ""),
        advice_phrases.rule_counts(report.rules)
        if report.findings
        else f"{advice_phrases.NO_FINDING} {advice_phrases.rule_counts(report.rules)}",
        escape(advice_phrases.not_fired(report)),
        "#### Can this be trusted?",
        escape(trust_phrases.trust(report)),
        "\n".join(f"- {escape(safe(note, 300))}" for note in report.deployment.notes),
        f"<sub>{escape(safe(report.generator))}</sub>",
    ]
    return "\n\n".join(block for block in blocks if block.strip()) + "\n"


def escape(text: str) -> str:
    """Escape every character that means something to Markdown or HTML."""
    return _SPECIAL.sub(r"\\\1", text).replace("://", ":\u200b//")


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], words: Container[int] = (0,)) -> str:
    """Return a table whose columns are numbers, on the right, but those of ``words``."""
    rule = ["---" if column in words else "---:" for column in range(len(heads))]
    lines = [heads, rule, *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _percentiles(values: Percentiles) -> list[str]:
    return [known(value, duration) for value in (values.p50, values.p95, values.p99)]


def _numbers(report: Report) -> str:
    summary = report.summary
    table = _table(
        ("", "p50", "p95", "p99"),
        [
            ("TTFT", *_percentiles(summary.ttft_ms)),
            ("TPOT", *_percentiles(summary.tpot_ms)),
            ("End to end", *_percentiles(summary.e2e_ms)),
        ],
    )
    lines = [
        f"- goodput: {phrases.goodput(report)}",
        *([f"- cost: {phrases.price(report)}"] if phrases.price(report) else []),
        f"- KV: {kv_phrases.kv_peak(report)}",
        f"- tokens: {phrases.input_tokens(report)}",
        f"- visual: {phrases.visual_shares(report)}",
        *(f"- {escape(line)}" for line in more_dominance(report)),
    ]
    if sampled := phrases.sampling(report):
        lines.append(f"- sampled: {sampled}")
    return table + "\n\n" + "\n".join(lines)


def _budget(report: Report) -> str:
    rows = phrases.budget_rows(report.ttft_budget)
    if all(row.share is None for row in rows):
        return escape(absent_phrases.no_ttft(report))
    wholes = whole_percents([row.share for row in rows])
    return _table(
        ("phase", "share", "p50"),
        [
            (escape(safe(row.phase, 24)), known(whole, whole_percent), known(row.p50_ms, duration))
            for row, whole in zip(rows, wholes, strict=True)
        ],
    )


def _more(report: Report, parts: Sequence[Part]) -> list[str]:
    """Return the parts that every format shows alike."""
    shown = []
    for detail in brief_details(report, parts):
        shown.append(f"#### {escape(detail.title)}")
        if detail.rows:
            rows = [[escape(words) for words in row] for row in detail.rows]
            words = [column for column in range(len(detail.heads)) if detail.is_word(column)]
            shown.append(_table(detail.heads, rows, words))
        shown.append("\n".join(f"- {escape(line)}" for line in detail.lines))
    return shown


def _phases(report: Report) -> str:
    if not report.phases:
        return escape(absent_phrases.no_roofline(report))
    phases = report.phases
    columns = [
        ("phase", [escape(safe(row.phase, 24)) for row in phases]),
        ("verdict", [escape(phrases.sure_verdict(row)) for row in phases]),
        ("time", [known(row.time_share, percent, DASH) for row in phases]),
        ("steps", [known(row.steps, count, DASH) for row in phases]),
        ("FLOP/B", [known(row.intensity, plain, DASH) for row in phases]),
        ("floor / measured", [escape(known(row.floor_ratio, ratio, DASH)) for row in phases]),
        ("DRAM", [known(row.dram_bw_ratio, percent, DASH) for row in phases]),
        ("tensor", [known(row.tensor_ratio, percent, DASH) for row in phases]),
    ]
    columns = [(name, cells) for name, cells in columns if set(cells) != {DASH}]
    rows = list(zip(*(cells for _, cells in columns), strict=True))
    table = _table([name for name, _ in columns], rows, words=(0, 1))
    table += f"\n\n<sub>{escape('; '.join(phrases.footnotes(report)))}</sub>"
    if all(row.intensity is None for row in report.phases):
        return f"{table}\n\n{escape(absent_phrases.no_roofline(report))}"
    return table


def _energy(report: Report) -> list[str]:
    told = report.energy
    if told is None:
        return []
    rows = [[escape(words) for words in energy_phrases.cells(row, told)] for row in told.phases]
    return [
        f"#### {escape(energy_phrases.title(told))}",
        _table(energy_phrases.HEADS, rows, words=(0, len(energy_phrases.HEADS) - 1)) if rows else "",
        "\n".join(f"- {escape(line)}" for line in energy_phrases.lines(told, report.counters)),
    ]


def _kv(report: Report) -> str:
    rows = kv_phrases.kv_rows(report)
    if all(row.bytes is None and row.share is None for row in rows):
        return escape(absent_phrases.no_kv(report))
    wholes = whole_percents([row.share for row in rows])
    return _table(
        ("modality", "share", "KV", "tokens"),
        [
            (
                escape(safe(row.modality, 24)),
                known(whole, whole_percent),
                known(row.bytes, size),
                known(row.tokens, count),
            )
            for row, whole in zip(rows, wholes, strict=True)
        ],
    )


def _engine(report: Report) -> list[str]:
    if report.engine is None:
        return []
    lines = engine_phrases.lines(report.engine)
    return [f"#### {engine_phrases.TITLE}", "\n".join(f"- {escape(line)}" for line in lines)]


def _strata(report: Report) -> list[str]:
    if not report.strata:
        return []
    rows = [
        (
            escape(phrases.stratum(row.visual_stratum)),
            count(row.requests),
            known(row.ttft_ms_p50, duration),
            known(row.ttft_ms_p95, duration),
        )
        for row in report.strata
    ]
    return [
        "#### TTFT by visual tokens of the request",
        _table(("visual tokens", f"requests{phrases.kept(report)}", "p50", "p95"), rows),
    ]


def _finding(number: int, finding: Finding) -> str:
    name = " · ".join(
        escape(safe(part, limit))
        for part, limit in ((finding.severity, 12), (finding.rule, 16), (finding.title, 120))
    )
    lines = [
        f"{number}. **{name}**  ",
        f"   {escape(safe(finding.summary))}. {escape(advice_phrases.saving_line(finding.saving))}",
    ]
    for advice in finding.advice[:1]:
        mind = f" (mind: {escape(safe(advice.risk))})" if advice.risk else ""
        lines.append(f"   → {escape(safe(advice.action))}{mind}")
        line = advice_phrases.command(advice)
        if line:
            lines += ["", *_fenced(line)]
    notes = [
        advice_phrases.same_saving(finding),
        advice_phrases.ACCURACY if finding.accuracy else None,
        advice_phrases.reading(finding),
    ]
    lines += [f"   {escape(text)}" for text in notes if text]
    return "\n".join(lines)


def _fenced(line: str) -> list[str]:
    longest = max((len(run) for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"   {fence}sh", f"   {line}", f"   {fence}"]
