"""Rule folders that were not written by a friend: every file ends in one fault, soon and in little memory."""

import os
from pathlib import Path

import pytest
from rule_helpers import read_rule

from vtprof_rules.cases import read_cases
from vtprof_rules.load import CORE_PACK, MAX_DEPTH, MAX_FILE_BYTES, read_pack, read_toml

RULE = "PRE001_preprocess_on_cpu"


def faults_of(path: Path) -> list[str]:
    document, faults = read_toml(path, "rule.schema.json")
    assert document is None
    return [fault.message for fault in faults]


@pytest.mark.parametrize(
    "text",
    [
        ".".join("a" * 20_000) + " = 1",
        ".".join(['"a b"'] * 5_000) + " = 1",
        ".".join([r'"\""'] * 5_000) + " = 1",
        "x = {" + " . ".join("a" * 10_000) + " = 1}",
        "[" + ".".join("a" * 10_000) + "]",
        # Each key short enough, the tables within each other too deep: 3 x 5 levels.
        "[a.b.c.d.e]\nf.g.h.i.j = {k.l.m.n.o = 1}",
    ],
)
def test_tables_too_deep_are_one_fault_before_they_are_built(tmp_path: Path, text: str) -> None:
    path = tmp_path / "XAB001.toml"
    path.write_text(text, encoding="utf-8")
    assert faults_of(path) == [f"is nested too deeply: more than {MAX_DEPTH} levels"]


def test_the_depth_that_is_allowed_is_read(tmp_path: Path) -> None:
    path = tmp_path / "XAB001.toml"
    path.write_text(".".join("a" * MAX_DEPTH) + " = 1", encoding="utf-8")
    document, _ = read_toml(path, "rule.schema.json")
    for _ in range(MAX_DEPTH):
        assert document is not None
        document = document["a"]
    assert document == 1


def test_pipes_and_devices_are_refused_without_waiting_for_them(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "XAB001.toml")
    (tmp_path / "XAB002.toml").symlink_to("/dev/zero")
    rules, faults = read_pack(tmp_path)
    assert rules == []
    assert [fault.message for fault in faults] == ["cannot be read: not a regular file"] * 2


def test_a_file_that_is_too_large_is_read_no_further_than_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "XAB001.toml"
    path.write_text("#" * (MAX_FILE_BYTES + 1), encoding="utf-8")
    assert faults_of(path) == [f"larger than {MAX_FILE_BYTES // 1024} KiB"]


def test_a_folder_whose_name_is_too_long_for_the_system_is_a_fault() -> None:
    rules, faults = read_pack(Path("/" + "a" * 5_000))
    assert (rules, len(faults)) == ([], 1)


@pytest.mark.parametrize(
    ("wrong", "key", "takes"),
    [
        ('rows = [{ preprocess_ms = "x" }]', "case[0].rows[0].preprocess_ms", "a number"),
        ("rows = [{ trace_id = 4 }]", "case[0].rows[0].trace_id", "text"),
        ("facts = { n_requests = true }", "case[0].facts.n_requests", "a whole number"),
        ("facts = { cpu_cores = 1.5 }", "case[0].facts.cpu_cores", "a whole number"),
        ("facts = { engine = 1 }", "case[0].facts.engine", "text"),
    ],
)
def test_a_value_of_the_wrong_type_in_a_case_is_a_fault_at_its_key(
    tmp_path: Path, wrong: str, key: str, takes: str
) -> None:
    path = tmp_path / f"{RULE}.toml"
    path.write_bytes((CORE_PACK / f"{RULE}.toml").read_bytes())
    (tmp_path / f"{RULE}.cases.toml").write_text(
        f'rule = "PRE001"\n[[case]]\nname = "has a value of the wrong type"\n{wrong}\nexpect = {{ status = "passed" }}\n',
        encoding="utf-8",
    )
    rule, _ = read_rule(path)
    assert rule is not None
    cases, faults = read_cases(rule)
    assert cases == []
    assert [fault.key for fault in faults] == [key]
    assert faults[0].message.endswith(f"takes {takes}")
