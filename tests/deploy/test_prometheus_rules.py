"""The alert rules load, and fire on exactly what they name (promtool runs them)."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from vtprof_agent.metrics import reference
from vtprof_agent.metrics.series import HISTOGRAM, SERIES

PROMETHEUS = Path(__file__).parents[2] / "deploy" / "prometheus"
promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)"
)


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["promtool", *arguments], cwd=PROMETHEUS, capture_output=True, text=True, check=False
    )


@pytest.mark.promtool
@promtool
def test_rules_are_valid() -> None:
    result = run("check", "rules", "vtprof.rules.yaml")
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.promtool
@promtool
def test_alerts_fire_on_slower_engines_and_not_on_heavier_workloads() -> None:
    result = run("test", "rules", "vtprof.rules.test.yaml")
    assert result.returncode == 0, result.stdout + result.stderr


OF_THE_AGENT = (
    "VtprofAgentDown",
    "VtprofNoAgent",
    "VtprofGpusLost",
    "VtprofSamplersLost",
    "VtprofAgentFaults",
    "VtprofMetricBatchesDropped",
)


def at_once(rule: dict[str, Any]) -> None:
    rule["for"] = "0s"


def never(rule: dict[str, Any]) -> None:
    rule["expr"] = f"({rule['expr']}) and vector(0) > 1"


def everywhere(rule: dict[str, Any]) -> None:
    """Count also what agents without energy counters tell."""
    rule["expr"] = re.sub(r"and on \(job, instance\) \w+", "", rule["expr"])


def asks_for(name: str, case: dict[str, Any]) -> bool:
    asked = [one["alertname"] for one in case.get("alert_rule_test", ())]
    return name in [*asked, *(one["expr"] for one in case.get("promql_expr_test", ()))]


@pytest.mark.promtool
@promtool
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("VtprofTtftRegression", never),
        *((name, change) for name in OF_THE_AGENT for change in (at_once, never)),
        ("phase:vtprof_gpu_phase_energy_joules_per_request:mean_10m", everywhere),
        ("vtprof:attributed_joules_per_output_token:mean_10m", everywhere),
    ],
)
def test_a_rule_that_is_changed_makes_the_rule_tests_fail(
    name: str, change: Callable[[dict[str, Any]], None], tmp_path: Path
) -> None:
    rules = yaml.safe_load((PROMETHEUS / "vtprof.rules.yaml").read_text())
    (rule,) = [
        rule
        for group in rules["groups"]
        for rule in group["rules"]
        if name in (rule.get("alert"), rule.get("record"))
    ]
    change(rule)
    (tmp_path / "vtprof.rules.yaml").write_text(yaml.safe_dump(rules))
    # Of the cases those that ask for it: days of samples take promtool seconds.
    cases = yaml.safe_load((PROMETHEUS / "vtprof.rules.test.yaml").read_text())
    cases["tests"] = [case for case in cases["tests"] if asks_for(name, case)]
    (tmp_path / "vtprof.rules.test.yaml").write_text(yaml.safe_dump(cases))
    result = subprocess.run(
        ["promtool", "test", "rules", "vtprof.rules.test.yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1, result.stdout + result.stderr
    assert name in result.stdout + result.stderr


def known_series() -> set[str]:
    """Names that a query may use: series of the agent, and what the rules record."""
    rules = yaml.safe_load((PROMETHEUS / "vtprof.rules.yaml").read_text())
    recorded = {rule["record"] for group in rules["groups"] for rule in group["rules"] if "record" in rule}
    return (
        recorded
        | {series.name for series in SERIES.values() if series.kind != HISTOGRAM}
        | {
            series.name + suffix
            for series in SERIES.values()
            if series.kind == HISTOGRAM
            for suffix in ("_bucket", "_count", "_sum")
        }
    )


def queries() -> list[str]:
    """What the table of questions in the README tells to ask."""
    readme = (PROMETHEUS.parent / "README.md").read_text("utf-8")
    table = readme.partition("## Questions that the metrics answer")[2]
    answers = [line.split("|")[2] for line in table.splitlines() if line.startswith("| ")]
    return [query for answer in answers[1:] for query in re.findall(r"`([^`]*vtprof[^`]*)`", answer)]


@pytest.mark.promtool
@promtool
def test_the_queries_of_the_readme_can_be_asked(tmp_path: Path) -> None:
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries())]
    assert len(rules) >= 10
    (tmp_path / "queries.yaml").write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    result = run("check", "rules", str(tmp_path / "queries.yaml"))
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_queries_of_the_readme_use_series_that_there_are() -> None:
    for query in queries():
        assert set(re.findall(r"[a-z_:0-9]*vtprof[a-z_:0-9]*", query)) <= known_series(), query


def test_every_series_used_is_one_the_agent_exposes() -> None:
    rules = yaml.safe_load((PROMETHEUS / "vtprof.rules.yaml").read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            expression = rule["expr"].replace('job=~".*vtprof.*"', "")
            assert set(re.findall(r"[a-z_:0-9]*vtprof[a-z_:0-9]*", expression)) <= known_series(), rule


def test_the_reference_page_is_that_of_the_series() -> None:
    told = (PROMETHEUS / "METRICS.md").read_text(encoding="utf-8")
    assert told == reference.page(), "refresh: make docs"


def test_every_alert_is_explained() -> None:
    readme = (PROMETHEUS.parent / "README.md").read_text()
    rules = yaml.safe_load((PROMETHEUS / "vtprof.rules.yaml").read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            if "alert" in rule:
                assert f"### {rule['alert']}" in readme
                assert rule["annotations"]["runbook"] == f"deploy/README.md#{rule['alert'].lower()}"
