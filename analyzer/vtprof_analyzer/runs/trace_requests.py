"""Requests from traces: the analyzer's tables of a run, as far as a comparison needs them, become columns."""

from importlib import resources
from typing import Any, Final

import duckdb
import numpy as np
from numpy.typing import NDArray

from vtprof_analyzer.pipeline import Settings, create_parameters, run_sql_stage
from vtprof_analyzer.regress.requests import Floats, Integers
from vtprof_analyzer.runs.coded import coded
from vtprof_analyzer.runs.sift import Columns, Sifted, sift

STAGES: Final = (
    "10_request_base.sql",
    "11_hosts.sql",
    "12_clock_offsets.sql",
    "20_phase_intervals.sql",
    "39_ttft_segments.sql",
    "40_request_budget.sql",
)
"""What `sifted_requests` needs of an analysis: no cost model, no physics, no steps."""
_FLOATS: Final = (
    "text_tokens", "visual_tokens", "audio_tokens", "output_tokens", "cached_tokens", "images", "encoder_hit",
    "preprocess_ms", "queue_ms", "encode_ms", "transfer_ms", "prefill_ms", "unexplained_ms", "ttft_ms", "tpot_ms",
    "kv_bytes", "weight",
)  # fmt: skip
_RUNNING: Final = """
SELECT start_ns, end_ns, step_running::DOUBLE AS running FROM spans
WHERE name IN ('vtprof.step', 'vtprof.window') AND end_ns > start_ns AND isfinite(step_running) AND step_running >= 0
      AND step_count IS DISTINCT FROM 0
"""


def run_stages(connection: duckdb.DuckDBPyConnection) -> None:
    """Make the tables that `sifted_requests` reads from the base tables."""
    create_parameters(connection, Settings())
    for stage in STAGES:
        run_sql_stage(connection, stage)


def sifted_requests(connection: duckdb.DuckDBPyConnection) -> Sifted:
    """Return the requests of a database with the tables of `run_stages`, and those that are left out, by reason."""
    query = resources.files("vtprof_analyzer.runs").joinpath("trace_requests.sql").read_text("utf-8")
    rows = connection.execute(query).fetchnumpy()
    floats: dict[str, Floats] = {name: _floats(rows[name]) for name in _FLOATS}
    start_ns: Integers = np.ma.filled(rows["start_ns"], 0).astype(np.int64, copy=False)
    end_ns: Integers = np.ma.filled(rows["end_ns"], 0).astype(np.int64, copy=False)
    steps = connection.execute(_RUNNING).fetchnumpy()
    if len(steps["running"]):
        floats["in_flight"] = _beside(steps, start_ns, end_ns)
    models, model = coded(rows["model"])
    # What cannot be comes before what was recorded as its end.
    status: NDArray[Any] = np.where(rows["impossible"] == "", rows["status"], rows["impossible"])
    return sift(Columns(floats, start_ns, rows["id"], None, model, models, status))


def _floats(values: NDArray[Any]) -> Floats:
    return np.ma.filled(values, np.nan).astype(np.float64, copy=False)


def _beside(steps: dict[str, NDArray[Any]], start_ns: Integers, end_ns: Integers) -> Floats:
    """Return the mean of requests that ran beside each one while it was there; NaN where no step told any.

    Ranks that tell of the same iterations count alike: it is a mean over the steps' time.
    """
    origin = int(steps["start_ns"].min())
    times = np.concatenate([steps["start_ns"], steps["end_ns"]]) - origin
    order = np.argsort(times, kind="stable")
    times = times[order].astype(np.float64)
    running = np.asarray(steps["running"], np.float64)
    lengths = np.diff(times, prepend=times[0])

    def integral(rates: Floats) -> tuple[Floats, Floats]:
        """Return the integral of a sum of steps' rates from the first one on, at begin and end of each request."""
        slopes = np.cumsum(np.concatenate([rates, -rates])[order])
        summed = np.cumsum(lengths * np.concatenate([[0.0], slopes[:-1]]))
        begin = np.interp((start_ns - origin).astype(np.float64), times, summed)
        end = np.interp((end_ns - origin).astype(np.float64), times, summed)
        return begin, end

    begin, end = integral(running)
    told_begin, told_end = integral(np.ones(len(running)))
    told = told_end - told_begin
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = (end - begin) / told
    return np.where(told > 0, np.maximum(mean - 1.0, 0.0), np.nan)
