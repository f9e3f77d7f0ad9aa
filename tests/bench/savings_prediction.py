"""What a finding says that its advice would save, against what was measured: an interval and a spread, and how they lie."""

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import duckdb

from vtprof_analyzer.analyze import Options, analyze
from vtprof_analyzer.report.model import Report

RULES_OFF: Final = (
    "DAT002=peaks measured while others used the machine come out low; a saving rests on ratios of times alone",
)
RESAMPLES: Final = 4000
TAIL: Final = 0.05
"""On each side: a 90 % interval, as that of the report."""


@dataclass(frozen=True)
class Prediction:
    """The saving of a finding, in its metric's unit."""

    rule: str
    metric: str
    low: float
    high: float
    basis: str
    interval: tuple[float, float] | None
    """90 % interval over draws of requests, where the report gives one."""


@dataclass(frozen=True)
class Spread:
    """A mean over repetitions with its 90 % bootstrap interval."""

    mean: float
    low: float
    high: float
    count: int

    def lies(self, low: float, high: float) -> str:
        """Tell how the mean, and its spread, lie to an interval."""
        if low <= self.mean <= high:
            return "inside"
        side = "above" if self.mean > high else "below"
        return f"{side} it, by {'less' if self.meets(low, high) else 'more'} than the spread"

    def meets(self, low: float, high: float) -> bool:
        """Tell whether the spread and an interval have values in common."""
        return self.low <= high and self.high >= low


@dataclass(frozen=True)
class Traces:
    """A report on a folder of traces, and what its tables say."""

    report: Report
    facts: dict[str, Any]
    """The row of the model, or of the process, that answered most: every fact by name."""
    requests: list[dict[str, Any]]
    """In order of arrival."""

    def times_ms(self, column: str) -> list[float]:
        """Return a time of all requests [ms], in order of arrival; 0 for a phase that one did not have."""
        return [float(request[column] or 0.0) for request in self.requests]

    def predicted(self, rule: str) -> Prediction | None:
        """Return the saving of a rule that fired and tells both ends; ``None`` else."""
        for finding in self.report.findings:
            saving = finding.saving
            if finding.rule == rule and saving and saving.low is not None and saving.high is not None:
                ends = (saving.interval_low, saving.interval_high)
                interval = None if ends[0] is None or ends[1] is None else (ends[0], ends[1])
                return Prediction(rule, saving.metric, saving.low, saving.high, saving.basis, interval)
        return None


def read_traces(folder: Path, database: Path, facts_view: str) -> Traces:
    """Analyze a folder as `vtprof analyze` does, and read its requests and one facts view back."""
    report = analyze(Options([folder], rules_off=list(RULES_OFF), database=database, cache=False))
    with duckdb.connect(str(database), read_only=True) as connection:
        (facts, *_) = _rows(connection, f"SELECT * FROM {facts_view} ORDER BY n_requests DESC")
        requests = _rows(
            connection,
            "SELECT r.*, b.arrival_ns FROM requests AS r JOIN request_base AS b USING (request_number)"
            " ORDER BY b.arrival_ns",
        )
    return Traces(report, facts, requests)


def _rows(connection: duckdb.DuckDBPyConnection, query: str) -> list[dict[str, Any]]:
    found = connection.execute(query)
    columns = [column for column, *_ in found.description or ()]
    return [dict(zip(columns, row, strict=True)) for row in found.fetchall()]


def spread(
    values: Sequence[float], of: Callable[[Sequence[float]], float] = statistics.fmean, seed: int = 1
) -> Spread:
    """Return a statistic, by default the mean, with its bootstrap interval over the values."""
    rng = random.Random(seed)
    drawn = sorted(of(rng.choices(values, k=len(values))) for _ in range(RESAMPLES))
    ends = (drawn[int(TAIL * RESAMPLES)], drawn[int((1 - TAIL) * RESAMPLES) - 1])
    return Spread(of(values), *ends, len(values))
