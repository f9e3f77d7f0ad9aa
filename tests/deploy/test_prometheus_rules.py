"""The alert rules load, and fire on exactly what they name (promtool runs them)."""

import re
import shutil
import subprocess
from pathlib import Path

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


@pytest.mark.promtool
@promtool
def test_a_looser_threshold_makes_the_rule_tests_fail(tmp_path: Path) -> None:
    rules = (PROMETHEUS / "vtprof.rules.yaml").read_text()
    (tmp_path / "vtprof.rules.yaml").write_text(rules.replace("> 1.25 *", "> 9.25 *"))
    shutil.copy(PROMETHEUS / "vtprof.rules.test.yaml", tmp_path)
    result = subprocess.run(
        ["promtool", "test", "rules", "vtprof.rules.test.yaml"],
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert result.returncode != 0


def test_every_series_used_is_one_the_agent_exposes() -> None:
    rules = yaml.safe_load((PROMETHEUS / "vtprof.rules.yaml").read_text())
    recorded = {rule["record"] for group in rules["groups"] for rule in group["rules"] if "record" in rule}
    known = {series.name for series in SERIES.values() if series.kind != HISTOGRAM} | {
        series.name + suffix
        for series in SERIES.values()
        if series.kind == HISTOGRAM
        for suffix in ("_bucket", "_count", "_sum")
    }
    for group in rules["groups"]:
        for rule in group["rules"]:
            used = set(re.findall(r"[a-z_:0-9]*vtprof[a-z_:0-9]*", rule["expr"]))
            assert used <= known | recorded, rule


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
