"""Findings: the outcomes of the rules as the report shows them."""

from collections import Counter
from collections.abc import Sequence

from vtprof_analyzer.report.model import Advice, Finding, RuleCounts, RuleOutcome, Saving
from vtprof_rules.outcome import Outcome


def build_findings(outcomes: Sequence[Outcome]) -> list[Finding]:
    """Return the rules that fired, in the order in which they were judged to matter."""
    return [_finding(outcome) for outcome in outcomes if outcome.status == "fired"]


def build_not_fired(outcomes: Sequence[Outcome]) -> list[RuleOutcome]:
    """Return the rules that did not fire, in the order in which they were judged, each with its reason."""
    return [
        RuleOutcome(outcome.rule, outcome.status, outcome.reason)
        for outcome in outcomes
        if outcome.status != "fired"
    ]


def count_outcomes(outcomes: Sequence[Outcome]) -> RuleCounts:
    """Return how many rules ended in each outcome."""
    counts = Counter(outcome.status for outcome in outcomes)
    return RuleCounts(
        fired=counts["fired"],
        passed=counts["passed"],
        not_applicable=counts["not_applicable"],
        insufficient_data=counts["insufficient_data"],
        suppressed=counts["suppressed"],
        error=counts["error"],
    )


def _finding(outcome: Outcome) -> Finding:
    saving = outcome.saving
    return Finding(
        rule=outcome.rule,
        severity=outcome.severity or "info",
        phase=outcome.phase,
        title=outcome.title,
        summary=outcome.summary,
        evidence=outcome.evidence,
        advice=[Advice(a.action, a.engine, a.versions, dict(a.set), a.risk) for a in outcome.advice],
        saving=Saving(saving.metric, saving.unit, saving.low, saving.high, saving.basis, saving.how)
        if saving
        else None,
        references=[{"title": r.title, "url": r.url} for r in outcome.references],
    )
