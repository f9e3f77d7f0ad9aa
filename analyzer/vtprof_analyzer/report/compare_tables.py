"""The tables of a comparison: effects, shifts of the workload, strata and raw figures, before any layout."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from vtprof_analyzer.regress.comparison import Comparison, Effect, Metric, StratumEffect
from vtprof_analyzer.report.compare_phrases import (
    NOT_JUDGED,
    SENTENCE,
    both_values,
    change,
    finite,
    interval,
    joined,
    level,
    magnitude,
    metric_name,
    model_name,
    models,
    number_of,
    outcome,
    shift_change,
    shift_value,
    unit_of,
    value,
    what,
)
from vtprof_analyzer.report.details_parts import Detail
from vtprof_analyzer.report.format import DASH, count, percent, safe
from vtprof_schemas import names

BRIEF_ROWS: Final = 24
"""Rows of a table in terminal and Markdown."""
ROWS: Final = 400
"""Rows of a table in HTML; the JSON document has all."""
_MODELS: Final = 8
_LINES: Final = 6
_EVIDENCE: Final = 3
_FEW_LIKE: Final = 0.9
_STATISTICS: Final = ("p50", "p95", "p99", "mean")


def effects(comparison: Comparison, brief: bool) -> list[Detail]:
    """Return what was found of each phase, a table for each model."""
    told = models(comparison)
    tables = [
        _effects_of(comparison, model, brief, f" of {model_name(model)}" if len(told) > 1 else "")
        for model in told[:_MODELS]
    ]
    if len(told) > _MODELS:
        left = f"{count(len(told) - _MODELS)} more models in the JSON document"
        tables[-1] = replace(tables[-1], lines=[*tables[-1].lines, left])
    return tables


def _effects_of(comparison: Comparison, model: str, brief: bool, whose: str) -> Detail:
    found = [effect for effect in comparison.effects if effect.model == model]
    shown = found[: BRIEF_ROWS if brief else ROWS]
    heads: tuple[str, ...] = (
        "phase",
        "change",
        f"{level(comparison)} interval",
        "outcome",
        "MDE",
        "BASE",
        "NEW",
    )
    rows: list[tuple[str, ...]] = [
        (
            what(effect),
            change(effect.effect_ratio),
            interval(effect.ci_low, effect.ci_high),
            outcome(effect),
            _least(effect),
            number_of(effect.requests_base),
            number_of(effect.requests_new),
        )
        for effect in shown
    ]
    if not brief:
        heads = (*heads, "BASE → NEW", "overlap")
        rows = [
            (*row, both_values(effect), _share(effect.overlap))
            for row, effect in zip(rows, shown, strict=True)
        ]
    return Detail(
        "effects",
        f"Effects{whose}, at like images and load",
        _effect_lines(found, len(shown), brief),
        heads,
        rows,
        more_words=frozenset({3}),
        caption="Changes of the whole distribution, or of its tail, given the workload; more is worse",
    )


def _least(effect: Effect) -> str:
    mde = finite(effect.mde)
    return DASH if mde is None else magnitude(mde)


def _share(share: float | None) -> str:
    known = finite(share)
    return DASH if known is None else percent(known)


def _effect_lines(found: list[Effect], shown: int, brief: bool) -> list[str]:
    lines = _left(len(found) - shown, brief)
    reasons: dict[str, list[str]] = {}
    for effect in found:
        if effect.outcome == "insufficient_data":
            reasons.setdefault(effect.why_not or "why is not known", []).append(what(effect))
    told = [
        f"{joined(list(dict.fromkeys(of)), _LINES)} not judged: {safe(reason, SENTENCE)}"
        for reason, of in reasons.items()
    ]
    told += [
        f"{what(effect)}, {outcome(effect)}: {safe(effect.why_not, SENTENCE)}"
        for effect in found
        if effect.why_not and effect.outcome != "insufficient_data"
    ]
    told += [
        f"{what(effect)}: {percent(effect.overlap)} of NEW's requests have like requests in BASE"
        for effect in found
        if effect.kind == "shift" and effect.overlap is not None and 0 <= effect.overlap < _FEW_LIKE
    ]
    told += [
        f"{what(effect)}: requests of NEW that show it best: "
        + joined([safe(one, 64) for one in effect.evidence[:_EVIDENCE]], _EVIDENCE)
        for effect in found
        if effect.evidence
    ]
    most = _LINES if brief else ROWS
    return [*lines, *told[:most], *_left(len(told) - most, brief, "more notes")]


def effect_note(comparison: Comparison) -> str:
    """Return what the columns of the effects mean."""
    parts = [
        f"interval: {level(comparison)} for all effects together",
        "MDE, minimum detectable effect: found in 80 % of such comparisons",
        f"an effect below {magnitude(comparison.min_effect)} is no finding",
        NOT_JUDGED,
        "BASE, NEW: requests that have the phase",
    ]
    if any(effect.kind == "tail" for effect in comparison.effects):
        parts.append("tail: 99th percentile of what the workload does not explain")
    if any(effect.phase == "cache" for effect in comparison.effects):
        parts.append("cache: change of the share that missed")
    return f"{'; '.join(parts)}; {DASH}: not known"


def _left(number: int, brief: bool, of: str = "more") -> list[str]:
    where = "HTML and JSON" if brief else "the JSON document"
    return [f"{count(number)} {of} in {where}"] if number > 0 else []


def shifts(comparison: Comparison, brief: bool) -> Detail:
    """Return in what the workload differs."""
    most = BRIEF_ROWS if brief else ROWS
    rows = [
        (
            safe(shift.what, 48),
            shift_value(shift, shift.base),
            shift_value(shift, shift.new),
            shift_change(shift),
            safe(shift.kind, 8),
        )
        for shift in comparison.shifts[:most]
    ]
    lines = _left(len(comparison.shifts) - most, brief)
    if not rows:
        lines = ["No difference of mix or load is beyond its threshold."]
    heads = ("what", "BASE", "NEW", "change", "kind")
    return Detail("workload", "What differs in the workload", lines, heads, rows, more_words=frozenset({4}))


def strata(comparison: Comparison, brief: bool) -> list[Detail]:
    """Return the effects by visual and by text tokens, a table for each model: in brief formats only those that are clear
    of zero."""
    told = list(dict.fromkeys(row.model for row in comparison.strata))
    tables = []
    for by, words in (("visual_tokens", "visual tokens"), ("text_tokens", "text tokens")):
        of_models = [
            _strata_by(
                rows,
                f"strata-{by}-{number}",
                words,
                f" of {model_name(model)}" if len(told) > 1 else "",
                brief,
            )
            for number, model in enumerate(told[:_MODELS])
            if (rows := [row for row in comparison.strata if row.by == by and row.model == model])
        ]
        if brief and not any(table.rows for table in of_models):
            of_models = [replace(table, title=f"Effects by {words}") for table in of_models[:1]]
        elif brief:
            of_models = [table for table in of_models if table.rows]
        if of_models and len(told) > _MODELS:
            left = f"{count(len(told) - _MODELS)} more models in the JSON document"
            of_models[-1] = replace(of_models[-1], lines=[*of_models[-1].lines, left])
        tables += of_models
    return tables


def _strata_by(all_rows: list[StratumEffect], anchor: str, by: str, whose: str, brief: bool) -> Detail:
    told = [row for row in all_rows if row.ci_low > 0 or row.ci_high < 0] if brief else all_rows
    most = BRIEF_ROWS // 2 if brief else ROWS
    rows = [
        (
            safe(row.phase, 24),
            stratum(row),
            change(row.effect_ratio),
            interval(row.ci_low, row.ci_high),
            value(row.base_ms, "ms"),
            value(row.new_ms, "ms"),
            f"{number_of(row.requests_base)}/{number_of(row.requests_new)}",
        )
        for row in told[:most]
    ]
    lines = (
        [*_left(len(told) - most, brief), _STRATA_NOTE]
        if rows
        else ["No stratum has an interval clear of zero."]
    )
    return Detail(
        anchor,
        f"Effects{whose} by {by}{', intervals clear of zero' if brief and rows else ''}",
        lines,
        ("phase", by, "change", "95 % interval", "BASE", "NEW", "requests"),
        rows,
        words=2,
        caption="Change and interval at like work and load",
    )


_STRATA_NOTE: Final = "intervals: 95 %, each by itself, run-to-run noise included; they decide no verdict"


def stratum(row: StratumEffect) -> str:
    """Return a stratum in words: ``none``, ``1 to 256``, ``more than 16,384``."""
    return _STRATA.get(row.stratum, safe(row.stratum, 24))


def _strata_words() -> dict[str, str]:
    words, lower = {}, -1
    for label, upper in names.VISUAL_STRATA:
        words[label] = "none" if upper == 0 else f"{count(lower + 1)} to {count(upper)}"
        lower = upper
    return {**words, names.VISUAL_STRATUM_MORE: f"more than {count(lower)}"}


# phrases.stratum says the same, but loading it takes the whole report's model, longer than a comparison of small tables.
_STRATA: Final = _strata_words()


def metrics(comparison: Comparison, brief: bool) -> list[Detail]:
    """Return the raw figures: percentiles of times, then means and rates."""
    found: dict[str, dict[str, Metric]] = {}
    for row in comparison.metrics:
        found.setdefault(row.metric, {})[row.statistic] = row
    most = BRIEF_ROWS if brief else ROWS
    spread = {name: rows for name, rows in found.items() if len(rows) > 1}
    single = [row for name, rows in found.items() if name not in spread for row in rows.values()]
    tables = []
    if spread:
        cells = [row for name, rows in list(spread.items())[:most] for row in _two_rows(name, rows)]
        tables.append(
            Detail(
                "metrics",
                "Raw times, workload and all",
                [*_left(len(spread) - most, brief), *([_ENCODE_NOTE] if "encode_ms" in spread else [])],
                ("", "side", *_STATISTICS),
                cells,
                words=2,
                caption="Of all requests of each side that tell the figure; NEW's with its change",
            )
        )
    if single:
        cells = [
            (
                metric_name(row.metric) + _statistic(row),
                _figure(row.base, row),
                _figure(row.new, row),
                change(row.change_ratio),
            )
            for row in single[:most]
        ]
        heads = ("", "BASE", "NEW", "change")
        title = "Requests as they came, and what they held"
        tables.append(Detail("rates", title, _left(len(single) - most, brief), heads, cells))
    return tables


_ENCODE_NOTE: Final = "encode: of all requests that tell it, also those without images or with cached ones"


def _statistic(row: Metric) -> str:
    return {"rate": "", "p50": ", median"}.get(row.statistic, f", {row.statistic}")


def _figure(number: float | None, row: Metric) -> str:
    return value(number, unit_of(row.metric, row.statistic))


def _two_rows(name: str, rows: dict[str, Metric]) -> Iterable[tuple[str, ...]]:
    base, new = [], []
    for statistic in _STATISTICS:
        row = rows.get(statistic)
        base.append(DASH if row is None else _figure(row.base, row))
        if row is None:
            new.append(DASH)
            continue
        moved = change(row.change_ratio)
        new.append(_figure(row.new, row) + ("" if moved == DASH else f" {moved}"))
    return (metric_name(name), "BASE", *base), ("", "NEW", *new)
