"""Intervals of savings: what a finding would have said, had other requests of the same kind come (bootstrap).

Times that a saving is computed from are medians and means over requests; with few of them they move. Facts that are no
statistic of the requests' times are held fixed, so that the interval is of the sample, not of the model behind it.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import duckdb
import numpy as np
import numpy.typing as npt

from vtprof_rules.fact_rows import SUBJECTS, FactRow, FactRows, Facts, number
from vtprof_rules.judge import saving_ends
from vtprof_rules.outcome import Outcome
from vtprof_rules.rule import Rule

REPLICATES: Final = 200
MOST_REQUESTS: Final = 2_000
"""Drawn without replacement of more; the spread of a statistic of n requests is sqrt(m / n) of that of m."""
LEVEL: Final = 0.90

_TIMES: Final = ("ttft", "preprocess", "queue", "encode", "transfer", "prefill", "tpot")
_STATISTIC: Final = re.compile(rf"({'|'.join(_TIMES)})_ms_(p50|p95|p99|mean)")
_SHARE: Final = re.compile(rf"({'|'.join(_TIMES)})_share_of_ttft_p50")
_IDEAL: Final = re.compile(r"(encode|prefill)_ideal_ms")

Column = npt.NDArray[np.float64]


def with_intervals(
    connection: duckdb.DuckDBPyConnection, outcomes: Sequence[Outcome], rules: Sequence[Rule], facts: FactRows
) -> list[Outcome]:
    """Return the outcomes with the 90 % interval of each finding's saving; those without any are returned as they are."""
    by_id = {rule.id: rule for rule in rules}
    samples: dict[tuple[str, str] | None, dict[str, Column]] = {}
    done = []
    for outcome in outcomes:
        rule = by_id[outcome.rule]
        saving, formula = outcome.saving, rule.saving
        names = formula.low.columns | formula.high.columns if formula else frozenset()
        moving = sorted(name for name in names if _column(name))
        if saving is None or outcome.status != "fired" or not moving:
            done.append(outcome)
            continue
        about = _about(outcome)
        if about not in samples:
            samples[about] = _sample(connection, about)
        rows = _replicated(_row(facts, outcome), moving, samples[about])
        done.append(replace(outcome, saving=replace(saving, interval=_interval(saving_ends(rule, rows)))))
    return done


def _column(name: str) -> str | None:
    """Return the time that a fact is a statistic of; ``None`` for other facts."""
    found = _STATISTIC.fullmatch(name) or _SHARE.fullmatch(name) or _IDEAL.fullmatch(name)
    return f"{found[1]}_ms" if found else None


def _about(outcome: Outcome) -> tuple[str, str] | None:
    if not outcome.subjects or outcome.view not in ("model_facts", "instance_facts"):
        return None
    return SUBJECTS[outcome.view][1], outcome.subjects[0]


def _row(facts: FactRows, outcome: Outcome) -> Facts:
    subject = outcome.subjects[0] if outcome.subjects else None
    rows = facts.get(outcome.view, ())
    return next((row.values for row in rows if subject is None or row.subject == subject), {})


def _sample(connection: duckdb.DuckDBPyConnection, about: tuple[str, str] | None) -> dict[str, Column]:
    """Return the times of at most `MOST_REQUESTS` requests with a first token, their weights, and how many there are."""
    within = f"{about[0]} = ?" if about else "true"
    columns = ", ".join(f"{name}_ms::DOUBLE AS {name}_ms" for name in _TIMES)
    table = connection.execute(
        f"SELECT {columns}, weight::DOUBLE AS weight, (count(*) OVER ())::DOUBLE AS requests FROM requests"
        f" WHERE ttft_ms IS NOT NULL AND {within} ORDER BY hash(request_number) LIMIT {MOST_REQUESTS}",
        [about[1]] if about else [],
    ).fetchnumpy()
    return {name: np.ma.filled(np.ma.asarray(values, np.float64), np.nan) for name, values in table.items()}


def _replicated(row: Facts, moving: Sequence[str], sample: Mapping[str, Column]) -> list[FactRow]:
    """Return the row as it would be in `REPLICATES` draws of as many requests."""
    size = len(sample["weight"])
    if size < 2:
        return [FactRow(None, row)]
    generator = np.random.default_rng(0)  # the same report for the same traces
    weights = sample["weight"] / sample["weight"].sum()
    draws = generator.choice(size, size=(REPLICATES, size), p=weights)
    shrink = math.sqrt(size / sample["requests"][0])
    columns: dict[str, list[float | None]] = {}
    for name in moving:
        said = number(row, name)
        drawn = _statistic(name, row, {key: values[draws] for key, values in _needed(name, sample)})
        centre = float(np.nanmean(drawn)) if not np.isnan(drawn).all() else math.nan
        moved = [None if said is None else said + shrink * (value - centre) for value in drawn.tolist()]
        columns[name] = [value if value is not None and math.isfinite(value) else said for value in moved]
    return [
        FactRow(None, {**row, **{name: values[index] for name, values in columns.items()}})
        for index in range(REPLICATES)
    ]


def _needed(name: str, sample: Mapping[str, Column]) -> list[tuple[str, Column]]:
    wanted = {_column(name), "ttft_ms" if _SHARE.fullmatch(name) else None}
    return [(key, values) for key, values in sample.items() if key in wanted]


def _statistic(name: str, row: Facts, drawn: Mapping[str, Column]) -> Column:
    """Return the statistic of each draw (rows: draws, columns: requests)."""
    with np.errstate(all="ignore"):
        values = drawn[str(_column(name))]
        if _SHARE.fullmatch(name):
            return _median(values / drawn["ttft_ms"])
        if _IDEAL.fullmatch(name):
            ratio = number(row, name.replace("_ideal_ms", "_floor_ratio"))
            return _median(values) * min(1.0, ratio if ratio is not None else 1.0)
        kind = name.rpartition("_")[2]
        if kind == "mean":
            return np.asarray(np.nanmean(values, axis=1))
        return np.asarray(np.nanquantile(values, float(kind[1:]) / 100, axis=1))


def _median(values: Column) -> Column:
    return np.asarray(np.nanmedian(values, axis=1))


def _interval(ends: Sequence[tuple[Any, Any]]) -> tuple[float, float] | None:
    """Return the 5th percentile of the low ends and the 95th of the high ones."""
    lows = [float(low) for low, _ in ends if low is not None and math.isfinite(low)]
    highs = [float(high) for _, high in ends if high is not None and math.isfinite(high)]
    if not lows or not highs:
        return None
    tail = (1 - LEVEL) / 2
    low, high = float(np.quantile(lows, tail)), float(np.quantile(highs, 1 - tail))
    return max(0.0, min(low, high)), max(0.0, high)
