"""Runs the cases that lie beside each rule (``*.cases.toml``): facts and rows in, the expected outcome out."""

import math
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from vtprof_rules.evaluate import evidence_box, severity_of, shown
from vtprof_rules.fact_rows import FactRow
from vtprof_rules.faults import Fault, sorted_lines
from vtprof_rules.judge import Bench, Verdict, columns_of
from vtprof_rules.load import CASES_SUFFIX, exists, read_pack, read_toml
from vtprof_rules.rule import Recommendation, Rule
from vtprof_rules.sandbox import Sandbox
from vtprof_rules.vocabulary import EVIDENCE_COLUMNS, FACTS, Column, ColumnType
from vtprof_schemas.errors import RuleError

_TOLERANCE = 1e-9
"""Relative. Cases are computed by hand from round numbers, so only the last bits may differ."""

_TAKES: Mapping[ColumnType, str] = {
    "DOUBLE": "a number",
    "BIGINT": "a whole number",
    "VARCHAR": "text",
    "BOOLEAN": "true or false",
}


@dataclass(frozen=True)
class Case:
    """One case of a rule: the facts and rows it is judged on, and what must come out."""

    name: str
    facts: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    expect: Mapping[str, Any]


@dataclass(frozen=True)
class CaseResult:
    """One case that was run; it holds when ``failures`` is empty."""

    rule: str
    case: str
    failures: tuple[str, ...]


def cases_path(rule: Rule) -> Path:
    """Return where the cases of a rule belong: beside it, under the same name."""
    return rule.path.with_name(rule.path.stem + CASES_SUFFIX)


def read_cases(rule: Rule) -> tuple[list[Case], list[Fault]]:
    """Read a rule's cases; a rule without any is a fault."""
    path = cases_path(rule)
    if not exists(path, stat.S_ISREG):
        return [], [Fault(rule.path, "", f"has no cases: write {path.name} beside it")]
    document, faults = read_toml(path, "cases.schema.json")
    if document is None or faults:
        return [], faults
    if document["rule"] != rule.id:
        faults.append(Fault(path, "rule", f"names {document['rule']}, the rule beside it is {rule.id}"))
    base = document.get("base", {})
    faults += _misfits(path, "base", base, FACTS)
    cases = []
    for index, entry in enumerate(document["case"]):
        key = f"case[{index}]"
        faults += _misfits(path, f"{key}.facts", entry.get("facts", {}), FACTS)
        faults += _unknown(path, f"{key}.unset", entry.get("unset", []), FACTS)
        for number, row in enumerate(entry.get("rows", [])):
            faults += _misfits(path, f"{key}.rows[{number}]", row, EVIDENCE_COLUMNS[rule.evidence.table])
        facts = {**base, **entry.get("facts", {})}
        for name in entry.get("unset", []):
            facts.pop(name, None)
        for name in ("advised", "not_advised"):
            faults += [
                Fault(path, f"{key}.expect.{name}", f"no advice of the rule begins with {text!r}")
                for text in entry["expect"].get(name, [])
                if not _begins(rule.recommend, text)
            ]
        cases.append(Case(entry["name"], facts, entry.get("rows", []), entry["expect"]))
    return ([] if faults else cases), faults


def run_cases(rule: Rule, cases: Sequence[Case]) -> list[CaseResult]:
    """Judge the rule on each of its cases and compare with what the case expects."""
    with case_facts(rule, cases) as bench:
        return compare(rule, cases, bench)


@contextmanager
def case_facts(rule: Rule, cases: Sequence[Case]) -> Iterator[Bench]:
    """Yield a bench on which the rows of the rule's view are the cases, in their order."""
    facts = {rule.facts: [FactRow(None, case.facts) for case in cases]}
    with Sandbox(facts, columns_of([rule])) as sandbox:
        yield Bench(sandbox, facts)


def compare(rule: Rule, cases: Sequence[Case], bench: Bench) -> list[CaseResult]:
    """Judge the rule, or one that reads the same facts, on the bench of its cases, and compare."""
    verdicts = bench.judge(rule)
    return [
        CaseResult(rule.id, case.name, tuple(_failures(rule, case, verdict)))
        for case, verdict in zip(cases, verdicts, strict=True)
    ]


def _failures(rule: Rule, case: Case, verdict: Verdict) -> list[str]:
    saving = verdict.saving
    found: dict[str, Any] = {
        "status": verdict.status,
        "severity": severity_of(rule, saving) if verdict.status == "fired" else None,
        "saving_low": saving.low if saving else None,
        "saving_high": saving.high if saving else None,
    }
    if "evidence" in case.expect:
        found["evidence"] = _evidence(rule, case) if verdict.status == "fired" else []
    for name, given in (("advised", True), ("not_advised", False)):
        texts = case.expect.get(name, [])
        found[name] = [text for text in texts if _begins(verdict.advice, text) is given]
    return [
        f"expected {name} {wanted!r}, got {found[name]!r}"
        + (f" ({verdict.reason})" if verdict.reason else "")
        for name, wanted in case.expect.items()
        if not _same(wanted, found[name])
    ]


def _begins(advice: Sequence[Recommendation], text: str) -> bool:
    return any(one.action.startswith(text) for one in advice)


def _evidence(rule: Rule, case: Case) -> list[Any]:
    """Return the first column of the rows that the finding would show."""
    with duckdb.connect(":memory:") as source:
        _fill(source, rule.evidence.table, case.rows)
        with evidence_box([rule], source) as sandbox:
            _, _, rows = shown(rule, sandbox)
    return [row[rule.evidence.columns[0]] for row in rows]


def _same(wanted: Any, found: Any) -> bool:
    if isinstance(wanted, int | float) and isinstance(found, int | float):
        return math.isclose(wanted, found, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
    return bool(wanted == found)


def _fill(source: duckdb.DuckDBPyConnection, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
    columns = EVIDENCE_COLUMNS[table]
    described = ", ".join(f"{name} {column.type}" for name, column in columns.items())
    source.execute(f"CREATE TABLE {table} ({described})")
    for row in rows:
        values = [row.get(name) for name in columns]
        source.execute(f"INSERT INTO {table} VALUES ({', '.join('?' for _ in columns)})", values)


def _unknown(path: Path, key: str, names: Any, known: Mapping[str, Any]) -> list[Fault]:
    return [Fault(path, key, f"unknown name {name!r}") for name in names if name not in known]


def _misfits(path: Path, key: str, values: Mapping[str, Any], known: Mapping[str, Column]) -> list[Fault]:
    """Return a fault for each name that nothing has, and for each value that is not of its column's type."""
    faults = _unknown(path, key, values, known)
    for name, value in values.items():
        if name in known and not _fits(value, known[name]):
            message = f"is {value!r}, where {name} takes {_TAKES[known[name].type]}"
            faults.append(Fault(path, f"{key}.{name}", message))
    return faults


def _fits(value: Any, column: Column) -> bool:
    if isinstance(value, bool):
        return column.type == "BOOLEAN"
    if isinstance(value, str):
        return column.type == "VARCHAR"
    return column.type == "DOUBLE" or (column.type == "BIGINT" and float(value).is_integer())


def read_checked(folder: Path) -> list[tuple[Rule, list[Case]]]:
    """Read a folder's rules with their cases; raise ``RuleError`` with one line for each fault of either."""
    rules, faults = read_pack(folder)
    checked = []
    for rule in rules:
        cases, case_faults = read_cases(rule)
        faults += case_faults
        checked.append((rule, cases))
    expected = {cases_path(rule) for rule in rules}
    if not faults:  # a faulty rule is no reason to call its cases stray
        strays = sorted(set(folder.rglob(f"*{CASES_SUFFIX}")) - expected)
        faults += [Fault(path, "", "no rule file of this name lies beside it") for path in strays]
    if faults:
        raise RuleError(sorted_lines(faults))
    return checked
