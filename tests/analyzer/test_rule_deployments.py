"""Each rule finds the deployment that was built for it, nothing else does, and healthy deployments have no findings.

The deployments and what must fire there are the table `deployments.catalogue.BUILT_FOR`.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest
from deployments.by_facts import BY_FACTS
from deployments.catalogue import BUILT_FOR, HEALTHY, OTHER_REASONS, Expected
from deployments.deployment import Deployment
from deployments.write import write_traces
from otlp_builder import document, request, write
from synthetic.day import make_day
from synthetic.scenarios import ORDINARY, TEXT_ONLY, Scenario

from vtprof_analyzer.analyze import Options, analyze
from vtprof_analyzer.facts import read_facts
from vtprof_analyzer.report.model import Report
from vtprof_rules.evaluate import evaluate
from vtprof_rules.fact_rows import FactRow
from vtprof_rules.load import load_packs
from vtprof_schemas import names
from vtprof_schemas.errors import NoData

FIXTURES = Path(__file__).parents[1] / "fixtures"
PACKS = load_packs([])


def reported(deployment: Deployment, folder: Path, database: Path | None = None) -> Report:
    traces = write_traces(deployment, folder / "traces")
    return analyze(
        Options(
            [traces],
            slo_ttft_ms=deployment.slo_ttft_ms,
            slo_tpot_ms=deployment.slo_tpot_ms,
            database=database,
            cache=False,
        )
    )


def found(report: Report) -> set[str]:
    """Return the rules that fired; one that could not be computed is a failure."""
    assert report.rules.error == 0
    return {finding.rule for finding in report.findings}


@pytest.fixture(scope="module")
def healthy_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    """The database of a healthy deployment."""
    folder = tmp_path_factory.mktemp("healthy")
    reported(HEALTHY["balanced images and text"], folder, folder / "run.duckdb")
    with duckdb.connect(str(folder / "run.duckdb"), read_only=True) as connection:
        yield connection


def test_every_rule_has_a_deployment_or_a_reason_why_traces_cannot_show_it() -> None:
    assert not BUILT_FOR.keys() & BY_FACTS.keys()
    assert sorted([*BUILT_FOR, *BY_FACTS]) == sorted(rule.id for rule in PACKS.rules)
    for rule, expected in BUILT_FOR.items():
        assert expected.rules[0] == rule
        assert bool(expected.rules[1:]) == bool(expected.why), f"{rule}: why do others fire?"


@pytest.mark.parametrize("name", BUILT_FOR)
def test_a_deployment_built_for_a_rule_shows_it_and_only_what_is_listed(name: str, tmp_path: Path) -> None:
    expected = BUILT_FOR[name]
    assert found(reported(expected.deployment, tmp_path)) == set(expected.rules)


@pytest.mark.parametrize("expected", OTHER_REASONS.values(), ids=OTHER_REASONS)
def test_other_ways_to_the_same_finding(expected: Expected, tmp_path: Path) -> None:
    assert found(reported(expected.deployment, tmp_path)) == set(expected.rules)


@pytest.mark.parametrize("deployment", HEALTHY.values(), ids=HEALTHY)
def test_healthy_deployments_have_no_findings(deployment: Deployment, tmp_path: Path) -> None:
    assert found(reported(deployment, tmp_path)) == set()


@pytest.mark.parametrize("scenario", [TEXT_ONLY, ORDINARY], ids=lambda scenario: scenario.name)
def test_a_minute_of_a_simulated_healthy_day_is_only_short(scenario: Scenario, tmp_path: Path) -> None:
    make_day(replace(scenario, seconds=60.0), 3, interference=False).write(tmp_path / "day")
    assert found(analyze(Options([tmp_path / "day"], cache=False))) == {"DAT003"}


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_recorded_runs_of_a_few_seconds_are_only_short(engine: str) -> None:
    assert found(analyze(Options([FIXTURES / engine / "traces.jsonl"], cache=False))) == {"DAT003"}


def test_nothing_is_found_where_nothing_was_served(tmp_path: Path) -> None:
    aborted = request(0, 10_000_000, {names.REQUEST_STATUS: names.STATUS_ABORTED})
    path = write(tmp_path / "t.jsonl", document(*aborted))
    assert found(analyze(Options([path], cache=False))) == set()
    with pytest.raises(NoData, match="no spans"):
        analyze(Options([write(tmp_path / "empty.jsonl", document())], cache=False))


@pytest.mark.parametrize("rule", BY_FACTS)
def test_what_traces_cannot_show_is_judged_by_facts(
    rule: str, healthy_run: duckdb.DuckDBPyConnection
) -> None:
    """The deciding fact is unknown, or never so, in any trace; with it the rule fires, alone."""
    given = BY_FACTS[rule]
    facts = read_facts(healthy_run)
    assert all(row.values[given.unrecorded] in (None, False) for rows in facts.values() for row in rows)
    changed = {
        view: [FactRow(row.subject, {**row.values, **given.facts}) for row in rows]
        for view, rows in facts.items()
    }
    with healthy_run.cursor() as evidence:
        evidence.execute("SET schema = 'evidence'")
        outcomes = evaluate(PACKS.rules, changed, evidence)
    assert {outcome.rule for outcome in outcomes if outcome.status in ("fired", "error")} == {rule}
