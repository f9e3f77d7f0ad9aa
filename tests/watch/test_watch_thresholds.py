"""What WATCH.md derives is what `vtprof watch` does, and its rules are rules."""

import math
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml

from vtprof_analyzer.watch import kv_forecast, slo

PAGE = (Path(__file__).parents[2] / "deploy" / "prometheus" / "WATCH.md").read_text("utf-8")
(RULES,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.promtool
@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
def test_the_rules_load_and_fire_on_an_outage_and_not_on_one_slow_request_of_three(tmp_path: Path) -> None:
    (tmp_path / "slo.yaml").write_text(RULES)
    # 100 requests a minute, all slow for 20 minutes; 3 requests, one of them slow.
    cases = [
        ("0+100x120 12000+100x20", "0+100x120 12000+0x20", 135, True),
        ("0x120 3+0x20", "0x120 2+0x20", 125, False),
    ]
    alerts = "count(ALERTS{alertname='VtprofTtftBudgetBurn',alertstate='firing'})"
    tests = [
        {
            "interval": "1m",
            "input_series": [
                {"series": "vtprof_ttft_seconds_count", "values": count},
                {"series": 'vtprof_ttft_seconds_bucket{le="1.0"}', "values": fast},
            ],
            "promql_expr_test": [
                {"expr": f"{alerts} {'==' if fires else '>='} 1",
                 "eval_time": f"{minute}m", "exp_samples": [{"labels": "{}", "value": 1}] if fires else []},
            ],
        }
        for count, fast, minute, fires in cases
    ]  # fmt: skip
    (tmp_path / "test.yaml").write_text(
        yaml.safe_dump({"rule_files": ["slo.yaml"], "evaluation_interval": "1m", "tests": tests})
    )
    for command in (["check", "rules", "slo.yaml"], ["test", "rules", "test.yaml"]):
        done = subprocess.run(
            ["promtool", *command], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_table_of_burn_rates_is_that_of_the_code_and_its_arithmetic_holds() -> None:
    rows = re.findall(
        r"\| (critical|warning) \| ([\d.]+) \| \w+ \w+ \| \w+ \w+ \| [\d.]+ x (\d+) / 720 = (\d+) % \|", PAGE
    )
    assert [(severity, float(rate), int(hours) * 60) for severity, rate, hours, _ in rows] == [
        (rule.severity, rule.burn_rate, rule.long_minutes) for rule in slo.RULES
    ]
    for _, rate, hours, spent in rows:
        assert float(rate) * int(hours) / 720 * 100 == pytest.approx(float(spent))
    assert f"At least {slo.LEAST_BAD} slow requests" in PAGE


def test_the_counts_follow_from_the_standard_errors() -> None:
    density = math.exp(-(1.645**2) / 2) / math.sqrt(2 * math.pi)
    factor = math.sqrt(0.95 * 0.05) / density
    assert factor == pytest.approx(2.11, abs=0.01)
    rows = re.findall(r"\| \+(\d+) % \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \|", PAGE)
    assert len(rows) == 3
    for percent, *counts in rows:
        errors = [factor * 0.3, factor * 0.6, *(math.sqrt(math.expm1(s * s)) for s in (0.3, 0.6))]
        expected = [math.ceil((4 * error / (int(percent) / 100)) ** 2) for error in errors]
        assert [int(count.replace(",", "")) for count in counts] == expected


def test_the_standard_error_of_a_p95_is_what_the_formula_says() -> None:
    random = np.random.default_rng(0)
    p95 = np.quantile(random.lognormal(0, 0.3, (4000, 400)), 0.95, axis=1)
    assert p95.std() / p95.mean() == pytest.approx(2.11 * 0.3 / math.sqrt(400), rel=0.08)


def test_the_limits_of_the_cache_are_those_of_the_code() -> None:
    assert kv_forecast.HORIZON_S == 30 * 60 and kv_forecast.LEAST_USED == 0.5 and kv_forecast.FULL == 0.98
    assert "Full within 30 minutes" in PAGE and "Below 50 %" in PAGE and "98 % and more" in PAGE
