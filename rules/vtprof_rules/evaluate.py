"""Judges rules on one run: facts and evidence in, one outcome per rule out."""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import duckdb

from vtprof_rules.fact_rows import SUBJECTS, FactRows
from vtprof_rules.judge import Bench, Verdict, columns_of, said, values_of
from vtprof_rules.outcome import Outcome, Saving, Status, severity_of_share
from vtprof_rules.rule import SEVERITIES, Rule, Severity
from vtprof_rules.sandbox import Sandbox
from vtprof_rules.techniques import reading_share, techniques_of
from vtprof_rules.vocabulary import EVIDENCE_COLUMNS

TOTAL_S = 30.0
"""For all rules together: the shipped ones take some tenths of a second."""
_TELLING: tuple[Status, ...] = ("error", "suppressed", "passed", "insufficient_data", "not_applicable")
"""Where no row fires, a rule ends in what tells most of its rows."""


def evaluate(
    rules: Iterable[Rule],
    facts: FactRows,
    evidence_source: duckdb.DuckDBPyConnection,
    switched_off: Mapping[str, str] | None = None,
) -> list[Outcome]:
    """Judge every rule and return the outcomes: fired first, the most severe and most saving first, then by id.

    ``evidence_source`` has a table or view for each ``evidence.from`` (``requests``); it is only read.
    ``switched_off`` gives a reason for each id that is not to be judged; such a rule ends as suppressed.
    Rules that invalidate facts (impossible or missing measurements) are judged first. Raises ``ValueError``
    for a fact that the vocabulary does not have.
    """
    off = switched_off or {}
    begin_s = time.monotonic()
    ordered = sorted(rules, key=lambda rule: (not rule.invalidates, rule.id))
    outcomes, fired = [], []
    with Sandbox(facts, columns_of(ordered)) as sandbox:
        bench = Bench(sandbox, facts)
        for rule in ordered:
            if rule.id in off:
                outcomes.append(_ended(rule, "suppressed", f"switched off: {off[rule.id]}"))
                continue
            if time.monotonic() - begin_s > TOTAL_S:
                outcomes.append(
                    _ended(rule, "error", f"not judged: the rules before it took over {TOTAL_S:g} s")
                )
                continue
            verdicts = bench.judge(rule)
            if all(verdict.status != "fired" for verdict in verdicts):
                outcomes.append(_not_fired(rule, verdicts))
                continue
            fired.append((rule, verdicts))
            if rule.invalidates:
                bench.distrust(rule)
    if fired:  # only what the findings show is copied
        abouts = {rule.id: _filter(rule, _subjects(verdicts)) for rule, verdicts in fired}
        with evidence_box([rule for rule, _ in fired], evidence_source, abouts) as sandbox:
            outcomes += [_finding(rule, verdicts, sandbox) for rule, verdicts in fired]
    return sorted(outcomes, key=_order)


def _finding(rule: Rule, verdicts: Sequence[Verdict], sandbox: Sandbox) -> Outcome:
    """Return the outcome of a rule that fired on some rows: the one that gains most, the others by name."""
    worst = _fired_rows(verdicts)[0]
    saving, subjects = worst.saving, _subjects(verdicts)
    try:
        concerned, all_rows, evidence = shown(rule, sandbox, _filter(rule, subjects))
    except duckdb.Error as error:
        return _ended(rule, "error", said(error))
    told = f"{concerned:,} of {all_rows:,} {rule.evidence.table.replace('_', ' ')}; " if all_rows else ""
    return Outcome(
        rule=rule.id,
        status="fired",
        title=rule.title,
        phase=rule.phase,
        reason="",
        severity=severity_of(rule, saving),
        summary=f"{_named(rule, subjects)}{told}{values_of(rule, worst.known)}",
        subjects=subjects,
        view=rule.facts,
        concerned=concerned,
        out_of=all_rows,
        evidence=[{name: _finite(value) for name, value in row.items()} for row in evidence],
        advice=worst.advice,
        saving=saving,
        references=rule.references,
        group=rule.group,
        accuracy=rule.accuracy,
        ocr_like_share=_reading_at_stake(rule, verdicts),
    )


def _reading_at_stake(rule: Rule, verdicts: Sequence[Verdict]) -> float | None:
    """Return the largest share of reading on the rows that fired, whose answers the advice would change."""
    methods = techniques_of(rule.id)
    # Fewer bits, as of weights, take no visual tokens away. Of a user's rule no methods are known.
    if not rule.accuracy or (methods and not any(method.fewer_tokens for method in methods)):
        return None
    shares = [reading_share(row.known) for row in _fired_rows(verdicts)]
    return max((share for share in shares if share is not None), default=None)


def severity_of(rule: Rule, saving: Saving | None) -> Severity:
    """Return the severity of a finding: by the lower end of what it saves, or the rule's own where that is not known."""
    return severity_of_share(saving.low_share if saving else None, rule.severity, rule.min_severity)


def shown(
    rule: Rule, sandbox: Sandbox, about: tuple[str, str] | None = None
) -> tuple[int, int, list[dict[str, Any]]]:
    """Return how many rows of evidence a finding has, of how many, and those that it shows."""
    evidence, params = rule.evidence, rule.defaults()
    counts = sandbox.count(evidence.table, evidence.where, params, about)
    rows = sandbox.rows(
        evidence.table, evidence.where, evidence.order_by, evidence.columns, evidence.limit, params, about
    )
    return *counts, rows


def evidence_box(
    rules: Sequence[Rule],
    source: duckdb.DuckDBPyConnection,
    abouts: Mapping[str, tuple[str, str] | None] | None = None,
) -> Sandbox:
    """Return a sandbox with a copy of the evidence that these rules read: of their subjects alone, where all have one."""
    columns: dict[str, set[str]] = {}
    about: dict[str, list[tuple[str, str] | None]] = {}
    for rule in rules:
        table, evidence = rule.evidence.table, rule.evidence
        read = evidence.where.columns | evidence.order_by.columns | set(evidence.columns)
        if rule.facts in SUBJECTS and SUBJECTS[rule.facts][1] in EVIDENCE_COLUMNS[table]:
            read |= {SUBJECTS[rule.facts][1]}
        columns.setdefault(table, set()).update(read)
        about.setdefault(table, []).append((abouts or {}).get(rule.id))
    only = {}
    for table, wanted in about.items():
        named = {pair[0] for pair in wanted if pair}
        if None not in wanted and len(named) == 1:
            only[table] = (named.pop(), {pair[1] for pair in wanted if pair})
    return Sandbox.of_evidence(source, {table: sorted(names) for table, names in columns.items()}, only)


def _fired_rows(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Return the rows on which a rule fired, the one that gains most first."""
    rows = [verdict for verdict in verdicts if verdict.status == "fired"]
    return sorted(rows, key=lambda row: -((row.saving.low_share if row.saving else None) or 0.0))


def _subjects(verdicts: Sequence[Verdict]) -> tuple[str, ...]:
    """Return what these rows are about; nothing where there is only one."""
    rows = _fired_rows(verdicts)
    return tuple(row.subject for row in rows if row.subject is not None) if len(verdicts) > 1 else ()


def _not_fired(rule: Rule, verdicts: Sequence[Verdict]) -> Outcome:
    for status in _TELLING:
        for verdict in verdicts:
            if verdict.status == status:
                several = verdict.subject is not None and len(verdicts) > 1
                about = f"{_word(rule)} {verdict.subject}: " if several else ""
                return replace(_ended(rule, status, about + verdict.reason), missing=verdict.missing)
    return _ended(rule, "not_applicable", f"not judged: no {_word(rule)} was told apart")


def _ended(rule: Rule, status: Status, reason: str) -> Outcome:
    return Outcome(rule.id, status, rule.title, rule.phase, reason)


def _word(rule: Rule) -> str:
    return SUBJECTS[rule.facts][0] if rule.facts in SUBJECTS else "run"


def _filter(rule: Rule, subjects: Sequence[str]) -> tuple[str, str] | None:
    """Return the evidence column that names the worst subject, and that subject."""
    from_table = EVIDENCE_COLUMNS[rule.evidence.table]
    if not subjects or SUBJECTS[rule.facts][1] not in from_table:
        return None
    return SUBJECTS[rule.facts][1], subjects[0]


def _named(rule: Rule, subjects: Sequence[str]) -> str:
    if not subjects:
        return ""
    others = f" (and {len(subjects) - 1} more)" if len(subjects) > 1 else ""
    return f"{_word(rule)} {subjects[0]}{others}: "


def _order(outcome: Outcome) -> tuple[bool, int, float, str]:
    fired = outcome.status == "fired"
    severity = SEVERITIES.index(outcome.severity) if outcome.severity else 0
    saving = outcome.saving
    share = ((saving.low_share or 0.0) + (saving.high_share or 0.0)) / 2 if saving else 0.0
    return (not fired, -severity, -share, outcome.rule)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
