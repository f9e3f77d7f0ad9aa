"""Makes a ``Rule`` from a document that satisfies the JSON Schema: expressions, names and types are checked here."""

import fnmatch
import functools
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import duckdb

from vtprof_rules.expressions import ExpressionError, parse_expression, parse_order_by
from vtprof_rules.faults import Fault
from vtprof_rules.rule import (
    SEVERITIES,
    Evidence,
    Expression,
    Param,
    Recommendation,
    Reference,
    Rule,
    SavingFormula,
    Unless,
)
from vtprof_rules.sandbox import Sandbox
from vtprof_rules.vocabulary import EVIDENCE_COLUMNS, FACT_VIEWS, FACTS

DEFAULT_LIMIT = 10
_RELATIVE_TO = {
    "ttft_ms": "ttft_ms_p50",
    "tpot_ms": "tpot_ms_p50",
    "kv_bytes": "kv_bytes_peak",
    "energy_j": "decode_energy_j",
}
_UNITS = {
    "ttft_ms": "ms",
    "tpot_ms": "ms",
    "kv_bytes": "bytes",
    "host_bytes": "bytes",
    "throughput_ratio": "ratio",
    "gpu_seconds": "s",
    "energy_j": "J",
}
_BOOLEAN: tuple[str, ...] = ("BOOLEAN",)
_NUMERIC: tuple[str, ...] = ("DOUBLE", "BIGINT", "INTEGER", "HUGEINT", "DECIMAL")
_REFUSED = Expression("", "NULL", frozenset(), frozenset())
"""Stands for an expression that was refused while the rest of the file is checked; the rule is then not used."""


def expressions_of(documents: Iterable[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """Return every scalar expression of these rule files, and every ORDER BY list."""
    scalars, orders = [], []
    for document in documents:
        saving = document.get("saving", {})
        scalars += [
            document["when"],
            document["evidence"]["where"],
            *(saving[end] for end in ("low", "high") if saving),
        ]
        scalars += [entry["expr"] for entry in document.get("unless", ())]
        scalars += [entry["when"] for entry in document["recommend"] if "when" in entry]
        orders.append(document["evidence"]["order_by"])
    return scalars, orders


class RuleBuilder:
    """Builds one rule and collects the faults that the JSON Schema cannot see."""

    def __init__(self, path: Path, document: Mapping[str, Any]) -> None:
        self.faults: list[Fault] = []
        self._path = path
        self._document = document
        self._params = {
            name: Param(entry["default"], entry.get("unit"), entry["source"])
            for name, entry in document.get("params", {}).items()
        }
        self._used: set[str] = set()

    def build(self, bind: bool = True) -> Rule:
        """Return the rule; it may be used only if ``faults`` is empty afterwards.

        With ``bind`` the types of its expressions are checked too.
        """
        document = self._document
        applies = document.get("applies", {})
        rule = Rule(
            id=document["id"],
            title=document["title"],
            phase=document["phase"],
            severity=document["severity"],
            min_severity=document.get("min_severity"),
            description=document["description"].strip(),
            facts=document["facts"],
            engines=applies.get("engine", {}),
            requires=tuple(self._required(i, name) for i, name in enumerate(applies.get("requires", ()))),
            min_requests=applies.get("min_requests", 1),
            params=self._params,
            when=self._parse("when", document["when"], FACTS),
            unless=tuple(
                Unless(self._parse(f"unless[{i}].expr", entry["expr"], FACTS), entry["because"])
                for i, entry in enumerate(document.get("unless", ()))
            ),
            evidence=self._evidence(document["evidence"]),
            saving=self._saving(document["saving"]) if "saving" in document else None,
            recommend=tuple(
                Recommendation(
                    r["action"],
                    r.get("engine"),
                    r.get("versions"),
                    r.get("set", {}),
                    r.get("risk"),
                    self._parse(f"recommend[{i}].when", r["when"], FACTS) if "when" in r else None,
                )
                for i, r in enumerate(document["recommend"])
            ),
            references=tuple(Reference(r["title"], r["url"]) for r in document["references"]),
            invalidates=tuple(document.get("invalidates", ())),
            supersedes=tuple(document.get("supersedes", ())),
            group=document.get("group"),
            accuracy=document.get("accuracy", False),
            shows=tuple(document.get("shows", ())),
            tags=tuple(document.get("tags", ())),
            path=self._path,
        )
        self._check_names(rule)
        if bind and not self.faults:
            self._check_types(rule)
        return rule

    def _fault(self, key: str, message: str, column: int | None = None) -> None:
        self.faults.append(Fault(self._path, key, message, column))

    def _parse(self, key: str, text: str, columns: Collection[str], order_by: bool = False) -> Expression:
        try:
            expression = (parse_order_by if order_by else parse_expression)(text, columns, self._params)
        except ExpressionError as error:
            self._fault(key, str(error), error.column)
            return _REFUSED
        self._used |= expression.params
        return expression

    def _required(self, index: int, name: str) -> str:
        """Turn ``phase.encode`` into the fact ``encode_ms_p50``, ``deployment.tp`` into ``tp``."""
        group, _, rest = name.rpartition(".")
        fact = f"{rest}_ms_p50" if group == "phase" else rest
        if group not in ("", "deployment", "phase") or fact not in FACTS:
            self._fault(f"applies.requires[{index}]", f"{name!r} is no known fact")
        return fact

    def _evidence(self, document: Mapping[str, Any]) -> Evidence:
        table = document["from"]
        known = EVIDENCE_COLUMNS[table]
        for index, column in enumerate(document["columns"]):
            if column not in known:
                self._fault(f"evidence.columns[{index}]", f"{table} has no column {column!r}")
        if document["columns"][0] != next(iter(known)):
            self._fault("evidence.columns", f"begin with {next(iter(known))!r}, by which a row can be found")
        return Evidence(
            table=table,
            where=self._parse("evidence.where", document["where"], known),
            order_by=self._parse("evidence.order_by", document["order_by"], known, order_by=True),
            columns=tuple(document["columns"]),
            limit=document.get("limit", DEFAULT_LIMIT),
        )

    def _saving(self, document: Mapping[str, Any]) -> SavingFormula:
        relative_to = document.get("relative_to", _RELATIVE_TO.get(document["metric"]))
        if relative_to and (relative_to not in FACTS or FACTS[relative_to].type not in _NUMERIC):
            self._fault("saving.relative_to", "name the numeric fact that the saving is a share of")
        unit = _UNITS[document["metric"]]
        if document["unit"] != unit:
            self._fault("saving.unit", f"is {document['unit']!r}, where {document['metric']} takes {unit!r}")
        return SavingFormula(
            metric=document["metric"],
            unit=document["unit"],
            low=self._parse("saving.low", document["low"], FACTS),
            high=self._parse("saving.high", document["high"], FACTS),
            relative_to=relative_to,
            basis=document["basis"],
            how=document["how"],
            phases=tuple(document.get("phases", (self._document["phase"],))),
            less_work=document.get("less_work", False),
        )

    def _check_names(self, rule: Rule) -> None:
        for name in sorted(set(self._params) - self._used):
            if not self.faults:  # a refused expression may be the one that uses it
                self._fault(f"params.{name}", "no expression uses it")
        for index, pattern in enumerate(rule.invalidates):
            if not fnmatch.filter(FACTS, pattern):
                self._fault(f"invalidates[{index}]", f"{pattern!r} matches no known fact")
        for index, name in enumerate(rule.shows):
            if name not in FACTS:
                self._fault(f"shows[{index}]", f"{name!r} is no known fact")
        floor = rule.min_severity
        if floor and SEVERITIES.index(floor) > SEVERITIES.index(rule.severity):
            self._fault("min_severity", f"is above the default severity, {rule.severity}")

    def _check_types(self, rule: Rule) -> None:
        """Bind every expression to the empty tables, so that a wrong type or argument is found before any trace."""
        values = rule.defaults()
        facts, evidence = _empty()
        wanted = [("when", facts, rule.facts, rule.when, _BOOLEAN)]
        wanted += [
            (f"unless[{i}].expr", facts, rule.facts, u.expr, _BOOLEAN) for i, u in enumerate(rule.unless)
        ]
        wanted.append(("evidence.where", evidence, rule.evidence.table, rule.evidence.where, _BOOLEAN))
        wanted += [
            (f"recommend[{i}].when", facts, rule.facts, advice.when, _BOOLEAN)
            for i, advice in enumerate(rule.recommend)
            if advice.when
        ]
        if rule.saving:
            wanted += [("saving.low", facts, rule.facts, rule.saving.low, _NUMERIC)]
            wanted += [("saving.high", facts, rule.facts, rule.saving.high, _NUMERIC)]
        for key, sandbox, table, expression, types in wanted:
            try:
                found = sandbox.result_type(table, expression, values)
            except duckdb.Error as error:
                self._fault(key, str(error).strip().splitlines()[0])
                continue
            if not found.startswith(types):
                kind = "a condition (true or false)" if types == _BOOLEAN else "a number"
                self._fault(key, f"has to be {kind}, is {found}")
        try:
            evidence.bind_order(rule.evidence.table, rule.evidence.order_by, values)
        except duckdb.Error as error:
            self._fault("evidence.order_by", str(error).strip().splitlines()[0])


@functools.cache
def _empty() -> tuple[Sandbox, Sandbox]:
    """Return the facts views and the evidence tables without rows; binding to them changes nothing."""
    return (
        Sandbox({}, {view: list(FACTS) for view in FACT_VIEWS}),
        Sandbox.of_evidence(None, EVIDENCE_COLUMNS),
    )
