"""Findings: the outcomes of the rules as the report shows them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from vtprof_analyzer.report.model import (
    Advice,
    CombinedSaving,
    Finding,
    RuleCounts,
    RuleOutcome,
    RuleText,
    Saving,
    Technique,
    Threshold,
)
from vtprof_rules import outcome as outcome_of
from vtprof_rules import techniques
from vtprof_rules.fact_rows import FactRows
from vtprof_rules.outcome import Outcome
from vtprof_rules.rule import Rule
from vtprof_rules.savings import best_of_groups, combine
from vtprof_rules.techniques import further_reading


@dataclass(frozen=True)
class Judgement:
    """What the rules were, what they were judged on, and what became of each."""

    rules: Sequence[Rule]
    facts: FactRows
    outcomes: Sequence[Outcome]

    @property
    def fired(self) -> list[Outcome]:
        """Return the outcomes of the rules that fired."""
        return [outcome for outcome in self.outcomes if outcome.status == "fired"]


def build_findings(judgement: Judgement) -> list[Finding]:
    """Return the rules that fired, in the order in which they were judged to matter; behind each what saves the same."""
    by_id = {rule.id: rule for rule in judgement.rules}
    fired = judgement.fired
    under = best_of_groups(fired)
    order = {outcome.rule: number for number, outcome in enumerate(fired)}
    fired.sort(key=lambda outcome: (order[under.get(outcome.rule, outcome.rule)], order[outcome.rule]))
    whole = next((row.values for row in judgement.facts.get("deployment_facts", ())), {})
    return [
        replace(
            _finding(outcome, by_id[outcome.rule], under.get(outcome.rule)),
            further_reading=[_technique(t) for t in further_reading(outcome.rule, outcome.phase, whole)],
        )
        for outcome in fired
    ]


def build_combined(judgement: Judgement) -> list[CombinedSaving]:
    """Return what the findings save together, by phase."""
    return [
        CombinedSaving(row.phase, row.time_ms, row.low_ms, row.high_ms, row.limit_ms, list(row.rules))
        for row in combine(judgement.fired, judgement.facts)
    ]


def build_not_fired(outcomes: Sequence[Outcome]) -> list[RuleOutcome]:
    """Return the rules that did not fire, in the order in which they were judged, each with its reason."""
    return [
        RuleOutcome(outcome.rule, outcome.status, outcome.reason, list(outcome.missing))
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


def _finding(outcome: Outcome, rule: Rule, same_as: str | None) -> Finding:
    return Finding(
        rule=outcome.rule,
        severity=outcome.severity or "info",
        phase=outcome.phase,
        title=outcome.title,
        summary=outcome.summary,
        evidence=outcome.evidence,
        advice=[Advice(a.action, a.engine, a.versions, dict(a.set), a.risk) for a in outcome.advice],
        saving=_saving(outcome.saving) if outcome.saving else None,
        references=[{"title": r.title, "url": r.url} for r in outcome.references],
        subjects=list(outcome.subjects),
        concerned=outcome.concerned,
        out_of=outcome.out_of,
        accuracy=outcome.accuracy,
        ocr_like_share=outcome.ocr_like_share,
        same_saving_as=same_as,
        about=_about(rule),
    )


def _saving(saving: outcome_of.Saving) -> Saving:
    return Saving(
        metric=saving.metric,
        unit=saving.unit,
        low=saving.low,
        high=saving.high,
        basis=saving.basis,
        how=saving.how,
        low_share=saving.low_share,
        high_share=saving.high_share,
        low_phase_share=saving.low_phase_share,
        high_phase_share=saving.high_phase_share,
        interval_low=saving.interval[0] if saving.interval else None,
        interval_high=saving.interval[1] if saving.interval else None,
        relative_to=saving.relative_to,
    )


def _technique(technique: techniques.Technique) -> Technique:
    return Technique(
        id=technique.id,
        method=technique.method,
        citation=technique.citation,
        mechanism=technique.mechanism,
        training_free=technique.training_free,
        caveats=technique.caveats,
    )


def _about(rule: Rule) -> RuleText:
    saving = rule.saving
    return RuleText(
        description=" ".join(rule.description.split()),
        condition=" ".join(rule.when.text.split()),
        thresholds=[Threshold(name, str(p.default), p.unit, p.source) for name, p in rule.params.items()],
        unless=[unless.because for unless in rule.unless],
        how=f"{' '.join(saving.low.text.split())} to {' '.join(saving.high.text.split())}"
        if saving
        else None,
    )
