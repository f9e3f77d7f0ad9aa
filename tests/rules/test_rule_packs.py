"""Packs: the shipped rules hold what they promise, and every fault of a user's pack is reported."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rule_helpers import read_rule

from vtprof_rules import catalogue
from vtprof_rules.cases import read_cases, read_checked, run_cases
from vtprof_rules.faults import printable
from vtprof_rules.load import CORE_PACK, load_packs, read_pack, read_toml
from vtprof_rules.rule import Rule
from vtprof_rules.vocabulary import EVIDENCE_COLUMNS, FACTS
from vtprof_schemas.errors import RuleError

CORE = tuple(load_packs())

RULE = """
vtprof_rule = 1
id = "XAB001"
title = "A rule of a user's own pack"
phase = "encode"
severity = "low"
description = "Long enough a description of the mechanism behind this rule."
facts = "deployment_facts"
when = "encode_ms_p50 >= $least"
[params.least]
default = 10
source = "convention"
[evidence]
from = "requests"
where = "encode_ms > 0"
order_by = "encode_ms DESC"
columns = ["trace_id", "encode_ms"]
[[recommend]]
action = "Do something"
[[references]]
title = "A page"
url = "https://example.org/page"
"""


SAVING_OF_KV = """
[saving]
metric = "kv_bytes"
unit = "bytes"
relative_to = "engine"
low = "1"
high = "2"
basis = "bound"
how = "made up for this test"
"""


def write(folder: Path, text: str, name: str = "XAB001_mine.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def faults_of(folder: Path, text: str) -> str:
    rule, faults = read_rule(write(folder, text))
    assert (rule is None) == bool(faults)
    return "\n".join(str(fault) for fault in faults)


def shipped_cases() -> Iterator[tuple[Rule, str]]:
    for rule in CORE:
        cases, faults = read_cases(rule)
        assert not faults
        for case in cases:
            yield rule, case.name


@pytest.mark.parametrize(
    ("rule", "name"), [pytest.param(r, n, id=f"{r.id}: {n}") for r, n in shipped_cases()]
)
def test_shipped_case_holds(rule: Rule, name: str) -> None:
    cases, _ = read_cases(rule)
    (result,) = run_cases(rule, [case for case in cases if case.name == name])
    assert result.failures == ()


@pytest.mark.parametrize("rule", CORE, ids=lambda rule: rule.id)
def test_shipped_rule_has_the_cases_that_the_catalogue_asks_for(rule: Rule) -> None:
    cases, _ = read_cases(rule)
    outcomes = [case.expect["status"] for case in cases]
    full = [c for c in cases if c.expect["status"] == "fired" and c.expect.get("evidence")]
    assert any("saving_low" in c.expect and "saving_high" in c.expect for c in full) or (
        full and not rule.saving
    )
    assert outcomes.count("suppressed") >= len(rule.unless)
    assert {"fired", "passed", "not_applicable", "insufficient_data"} <= set(outcomes)


@pytest.mark.parametrize("rule", CORE, ids=lambda rule: rule.id)
def test_shipped_rule_names_only_known_facts_and_columns_and_https(rule: Rule) -> None:
    for expression in (rule.when, *(u.expr for u in rule.unless)):
        assert expression.columns <= set(FACTS)
    assert set(rule.evidence.columns) <= set(EVIDENCE_COLUMNS[rule.evidence.table])
    assert set(rule.requires) <= set(FACTS)
    assert all(reference.url.startswith("https://") for reference in rule.references)
    assert all(advice.versions for advice in rule.recommend if advice.set), (
        "flags change names between versions"
    )


def test_schema_lists_the_evidence_tables_of_the_vocabulary() -> None:
    schema = json.loads((CORE_PACK.parents[1] / "rule.schema.json").read_text())
    assert schema["properties"]["evidence"]["properties"]["from"]["enum"] == list(EVIDENCE_COLUMNS)


def test_readme_lists_the_catalogue_as_generated() -> None:
    readme = catalogue.README.read_text(encoding="utf-8")
    assert catalogue.with_catalogue(readme, CORE) == readme, "run python -m vtprof_rules.catalogue"


def test_every_rule_has_its_page_as_generated() -> None:
    written = {path.name: path.read_text(encoding="utf-8") for path in catalogue.PAGES.glob("*.md")}
    assert written == catalogue.pages(CORE), "run python -m vtprof_rules.catalogue"


def test_a_good_rule_of_a_user_is_loaded_beside_the_shipped_ones(tmp_path: Path) -> None:
    write(tmp_path, RULE)
    assert {rule.id for rule in load_packs([tmp_path])} == {rule.id for rule in CORE} | {"XAB001"}


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ('facts = "deployment_facts"', 'facts = "deployment_facts"\nwhenn = "x"', "'whenn' was unexpected"),
        ('when = "encode_ms_p50 >= $least"', "", "'when' is a required property"),
        ("encode_ms_p50 >= $least", "encode_ms_p50 >= $lest", ":when: unknown parameter $lest (column 18)"),
        ("encode_ms_p50 >= $least", "encode_p50 >= $least", ":when: unknown name 'encode_p50' (column 1)"),
        ("encode_ms_p50 >= $least", "encode_ms_p50 + $least", ":when: has to be a condition"),
        ("encode_ms_p50 >= $least", "engine > $least AND abs(engine) > 1", ":when: "),
        ("encode_ms_p50 >= $least", "encode_ms_p50 >= 1", ":params.least: no expression uses it"),
        ("encode_ms > 0", "getenv('HOME') = 'x'", ":evidence.where: function 'getenv' is not allowed"),
        ("encode_ms DESC", "encode_ms LIMIT 3", ":evidence.order_by: "),
        ('"encode_ms"]', '"encode_sm"]', ":evidence.columns[1]: requests has no column 'encode_sm'"),
        ('"trace_id", ', "", ":evidence.columns: begin with 'trace_id'"),
        ("https://", "http://", ":references[0].url: "),
        ("https://", "https://github.com@", ":references[0].url: "),
        ("https://", "https://\u0435", ":references[0].url: "),
        ("[[recommend]]", SAVING_OF_KV.replace('"bytes"', '"ms"') + "[[recommend]]", ":saving.unit: is 'ms'"),
        ("XAB001", "XAB1", ":id: "),
        ('id = "XAB001"', 'id = "XAB002"', ":id: the file's name has to begin with the rule's id"),
        ("A rule of a user's", "A rule \\u001b[2J of a user's", ":title: control characters are not allowed: U+001B"),
        ("A rule of a user's", "A rule \\u202E of a user's", ":title: control characters are not allowed: U+202E"),
        ("default = 10", "default = nan", ":params.least.default: "),
        ("[params.least]", '[applies]\nrequires = ["phase.sleep"]\n[params.least]', ":applies.requires[0]: 'phase.sleep'"),
        ("[params.least]", '[applies]\nengine = { vllm = "new" }\n[params.least]', ":applies.engine.vllm: 'new' is not"),
        ("[params.least]", "[params.least", "is not TOML"),
        ("[[recommend]]", SAVING_OF_KV + "[[recommend]]", ":saving.relative_to: name the numeric fact"),
        ("default = 10", "default = 9223372036854775808", ":params.least.default: numbers have to be finite"),
    ],
)  # fmt: skip
def test_a_fault_names_file_and_key(tmp_path: Path, before: str, after: str, expected: str) -> None:
    assert before in RULE
    text = faults_of(tmp_path, RULE.replace(before, after))
    assert expected in text
    assert all(line.startswith(str(tmp_path / "XAB001_mine.toml")) for line in text.splitlines())


def test_all_faults_of_all_files_are_reported_at_once(tmp_path: Path) -> None:
    write(tmp_path, RULE.replace("encode_ms > 0", "sum(encode_ms) > 0").replace("$least", "$lest"))
    write(tmp_path, "not toml", "XAB002_broken.toml")
    with pytest.raises(RuleError) as raised:
        load_packs([tmp_path])
    lines = str(raised.value).splitlines()
    assert [line.removeprefix(str(tmp_path)).split(":")[1] for line in lines[:2]] == [
        "evidence.where",
        "when",
    ]
    assert "XAB002_broken.toml: is not TOML" in lines[2]


def test_a_fault_of_the_schema_hides_no_fault_of_an_expression(tmp_path: Path) -> None:
    text = faults_of(
        tmp_path, RULE.replace("https://", "http://").replace("encode_ms > 0", "getenv('HOME') = 'x'")
    )
    assert ":references[0].url: " in text
    assert ":evidence.where: function 'getenv' is not allowed" in text


def test_a_shipped_rule_is_replaced_only_by_name(tmp_path: Path) -> None:
    mine = RULE.replace("XAB001", "ENC001")
    path = write(tmp_path, mine, "ENC001_mine.toml")
    with pytest.raises(RuleError, match="already defined"):
        load_packs([tmp_path])
    path.write_text(mine.replace('facts = "d', 'supersedes = ["ENC001"]\nfacts = "d'), encoding="utf-8")
    assert next(rule for rule in load_packs([tmp_path]) if rule.id == "ENC001").path == path


def test_what_is_replaced_has_to_be_there_and_is_told(tmp_path: Path) -> None:
    mine = RULE.replace('facts = "d', 'supersedes = ["ENC001", "ENC999"]\nfacts = "d')
    path = write(tmp_path, mine)
    with pytest.raises(RuleError, match=r"supersedes\[1\]: there is no rule 'ENC999' before it"):
        load_packs([tmp_path])
    path.write_text(mine.replace(', "ENC999"', ""), encoding="utf-8")
    assert [(old.id, new.id) for old, new in load_packs([tmp_path]).replaced] == [("ENC001", "XAB001")]


def test_the_same_id_twice_in_a_pack_is_a_fault(tmp_path: Path) -> None:
    write(tmp_path, RULE)
    write(tmp_path, RULE, "XAB001_again.toml")
    assert "already defined" in str(read_pack(tmp_path)[1][0])


@pytest.mark.parametrize(("make", "expected"), [(False, "no such folder"), (True, "holds no rule files")])
def test_a_missing_or_empty_folder_is_a_fault(tmp_path: Path, make: bool, expected: str) -> None:
    folder = tmp_path / "pack"
    if make:
        folder.mkdir()
    with pytest.raises(RuleError, match=expected):
        load_packs([folder])


def test_faulty_and_missing_cases_are_faults(tmp_path: Path) -> None:
    write(tmp_path, RULE)
    with pytest.raises(RuleError, match="has no cases"):
        read_checked(tmp_path)
    write(tmp_path, 'rule = "XAB002"\n[base]\nencode = 1\n[[case]]\nname = "a case"\nexpect = { status = "passed" }',
          "XAB001_mine.cases.toml")  # fmt: skip
    with pytest.raises(RuleError) as raised:
        read_checked(tmp_path)
    assert ":base: unknown name 'encode'" in str(raised.value)
    assert ":rule: names XAB002" in str(raised.value)
    write(tmp_path, 'rule = "XAB001"\n[[case]]\nname = "a case"\n'
          'expect = { status = "passed", advised = ["Do some"], not_advised = ["Do nothing"] }',
          "XAB001_mine.cases.toml")  # fmt: skip
    with pytest.raises(RuleError) as raised:
        read_checked(tmp_path)
    assert str(raised.value).split(":", 1)[1] == (
        "case[0].expect.not_advised: no advice of the rule begins with 'Do nothing'"
    )


def test_text_of_a_foreign_pack_cannot_steer_the_terminal() -> None:
    assert printable("a\x1b[31mb\u202ec\n") == "a\\x1b[31mb\\u202ec\\n"


@given(
    st.one_of(
        st.binary(max_size=200),
        st.text(max_size=200).map(lambda text: (RULE + text).encode("utf-8", "replace")),
    )
)
@settings(max_examples=150, deadline=None)
def test_random_bytes_give_faults_and_no_traceback(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.mktemp("pack") / "XAB001_random.toml"
    path.write_bytes(data)
    rule, faults = read_rule(path)
    assert (rule is None) == bool(faults)
    assert all("\n" not in str(fault) for fault in faults)


def test_a_file_that_is_nested_too_deeply_is_a_fault(tmp_path: Path) -> None:
    _, faults = read_toml(write(tmp_path, "a = " + "[" * 20_000), "rule.schema.json")
    assert len(faults) == 1


def test_the_shipped_pack_has_no_fault_that_trust_would_hide() -> None:
    rules, faults = read_pack(CORE_PACK)
    assert [str(fault) for fault in faults] == []
    assert [rule.id for rule in rules] == [rule.id for rule in load_packs()]
