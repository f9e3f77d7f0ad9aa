"""Time that all shipped rules take over the evidence of a million requests, elapsed and CPU; the budget is of the former.

Of every few rules one fires, by the facts of its firing case; evidence is made up. What findings show is copied into the
sandbox, so that time goes with how many of them there are.
Exit code 1: the budget is missed.
"""

import argparse
import json
import os
import sys
import time

import duckdb

from vtprof_rules.cases import read_cases
from vtprof_rules.evaluate import evaluate
from vtprof_rules.fact_rows import FactRow
from vtprof_rules.load import load_packs
from vtprof_rules.vocabulary import EVIDENCE_COLUMNS

BUDGET_S = 2.0
ROWS = {"requests": 1.0, "phase_spans": 4.0, "steps": 1.0, "media_items": 0.5, "gpu_samples": 0.5}
"""Rows of each table for each request."""
_VALUES = {
    "BIGINT": "(hash(i) % 5000)::BIGINT",
    "DOUBLE": "hash(i) % 100000 / 100",
    "VARCHAR": "'s' || hash(i) % 1000",
}


_SPECIAL = {"phase": "['preprocess', 'queue', 'encode', 'prefill', 'decode'][1 + i % 5]"}


def fill(connection: duckdb.DuckDBPyConnection, requests: int) -> None:
    """Make the evidence tables of so many requests."""
    for table, share in ROWS.items():
        columns = ", ".join(
            f"{_SPECIAL.get(name) or _VALUES.get(column.type, 'i % 2 = 0')} AS {name}"
            for name, column in EVIDENCE_COLUMNS[table].items()
        )
        connection.execute(
            f"CREATE TABLE {table} AS SELECT {columns} FROM range({int(requests * share)}) AS t (i)"
        )


def main() -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--every", type=int, default=8, help="let one rule of so many fire")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    rules = load_packs()
    rows: dict[str, list[FactRow]] = {}
    for rule in list(rules)[:: options.every]:
        case = next(case for case in read_cases(rule)[0] if case.expect["status"] == "fired")
        subject = str(case.facts["phase"]) if rule.facts == "phase_facts" else None
        rows.setdefault(rule.facts, []).append(FactRow(subject, case.facts))
    rows.setdefault("phase_facts", []).append(FactRow("transfer", {}))  # as in a run: a row for each phase
    with duckdb.connect(":memory:") as source:
        fill(source, options.requests)
        begin_s, begin = time.perf_counter(), sum(os.times()[:2])
        outcomes = evaluate(rules, rows, source)
        elapsed_s, cpu_s = time.perf_counter() - begin_s, sum(os.times()[:2]) - begin
    fired = sum(outcome.status == "fired" for outcome in outcomes)
    found = {
        "requests": options.requests,
        "rules": len(rules),
        "fired": fired,
        "elapsed_s": elapsed_s,
        "cpu_s": cpu_s,
        "budget_s": BUDGET_S,
    }
    if options.json:
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        verdict = "within" if elapsed_s <= BUDGET_S else "MISSED"
        sys.stdout.write(
            f"{len(rules)} rules over {options.requests:,} requests, {fired} fired: {elapsed_s:.2f} s,"
            f" {cpu_s:.2f} CPU s (budget {BUDGET_S:g} s: {verdict})\n"
        )
    return 0 if elapsed_s <= BUDGET_S else 1


if __name__ == "__main__":
    sys.exit(main())
