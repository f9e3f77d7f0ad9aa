"""The sections of the HTML report, in the order of the terminal's: verdict, time, causes, KV, what to do, trust."""

from collections.abc import Mapping
from html import escape

from vtprof_analyzer.report import (
    absent_phrases,
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
    IN_TRUST,
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
    scaled,
    size,
    time_range,
    tokens,
    whole_percent,
    whole_percents,
)
from vtprof_analyzer.report.html_details import inner, sections
from vtprof_analyzer.report.html_energy import energy as energy_section
from vtprof_analyzer.report.html_findings import findings
from vtprof_analyzer.report.html_tags import bar, cell, missing, note, row_head, section, table, text, tile
from vtprof_analyzer.report.model import BudgetRow, Percentiles, PhaseRow, Report


def body(report: Report, charts: Mapping[str, str]) -> str:
    """Return the page's body; ``charts`` holds the HTML of the charts that could be drawn."""
    parts = [
        _header(report),
        "<main>",
        _numbers(report),
        _dominance(report),
        _budget(report, charts.get("budget")),
        *sections(report, AFTER_TTFT),
        _roofline(report, charts.get("roofline")),
        *sections(report, AFTER_ROOFLINE),
        energy_section(report),
        _kv(report, charts.get("kv")),
        *sections(report, AFTER_KV),
        _engine(report),
        _strata(report),
        *sections(report, AFTER_STRATA),
        findings(report),
        _trust(report),
        "</main>",
        f"<footer>{escape(safe(report.generator))} · report schema {report.schema_version}</footer>",
    ]
    return "\n".join(part for part in parts if part)


def _header(report: Report) -> str:
    when = time_range(report.source.started_unix_nano, report.source.ended_unix_nano)
    paths = " ".join(safe(path, 120) for path in report.source.paths[:5])
    setting = phrases.setting(report.deployment)
    lead, rest = phrases.headline(report.headline)
    line = " · ".join(part for part in (setting, phrases.volume(report)) if part)
    return f"""<header class="page">
<div class="eyebrow"><span>vtprof analyze {escape(paths)}</span><span>{escape(when)}</span></div>
<h1>{escape(phrases.subject(report.deployment))}</h1>
<p class="soft">{text(line)}</p>
<p class="headline"><strong>{text(lead)}</strong> {text(rest)}</p>
</header>"""


def _numbers(report: Report) -> str:
    summary, kv = report.summary, report.kv
    peak = (
        known(kv.peak_usage_ratio, percent)
        if kv.peak_usage_ratio is not None
        else known(kv.peak_held_bytes, size)
    )
    at_least = "≥ " if kv.peak_kind == "mean" else ""
    whole = " (for all)" if phrases.is_sampled(report) else ""
    goodput = known(report.slo.goodput_share, percent) if report.slo.goodput_share is not None else DASH
    tiles = [
        tile(f"TTFT, p95{whole}", known(summary.ttft_ms.p95, duration), [_percentiles(summary.ttft_ms)]),
        tile(f"TPOT, p95{whole}", known(summary.tpot_ms.p95, duration), [_percentiles(summary.tpot_ms)]),
        tile(f"End to end, p95{whole}", known(summary.e2e_ms.p95, duration), [_percentiles(summary.e2e_ms)]),
        tile(
            f"Goodput{whole}",
            goodput,
            [line for line in (phrases.goodput(report).removeprefix(goodput), phrases.price(report)) if line],
        ),
        tile(
            "KV cache, peak",
            peak if peak == NOT_RECORDED else at_least + peak,
            [kv_phrases.kv_peak(report).replace("at least ", "").removeprefix(f"peak {peak}").strip(" ,")],
        ),
        tile(
            f"Prompt tokens{' of the kept' if whole else ''}",
            known(summary.input_tokens, lambda number: scaled(number, "")),
            [phrases.modalities(report), f"output {known(summary.output_tokens, tokens)}"],
        ),
    ]
    sampled = phrases.sampling(report)
    return f'<dl class="tiles">{"".join(tiles)}</dl>' + (note(f"Sampled: {sampled}.") if sampled else "")


def _percentiles(values: Percentiles) -> str:
    return f"p50 {known(values.p50, duration, DASH)} · p99 {known(values.p99, duration, DASH)}"


def _dominance(report: Report) -> str:
    rows = [
        row_head(name)
        + bar(row.share, row.threshold)
        + cell(known(row.share, percent), "n")
        + cell(percent(row.threshold), "n")
        + cell(
            {True: "dominant", False: "below"}.get(bool(row.dominant), DASH)
            if row.dominant is not None
            else DASH,
            "word",
        )
        for name, row in phrases.dominance_rows(report)
    ]
    heads = [("share of", ""), ("", ""), ("visual tokens", "n"), ("threshold", "n"), ("", "")]
    return section(
        "visual", "What visual tokens take",
        table("Visual tokens' share of each; the mark is the threshold", heads, rows),
        note(phrases.without_visual(report)), *(note(f"{line}.") for line in more_dominance(report, how=True)),
    )  # fmt: skip


def _budget(report: Report, chart: str | None) -> str:
    if chart is None:
        return section("ttft", "Where TTFT goes", missing(absent_phrases.no_ttft(report)))
    budget = report.ttft_budget
    everyone = _shares(budget.phases)
    slowest = _shares(budget.tail_phases)
    whole = {row.phase: row for row in budget.phases}
    phases = list(dict.fromkeys([row.phase for row in (*budget.phases, *budget.tail_phases)]))
    verdicts = {row.phase: row for row in report.phases}
    rows = [
        row_head(safe(phase, 24), colour=True)
        + cell(everyone.get(phase, DASH), "n")
        + cell(known(whole[phase].p50_ms, duration, DASH) if phase in whole else DASH, "n")
        + cell(known(whole[phase].p95_ms, duration, DASH) if phase in whole else DASH, "n")
        + cell(slowest.get(phase, DASH), "n")
        + cell(
            next(
                (known(row.p50_ms, duration, DASH) for row in budget.tail_phases if row.phase == phase), DASH
            ),
            "n",
        )
        + cell(phrases.verdict(verdicts[phase].bound) if phase in verdicts else "", "word")
        for phase in phases
    ]
    heads = [
        ("phase", ""),
        ("all: share", "n"),
        ("p50", "n"),
        ("p95", "n"),
        ("slowest: share", "n"),
        ("p50", "n"),
        ("verdict", ""),
    ]
    weighted = ", weighted" if phrases.is_sampled(report) else ""
    caption = (
        f"{count(budget.requests)} requests{phrases.kept(report)} with a first token, and the"
        f" {count(budget.tail_requests)} at or above p95{weighted}. "
        "A request without a phase counts as zero in its percentiles. Overlap is counted once; shares add up to 100 %."
    )
    return section("ttft", "Where TTFT goes", chart, table(caption, heads, rows))


def _shares(rows: list[BudgetRow]) -> dict[str, str]:
    wholes = whole_percents([row.share for row in rows])
    return {row.phase: known(whole, whole_percent, DASH) for row, whole in zip(rows, wholes, strict=True)}


def _roofline(report: Report, chart: str | None) -> str:
    roofs = [f"{phrases.roof_line(roof)}, from {safe(roof.source, 120)}" for roof in report.deployment.roofs]
    used = report.deployment.roof
    verdicts = f" The verdicts use the {safe(used.kind, 24)} one." if used and len(roofs) > 1 else ""
    if any(roof.device for roof in report.deployment.roofs):
        verdicts = " Each step is judged by its own device's, attainable where that was measured."
    parts = [
        note(absent_phrases.no_roof(report.deployment)) if used is None else "",
        note("; ".join(roofs) + "." + verdicts) if roofs else "",
        chart if chart is not None else missing(absent_phrases.no_roofline(report)),
    ]
    if chart is not None:
        parts.append(
            note(
                "Each dot holds steps of one phase with like intensity and rate; size is time. Diamonds are whole phases."
            )
        )
        if report.phases and all(row.intensity is None for row in report.phases):
            parts.append(note(absent_phrases.no_roofline(report)))
    if report.phases:
        parts.append(_phases(report))
        parts.append(note("; ".join(phrases.footnotes(report)) + "."))
        why = "".join(
            f"<li>{text(phrases.phase_reason(row))}</li>" for row in report.phases if row.explanation
        )
        parts.append(f'<ul class="why">{why}</ul>' if why else "")
    return section("roofline", "Phases against the roofline", *parts)


def _phases(report: Report) -> str:
    rows = report.phases
    columns = [
        ("phase", "", [row_head(safe(row.phase, 24), colour=True) for row in rows]),
        ("verdict", "", [cell(phrases.verdict(row.bound), "word") for row in rows]),
        ("sure", "", [_sure(row) for row in rows]),
    ]
    numbers = [
        ("time", [known(row.time_share, percent, DASH) for row in rows]),
        ("GPU time", [known(row.gpu_time_share, percent, DASH) for row in rows]),
        ("p50", [known(row.p50_ms, duration, DASH) for row in rows]),
        ("p95", [known(row.p95_ms, duration, DASH) for row in rows]),
        ("steps", [known(row.steps, count, DASH) for row in rows]),
        ("FLOP/B", [known(row.intensity, plain, DASH) for row in rows]),
        (
            "FLOP/s",
            [known(row.flops_per_s, lambda rate: scaled(rate, "").replace(" ", ""), DASH) for row in rows],
        ),
        ("floor", [known(row.floor_ratio, ratio, DASH) for row in rows]),
        ("DRAM", [known(row.dram_bw_ratio, percent, DASH) for row in rows]),
        ("tensor", [known(row.tensor_ratio, percent, DASH) for row in rows]),
        ("energy", [energy_phrases.of_phase(report.energy, row.phase) for row in rows]),
    ]
    # A column that nothing recorded says nothing.
    columns += [
        (name, "n", [cell(words, "n") for words in cells]) for name, cells in numbers if set(cells) != {DASH}
    ]
    return table(
        f"Percentiles over the requests{phrases.kept(report)} that had the phase, without zeros;"
        " roofline over the steps a phase ran in",
        [column[:2] for column in columns],
        ["".join(column[2][number] for column in columns) for number in range(len(report.phases))],
    )


def _sure(row: PhaseRow) -> str:
    if row.bound == phrases.NOT_JUDGED:
        return "<td></td>"
    label = f"confidence {escape(safe(row.confidence, 12))}"
    return f'<td class="dots"><span role="img" aria-label="{label}">{dots(row.confidence)}</span></td>'


def _kv(report: Report, chart: str | None) -> str:
    kv = report.kv
    known_rows = any(row.bytes is not None or row.share is not None for row in kv.by_modality)
    if chart is None and not known_rows:
        return section("kv", "KV footprint", missing(absent_phrases.no_kv(report)))
    shown = kv_phrases.kv_rows(report)
    wholes = whole_percents([row.share for row in shown])
    rows = [
        row_head(safe(row.modality, 24))
        + bar(row.share)
        + cell(known(whole, whole_percent), "n")
        + cell(known(row.bytes, size), "n")
        + cell(known(row.tokens, count), "n")
        for row, whole in zip(shown, wholes, strict=True)
    ]
    heads = [("tokens of", ""), ("", ""), ("share", "n"), ("KV", "n"), ("tokens", "n")]
    caption = f"{kv_phrases.kv_title(report)}: bytes by where the token came from"
    facts = (
        f"data type {known(kv.dtype, lambda name: safe(name, 24))}; {kv_phrases.kv_facts(report)}; "
        f"{kv_phrases.kv_peak(report)}. KV bytes: {safe(kv.how)}. {kv_phrases.kv_peak_how(report).capitalize()}."
    )
    return section(
        "kv", "KV footprint",
        chart if chart is not None else missing("Not drawn: when KV was held is not recorded."),
        table(caption, heads, rows) if known_rows else missing(absent_phrases.no_kv(report)),
        note(facts),
    )  # fmt: skip


def _engine(report: Report) -> str:
    if report.engine is None:
        return ""
    return section("engine", engine_phrases.TITLE, *map(note, engine_phrases.lines(report.engine)))


def _strata(report: Report) -> str:
    if not report.strata:
        return ""
    rows = [
        row_head(phrases.stratum(row.visual_stratum))
        + cell(count(row.requests), "n")
        + cell(known(row.ttft_ms_p50, duration), "n")
        + cell(known(row.ttft_ms_p95, duration), "n")
        for row in report.strata
    ]
    heads = [
        ("visual tokens", ""),
        (f"requests{phrases.kept(report)}", "n"),
        ("TTFT p50", "n"),
        ("TTFT p95", "n"),
    ]
    return section(
        "strata", "TTFT by visual tokens", table("Requests with a like number of visual tokens", heads, rows)
    )


def _trust(report: Report) -> str:
    integrity = report.integrity
    parts = [f"<p>{text(trust_phrases.trust(report))}</p>"]
    if report.deployment.notes:
        items = "".join(f"<li>{escape(safe(line, 400))}</li>" for line in report.deployment.notes)
        parts.append(f'<ul class="notes">{items}</ul>')
    if integrity.notes:
        rows = [
            row_head(safe(item.file, 80)) + cell(known(item.line, count, DASH), "n") + cell(safe(item.what))
            for item in integrity.notes
        ]
        parts.append(
            table(
                "What was wrong with the input (the first ones)",
                [("file", ""), ("line", "n"), ("what", "")],
                rows,
            )
        )
    return section("trust", "Can this be trusted?", *parts, *inner(report, IN_TRUST))
