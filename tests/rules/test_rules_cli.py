"""``vtprof rules``: what is printed, and how it ends."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from vtprof_analyzer.cli.rules import app
from vtprof_rules.load import CORE_PACK
from vtprof_schemas.errors import RuleError, VtprofError


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    """Return a folder with a copy of one shipped rule and its cases, under an id of its own."""
    for path in CORE_PACK.glob("ENC001*"):
        text = path.read_text(encoding="utf-8").replace('"ENC001"', '"XAB001"')
        (tmp_path / path.name.replace("ENC001", "XAB001")).write_text(text, encoding="utf-8")
    return tmp_path


def test_list_as_json_has_the_fields_of_the_contract() -> None:
    document = json.loads(invoke("list", "--format", "json").stdout)
    first = document["rules"][0]
    assert first == {
        "id": "DAT001",
        "title": "The phases do not add up to TTFT",
        "phase": "system",
        "severity": "medium",
    }
    assert len(document["rules"]) == len(list(CORE_PACK.glob("*.cases.toml")))


def test_list_adds_the_users_folder(pack: Path) -> None:
    assert "XAB001" in invoke("list", "--rules", str(pack)).stdout


def test_show_prints_condition_thresholds_and_flags() -> None:
    text = invoke("show", "dec003").stdout
    assert "$min_kv_read_share = 0.3" in text
    assert "vllm serve … --kv-cache-dtype fp8" in text
    assert "https://arxiv.org/abs/2410.23317" in text


def test_show_of_an_unknown_rule_names_the_known_ones() -> None:
    error = invoke("show", "ENC999").exception
    assert isinstance(error, VtprofError)
    assert "DAT001" in str(error)


def test_check_of_a_good_pack_says_so(pack: Path) -> None:
    result = invoke("check", str(pack))
    assert (result.exit_code, result.stdout) == (0, "no faults: rules 1, cases 19\n")


def test_check_reports_every_fault_with_file_and_key(pack: Path) -> None:
    rule = next(pack.glob("*dominates.toml"))
    text = rule.read_text(encoding="utf-8")
    rule.write_text(
        text.replace("encode_mfu >= $min_mfu", "sum(encode_mfu) >= 1").replace("https://", "ftp://"),
        encoding="utf-8",
    )
    shutil.copy(rule, pack / "XAB002_copy.toml")
    error = invoke("check", str(pack)).exception
    assert isinstance(error, RuleError)
    assert error.exit_code == 2
    lines = str(error).splitlines()
    assert {Path(line.split(":")[0]).name for line in lines} == {rule.name, "XAB002_copy.toml"}
    assert f"{rule}:references[0].url: " in str(error)


def test_test_runs_the_shipped_cases() -> None:
    result = invoke("test")
    assert result.exit_code == 0
    assert "ENC001   19 of 19 cases hold" in result.stdout


def test_test_says_which_case_fails_and_how(pack: Path) -> None:
    rule = next(pack.glob("*dominates.toml"))
    rule.write_text(
        rule.read_text(encoding="utf-8").replace("default = 0.35", "default = 0.40", 1), encoding="utf-8"
    )
    result = invoke("test", str(pack))
    assert result.exit_code == 1
    assert "XAB001   16 of 19 cases hold" in result.stdout
    assert "fires at the threshold of the share: expected status 'fired', got 'passed'" in result.stdout


def test_a_stray_cases_file_is_a_fault(pack: Path) -> None:
    (pack / "XAB009_gone.cases.toml").write_text('rule = "XAB009"', encoding="utf-8")
    assert "no rule file of this name lies beside it" in str(invoke("check", str(pack)).exception)
