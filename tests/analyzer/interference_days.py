"""Runs with a known cost of image work, for tests: steps and text requests as the tables that the stages read.

Nothing here has the form of the estimators: times of steps bend with batch, context and prompt tokens, image work comes in
bursts and adds by a power law, and the machine slows down while it is hot, which is when there was image work.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from vtprof_analyzer import interference_stage, pipeline, step_cost

BASE_NS = 1_795_000_000_000_000_000
STAGES = (
    "68_engine_work.sql",
    "68_engine_work_between.sql",
    "69_exposures.sql",
    "74_interference_cells.sql",
    "74_interference_requests.sql",
)
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Run:
    """Steps, text requests, and what image work truly added to their mean times [ms]."""

    steps: dict[str, Any]
    requests: dict[str, Any]
    segments: dict[str, Any]
    ttft_ms: float
    tpot_ms: float


def make_run(
    seed: int, *, steps: int = 6000, requests: int = 500, strength: float = 1.0, overlap: bool = True
) -> Run:
    """Make a run; ``strength`` scales the cost of image work, without ``overlap`` prompts of text come with images only."""
    rng = np.random.default_rng(seed)
    batch = np.clip(20 + 12 * _slowly(rng, steps, 300) + rng.normal(0, 2, steps), 1, None).round()
    context = (batch * np.clip(900 + 300 * _slowly(rng, steps, 500), 100, None)).round()
    burst = _slowly(rng, steps, 200) > 0.4
    visual = np.where(
        rng.random(steps) < np.where(burst, 0.3, 0.03), rng.lognormal(6.5, 0.7, steps), 0
    ).round()
    with_text = rng.random(steps) < 0.12
    if not overlap:
        with_text &= visual > 0
    text = np.where(with_text, rng.lognormal(5.3, 0.6, steps), 0).round()
    plain_ms = 6 + 0.25 * batch**0.8 + 4e-5 * context + np.where(text > 0, 3 + 0.004 * text**1.15, 0)
    added_ms = strength * np.where(visual > 0, 2 + 0.006 * visual**1.1 * (1 + 0.002 * batch), 0)
    heat = np.convolve(visual > 0, np.exp(-np.arange(400) / 150), "full")[:steps]
    speed = np.exp(0.06 * _slowly(rng, steps, 400) + 0.01 * heat) * np.exp(rng.normal(0, 0.03, steps))
    took = (1e6 * speed * (plain_ms + added_ms)).astype(np.int64)
    end = np.cumsum(took)
    begin = end - took
    added = 1e6 * speed * added_ms
    first, last = _served(rng, steps, requests, text)
    arrival = begin[first] - rng.integers(0, 2, requests) * (
        rng.random(requests) * 0.9 * took[first - 1]
    ).astype(np.int64)
    until = np.concatenate([[0.0], np.cumsum(added)])
    # The encoder comes first in a step, what else is added is spread over the rest.
    encoder, left = 0.3 * added[first - 1], (begin[first] - arrival).astype(np.float64)
    rest = took[first - 1] - encoder
    waited = until[first + 1] - until[first]
    waited += (added[first - 1] - encoder) * np.minimum(1, left / rest) + np.maximum(0, left - rest)
    tokens = last - first
    decoded = (until[last + 1] - until[first + 1]) / tokens
    tables = {
        "step_id": np.arange(steps), "resource_id": np.zeros(steps, np.uint64), "start_ns": BASE_NS + begin,
        "end_ns": BASE_NS + end, "duration_ns": took, "steps": np.ones(steps, np.int64),
        "prefill_tokens": (visual + text).astype(np.int64), "prefill_visual_tokens": visual.astype(np.int64),
        "decode_requests": batch.astype(np.int64), "decode_tokens": batch.astype(np.int64),
        "decode_context_tokens": context.astype(np.int64), "encode_patches": (4 * visual).astype(np.int64),
        "encode_ns": (0.3 * added).astype(np.int64),
    }  # fmt: skip
    first_token = BASE_NS + end[first]
    asked = {
        "request_number": np.arange(requests),
        "arrival_ns": BASE_NS + arrival, "ttft_ns": first_token - BASE_NS - arrival, "end_ns": BASE_NS + end[last],
        "tpot_ns": (end[last] - end[first]) / tokens, "output_tokens": tokens + 1,
        "input_tokens": text[first].astype(np.int64), "queue_ns": begin[first] - arrival, "prefill_ns": took[first],
    }  # fmt: skip
    segments = {
        "request_number": np.concatenate([asked["request_number"]] * 2),
        "phase": np.array(["queue"] * requests + ["prefill"] * requests, dtype=object),
        "start_ns": np.concatenate([asked["arrival_ns"], BASE_NS + begin[first]]),
        "end_ns": np.concatenate([BASE_NS + begin[first], first_token]),
    }
    return Run(tables, asked, segments, float(waited.mean() / 1e6), float(decoded.mean() / 1e6))


def _slowly(rng: np.random.Generator, length: int, memory: int) -> Floats:
    """Return noise of about unit size that keeps its value for so many steps."""
    kernel = np.exp(-np.arange(5 * memory) / memory)
    drawn = np.convolve(rng.normal(0, 1, length + 5 * memory), kernel / np.sqrt((kernel**2).sum()), "valid")
    return np.asarray(drawn[:length], np.float64)


def _served(rng: np.random.Generator, steps: int, requests: int, text: Floats) -> tuple[Any, Any]:
    """Return the steps in which requests are prefilled and end: where there are text tokens, then for a while."""
    tokens = rng.integers(5, 200, requests)
    places = np.flatnonzero(text[1 : steps - 200]) + 1
    first = np.sort(rng.choice(places, requests))
    return first, first + tokens


@contextmanager
def tables_of(run: Run) -> Iterator[duckdb.DuckDBPyConnection]:
    """Run the stages from `engine_work` to `interference` over a run."""
    with duckdb.connect() as connection:
        pipeline.create_parameters(connection, pipeline.Settings())
        step_cost.create_table(connection)
        connection.execute(
            "CREATE TABLE resources AS SELECT 0::UBIGINT AS resource_id, NULL::VARCHAR AS engine_config;"
            "CREATE TABLE kv_sizes AS SELECT 0::UBIGINT AS resource_id, 'p' AS instance, NULL::BIGINT AS capacity_tokens"
        )
        for name, columns in (
            ("given_steps", run.steps),
            ("given", run.requests),
            ("given_segments", run.segments),
        ):
            connection.register(name, columns)
        connection.execute(
            """
            CREATE TABLE steps AS
            SELECT *, false AS folded, false AS end_missing, NULL::BIGINT AS encode_gpu_time_ns,
                   NULL::BIGINT AS kv_used_tokens, 0.0 AS waiting, NULL::DOUBLE AS running, 0 AS preemptions
            FROM given_steps;
            CREATE TABLE request_base AS
            SELECT * EXCLUDE (queue_ns, prefill_ns), 0::UBIGINT AS resource_id, 1.0::DOUBLE AS weight, 1 AS sequences,
                   0 AS visual_tokens, 0 AS audio_tokens, 0 AS cached_tokens FROM given;
            CREATE TABLE request_budget AS
            SELECT request_number, ttft_ns, 0::BIGINT AS preprocess_ns, queue_ns, prefill_ns FROM given;
            CREATE TABLE ttft_segments AS SELECT *, false AS own_work FROM given_segments WHERE end_ns > start_ns;
            CREATE TABLE phases AS
            SELECT request_number, 'prefill' AS phase, input_tokens AS tokens, 0 AS visual_tokens FROM given;
            """
        )
        for stage in STAGES:
            pipeline.run_sql_stage(connection, stage)
        interference_stage.fill_table(connection)
        yield connection
