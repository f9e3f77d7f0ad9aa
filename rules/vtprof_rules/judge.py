"""Judges one rule on every row of its facts view: a status, a reason and a saving for each row.

Unknown facts never look like a pass: SQL's three-valued logic makes ``when`` NULL, and NULL is "not applicable".
"""

import fnmatch
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import duckdb
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from vtprof_rules.fact_rows import FactRow, FactRows, Facts, number, phases_ms
from vtprof_rules.outcome import Saving, Status
from vtprof_rules.rule import Recommendation, Rule, SavingFormula, Scalar
from vtprof_rules.sandbox import Sandbox
from vtprof_rules.vocabulary import FACT_GROUPS, FACTS

_MEASURED = [
    name
    for group, facts in FACT_GROUPS.items()
    if group not in ("scope", "configuration", "objectives")
    for name in facts
]
"""What a rule may say cannot be trusted: counts and settings are no measurements."""


@dataclass(frozen=True)
class Verdict:
    """What a rule came to on one row."""

    status: Status
    reason: str
    subject: str | None
    known: Facts
    """The facts of the row, as far as they can be trusted."""
    missing: tuple[str, ...] = ()
    """Facts for want of which it was not judged."""
    saving: Saving | None = None
    """Of ``fired`` only, where the rule has a formula."""
    advice: tuple[Recommendation, ...] = ()
    """Of ``fired`` only: what can be done with the engine, version and settings at hand."""


def _elsewhere(rule: Rule, known: Facts) -> str | None:
    """Say that a rule is for another engine or version; ``None`` where it is for this one, or that is not known."""
    engine, version = known["engine"], known["engine_version"]
    if not rule.engines or engine is None:
        return None
    if str(engine) not in rule.engines:
        return f"for {' and '.join(sorted(rule.engines))}, not {engine}"
    wanted = rule.engines[str(engine)]
    return f"for {engine} {wanted}, this is {version}" if in_range(version, wanted) is False else None


def _required(rule: Rule, known: Facts) -> list[str]:
    """Return what has to be known before a rule applies, and is not."""
    if rule.engines:
        engine, version = known["engine"], known["engine_version"]
        if engine is None:
            return ["engine"]
        if in_range(version, rule.engines[str(engine)]) is None:
            return ["engine_version"]
    return [name for name in rule.requires if known[name] is None]


def _unknown(rule: Rule, known: Facts) -> list[str]:
    """Return the facts that leave the condition of a rule undecided."""
    names = sorted(rule.when.columns)
    return [name for name in names if known[name] is None] or names


class Bench:
    """Judges rules one after the other on the facts that can still be trusted."""

    def __init__(self, sandbox: Sandbox, facts: FactRows) -> None:
        self._sandbox = sandbox
        self._rows = facts
        self._distrusted: dict[str, str] = {}

    def distrust(self, rule: Rule) -> None:
        """Make the facts that a rule which fired names unknown to the rules after it."""
        names = [name for pattern in rule.invalidates for name in fnmatch.filter(_MEASURED, pattern)]
        self._sandbox.forget(names)
        for name in names:
            self._distrusted.setdefault(name, rule.id)

    def judge(self, rule: Rule) -> list[Verdict]:
        """Return a verdict for each row of the rule's view, in their order; what cannot be computed is an ``error``."""
        try:
            return self._judge(rule)
        except duckdb.Error as error:
            reason = said(error)
            return [Verdict("error", reason, row.subject, {}) for row in self._rows.get(rule.facts, ())]

    def _judge(self, rule: Rule) -> list[Verdict]:
        params = rule.defaults()
        holds = self._sandbox.values(rule.facts, rule.when, params)
        excused = (
            [self._sandbox.values(rule.facts, unless.expr, params) for unless in rule.unless]
            if True in holds
            else []
        )
        verdicts = []
        for index, row in enumerate(self._rows.get(rule.facts, ())):
            known = {name: None if name in self._distrusted else row.values.get(name) for name in FACTS}
            because = [
                unless.because
                for unless, excuses in zip(rule.unless, excused, strict=False)
                if excuses[index] is True
            ]
            verdicts.append(self._verdict(rule, row.subject, known, holds[index], because))
        return self._with_advice(rule, params, self._with_savings(rule, params, verdicts))

    def _with_advice(
        self, rule: Rule, params: Mapping[str, Scalar], verdicts: Sequence[Verdict]
    ) -> list[Verdict]:
        if all(verdict.status != "fired" for verdict in verdicts):
            return list(verdicts)
        useful = [
            self._sandbox.values(rule.facts, advice.when, params) if advice.when else [True] * len(verdicts)
            for advice in rule.recommend
        ]
        return [
            replace(
                verdict,
                advice=tuple(
                    advice
                    for advice, holds in zip(rule.recommend, useful, strict=True)
                    if holds[index] is not False and _is_for(advice, verdict.known)
                ),
            )
            if verdict.status == "fired"
            else verdict
            for index, verdict in enumerate(verdicts)
        ]

    def _verdict(
        self, rule: Rule, subject: str | None, known: Facts, holds: Any, because: Sequence[str]
    ) -> Verdict:
        def ended(status: Status, reason: str, missing: Sequence[str] = ()) -> Verdict:
            return Verdict(status, reason, subject, known, tuple(missing))

        if reason := _elsewhere(rule, known):
            return ended("not_applicable", reason)
        if missing := _required(rule, known):
            return ended("not_applicable", self._not_judged(missing), self._unrecorded(missing))
        requests = known["n_requests"]
        if not isinstance(requests, int | float) or requests < rule.min_requests:
            return ended("insufficient_data", f"{requests or 0:g} requests, needs {rule.min_requests}")
        if holds is None:
            unknown = _unknown(rule, known)
            return ended("not_applicable", self._not_judged(unknown), self._unrecorded(unknown))
        if not holds:
            return ended("passed", values_of(rule, known))
        return ended("suppressed", because[0]) if because else ended("fired", "")

    def _unrecorded(self, names: Sequence[str]) -> Sequence[str]:
        """Return the names where recording more would help, which it does not for facts that are not trusted."""
        return () if any(name in self._distrusted for name in names) else names

    def _not_judged(self, names: Sequence[str]) -> str:
        by = sorted({self._distrusted[name] for name in names if name in self._distrusted})
        if by:
            return f"not judged: {', '.join(names)} cannot be trusted after {', '.join(by)}"
        return f"not judged: {', '.join(names)} not recorded"

    def _with_savings(
        self, rule: Rule, params: Mapping[str, Scalar], verdicts: Sequence[Verdict]
    ) -> list[Verdict]:
        formula = rule.saving
        if formula is None or all(verdict.status != "fired" for verdict in verdicts):
            return list(verdicts)
        try:
            lows = self._sandbox.values(rule.facts, formula.low, params)
            highs = self._sandbox.values(rule.facts, formula.high, params)
        except duckdb.Error:  # a finding is one without its gain, too
            lows = highs = [None] * len(verdicts)
        return [
            replace(verdict, saving=_saving(formula, low, high, verdict.known))
            if verdict.status == "fired"
            else verdict
            for verdict, low, high in zip(verdicts, lows, highs, strict=True)
        ]


def _is_for(advice: Recommendation, known: Facts) -> bool:
    """Tell whether advice is for this engine and version; where the engine is not known, all of it is."""
    engine, version = known["engine"], known["engine_version"]
    if engine is None or advice.engine in (None, "any"):
        return True
    return advice.engine == engine and in_range(version, advice.versions or "") is not False


def saving_ends(rule: Rule, rows: Sequence[FactRow]) -> list[tuple[Any, Any]]:
    """Return the low and the high end of a rule's saving on each of these rows, as its formulas say."""
    formula = rule.saving
    if formula is None:
        return []
    with Sandbox({rule.facts: rows}, columns_of([rule])) as sandbox:
        low, high = (sandbox.values(rule.facts, end, rule.defaults()) for end in (formula.low, formula.high))
    savings = [
        _saving(formula, row_low, row_high, {**dict.fromkeys(FACTS), **row.values})
        for row, row_low, row_high in zip(rows, low, high, strict=True)
    ]
    return [(saving.low, saving.high) for saving in savings]


def columns_of(rules: Iterable[Rule]) -> dict[str, list[str]]:
    """Name the facts that some rule computes with, for each facts view."""
    wanted: dict[str, set[str]] = {}
    for rule in rules:
        read = wanted.setdefault(rule.facts, set())
        read |= rule.when.columns.union(*(unless.expr.columns for unless in rule.unless))
        read |= frozenset().union(*(advice.when.columns for advice in rule.recommend if advice.when))
        if rule.saving:
            read |= rule.saving.low.columns | rule.saving.high.columns
    return {view: sorted(columns) for view, columns in wanted.items()}


def said(error: duckdb.Error) -> str:
    """Return one line on why an expression could not be computed."""
    if isinstance(error, duckdb.InterruptException):
        return "stopped: it took too long"
    return str(error).strip().splitlines()[0]


def values_of(rule: Rule, known: Facts) -> str:
    """Say the values that ``when`` looked at or the rule shows: "median encode share of TTFT 41 %, …"."""
    shown = {name for name in rule.shows if known[name] is not None}
    names = sorted(rule.when.columns | shown, key=list(FACTS).index)
    return ", ".join(f"{FACTS[name].label} {_shown(known[name], FACTS[name].unit)}" for name in names)


def _saving(formula: SavingFormula, low: Any, high: Any, known: Facts) -> Saving:
    low, high = _number(low), _number(high)
    if low is not None and high is not None:
        # Formulas of different sources may cross near the roofline; the bound wins, and no gain is negative.
        high = max(0.0, high)
        low = min(max(0.0, low), high)
    shares: list[float | None] = [None, None]
    if formula.metric == "throughput_ratio":
        shares = [max(0.0, end - 1) if end is not None else None for end in (low, high)]
    elif formula.relative_to:
        whole = number(known, formula.relative_to)
        if whole is not None:  # nothing saves more than there is
            low, high = (None if end is None else min(end, whole) for end in (low, high))
        shares = [_share(end, whole) for end in (low, high)]
    timed = formula.metric in ("ttft_ms", "tpot_ms") and (formula.relative_to or "").endswith(
        ("_p50", "_mean")
    )
    own_ms = phases_ms(known, formula.phases, formula.statistic) if timed else None
    return Saving(
        metric=formula.metric,
        unit=formula.unit,
        low=low,
        high=high,
        low_share=shares[0],
        basis=formula.basis,
        how=formula.how,
        phases=formula.phases,
        high_share=shares[1],
        low_phase_share=_share(low, own_ms),
        high_phase_share=_share(high, own_ms),
        less_work=formula.less_work,
        relative_to=formula.relative_to,
    )


def _share(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None


def in_range(version: Scalar | None, wanted: str) -> bool | None:
    """Tell whether a version lies in a range such as ``>=0.11``; ``None`` when it is not known or no version."""
    if not wanted:
        return True
    try:
        return SpecifierSet(wanted).contains(Version(str(version)), prereleases=True)
    except InvalidVersion:
        return None


def _number(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _shown(value: Scalar | None, unit: str) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, bool | str):
        return str(value)
    if unit == "ratio":
        return f"{100 * value:.3g} %"
    shown = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{shown} {unit}".removesuffix(" 1").rstrip()
