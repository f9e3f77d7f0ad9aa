"""Judges rules on one run: facts and evidence in, one outcome per rule out.

Unknown facts never look like a pass: SQL's three-valued logic makes ``when`` NULL, and NULL is "not applicable".
"""

import fnmatch
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import duckdb
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from vtprof_rules.outcome import Outcome, Saving, Status, severity_of
from vtprof_rules.rule import SEVERITIES, Expression, Recommendation, Rule, SavingFormula, Scalar
from vtprof_rules.sandbox import Sandbox
from vtprof_rules.vocabulary import FACTS

Facts = Mapping[str, Scalar | None]


def evaluate(
    rules: Iterable[Rule], facts: Facts, evidence_source: duckdb.DuckDBPyConnection
) -> list[Outcome]:
    """Judge every rule and return the outcomes: fired first, the most severe and most saving first, then by id.

    ``facts`` holds values for names of ``vocabulary.FACTS``; one that is absent or ``None`` is not known.
    ``evidence_source`` has a table or view for each ``evidence.from`` (``requests``); it is only read.
    Rules that invalidate facts (impossible or missing measurements) are judged first. Raises ``ValueError``
    for a fact that the vocabulary does not have.
    """
    ordered = sorted(rules, key=lambda rule: (not rule.invalidates, rule.id))
    known = {name: facts.get(name) for name in FACTS}
    distrusted: dict[str, str] = {}
    outcomes = []
    with Sandbox(facts, evidence_source, _evidence_columns(ordered)) as sandbox:
        for rule in ordered:
            judge = _Judge(rule, sandbox, known, distrusted)
            outcome = judge.outcome()
            outcomes.append(outcome)
            if outcome.status == "fired" and rule.invalidates:
                names = [name for pattern in rule.invalidates for name in fnmatch.filter(FACTS, pattern)]
                sandbox.forget(names)
                for name in names:
                    known[name] = None
                    distrusted.setdefault(name, rule.id)
    return sorted(outcomes, key=_order)


def _order(outcome: Outcome) -> tuple[bool, int, float, str]:
    fired = outcome.status == "fired"
    severity = SEVERITIES.index(outcome.severity) if outcome.severity else 0
    share = outcome.saving.low_share if outcome.saving else None
    return (not fired, -severity, -(share or 0.0), outcome.rule)


def _evidence_columns(rules: Sequence[Rule]) -> dict[str, list[str]]:
    """Name the columns that some rule reads, for each evidence table: only those are copied."""
    wanted: dict[str, set[str]] = {}
    for rule in rules:
        evidence = rule.evidence
        columns = evidence.where.columns | evidence.order_by.columns | set(evidence.columns)
        wanted.setdefault(evidence.table, set()).update(columns)
    return {table: sorted(columns) for table, columns in wanted.items()}


class _Judge:
    """Judges one rule."""

    def __init__(self, rule: Rule, sandbox: Sandbox, known: Facts, distrusted: Mapping[str, str]) -> None:
        self._rule = rule
        self._sandbox = sandbox
        self._known = known
        self._distrusted = distrusted
        self._params = {name: param.default for name, param in rule.params.items()}

    def outcome(self) -> Outcome:
        try:
            return self._judge()
        except duckdb.InterruptException:
            return self._ended("error", "stopped: it took too long")
        except duckdb.Error as error:
            return self._ended("error", str(error).strip().splitlines()[0])

    def _judge(self) -> Outcome:
        rule = self._rule
        if reason := self._why_not_applicable():
            return self._ended("not_applicable", reason)
        requests = self._known["n_requests"]
        if not isinstance(requests, int | float) or requests < rule.min_requests:
            return self._ended("insufficient_data", f"{requests or 0:g} requests, needs {rule.min_requests}")
        holds = self._value(rule.when)
        if holds is None:
            unknown = sorted(name for name in rule.when.columns if self._known[name] is None)
            return self._ended("not_applicable", self._not_judged(unknown or sorted(rule.when.columns)))
        if not holds:
            return self._ended("passed", self._values())
        for unless in rule.unless:
            if self._value(unless.expr) is True:
                return self._ended("suppressed", unless.because)
        return self._fired()

    def _ended(self, status: Status, reason: str) -> Outcome:
        return Outcome(self._rule.id, status, self._rule.title, self._rule.phase, reason)

    def _fired(self) -> Outcome:
        rule, evidence = self._rule, self._rule.evidence
        concerned, all_rows = self._sandbox.count(evidence.table, evidence.where, self._params)
        rows = self._sandbox.rows(
            evidence.table, evidence.where, evidence.order_by, evidence.columns, evidence.limit, self._params
        )
        saving = self._saving(rule.saving) if rule.saving else None
        return Outcome(
            rule=rule.id,
            status="fired",
            title=rule.title,
            phase=rule.phase,
            reason="",
            severity=severity_of(saving.low_share if saving else None, rule.severity, rule.min_severity),
            summary=f"{concerned:,} of {all_rows:,} {evidence.table}; {self._values()}",
            evidence=[{name: _finite(value) for name, value in row.items()} for row in rows],
            advice=self._advice(),
            saving=saving,
            references=rule.references,
        )

    def _why_not_applicable(self) -> str | None:
        rule = self._rule
        if rule.engines:
            engine, version = self._known["engine"], self._known["engine_version"]
            if engine is None:
                return self._not_judged(["engine"])
            if str(engine) not in rule.engines:
                return f"for {' and '.join(sorted(rule.engines))}, not {engine}"
            wanted = rule.engines[str(engine)]
            within = _in_range(version, wanted)
            if within is None:
                return self._not_judged(["engine_version"])
            if not within:
                return f"for {engine} {wanted}, this is {version}"
        missing = [name for name in rule.requires if self._known[name] is None]
        return self._not_judged(missing) if missing else None

    def _not_judged(self, names: Sequence[str]) -> str:
        by = sorted({self._distrusted[name] for name in names if name in self._distrusted})
        if by:
            return f"not judged: {', '.join(names)} cannot be trusted after {', '.join(by)}"
        return f"not judged: {', '.join(names)} not recorded"

    def _value(self, expression: Expression) -> Any:
        return self._sandbox.fact(expression, self._params)

    def _values(self) -> str:
        """Say the values that ``when`` looked at: "median encode share of TTFT 41 %, …"."""
        names = sorted(self._rule.when.columns, key=list(FACTS).index)
        return ", ".join(
            f"{FACTS[name].label} {_shown(self._known[name], FACTS[name].unit)}" for name in names
        )

    def _saving(self, formula: SavingFormula) -> Saving:
        low = _number(self._value(formula.low))
        high = _number(self._value(formula.high))
        if low is not None and high is not None:
            # Formulas of different sources may cross near the roofline; the bound wins, and no gain is negative.
            high = max(0.0, high)
            low = min(max(0.0, low), high)
        whole = _number(self._known[formula.relative_to])
        share = low / whole if low is not None and whole else None
        return Saving(formula.metric, formula.unit, low, high, share, formula.basis, formula.how)

    def _advice(self) -> tuple[Recommendation, ...]:
        engine, version = self._known["engine"], self._known["engine_version"]
        if engine is None:
            return self._rule.recommend
        return tuple(
            advice
            for advice in self._rule.recommend
            if advice.engine in (None, "any")
            or (advice.engine == engine and _in_range(version, advice.versions or "") is not False)
        )


def _in_range(version: Scalar | None, wanted: str) -> bool | None:
    """Tell whether a version lies in a range such as ``>=0.11``; ``None`` when it is not known or no version."""
    if not wanted:
        return True
    try:
        return SpecifierSet(wanted).contains(Version(str(version)), prereleases=True)
    except InvalidVersion:
        return None


def _number(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _shown(value: Scalar | None, unit: str) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, bool | str):
        return str(value)
    if unit == "ratio":
        return f"{100 * value:.3g} %"
    return f"{value:.4g} {unit}".rstrip()
