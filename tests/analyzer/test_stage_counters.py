"""Stage `span_counters`: a few samples a hundred nanoseconds apart, means by hand and against whole-number arithmetic."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from itertools import pairwise
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtprof_analyzer import pipeline
from vtprof_schemas import names

DRAM, HOST = names.GPU_DRAM_BANDWIDTH_RATIO, names.HOST_PROCESS_CPU_RATIO
_TABLES = """
CREATE TABLE resources AS SELECT unnest([1, 2]::UBIGINT[]) AS resource_id, unnest(['a', 'b']) AS service_instance_id,
    unnest(['g', 'g, h']) AS hw_id;
CREATE TABLE metric_samples (
    name VARCHAR, resource_id UBIGINT, hw_id VARCHAR, start_ns BIGINT, ts_ns BIGINT, value DOUBLE
);
CREATE VIEW gpu_samples AS FROM metric_samples WHERE starts_with(name, 'vtprof.gpu.');
CREATE TABLE spans (
    resource_id UBIGINT, trace_id VARCHAR, span_id VARCHAR, name VARCHAR, start_ns BIGINT, end_ns BIGINT,
    gpu_dram_bandwidth_ratio DOUBLE, gpu_tensor_active_ratio DOUBLE, gpu_sm_active_ratio DOUBLE
);
"""
Samples = Sequence[tuple[int, float]]


@contextmanager
def counted(
    spans: Sequence[tuple[int, int | None]], samples: Samples = (), **more: Any
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Run the stage over steps of resource 1 (or ``resource``) and samples of GPU g, of h and of the host."""
    with duckdb.connect() as db:
        db.execute(_TABLES)
        for at, (start, end) in enumerate(spans):
            known = [more.get("known"), None, None]
            span = [
                more.get("resource", 1),
                "t",
                str(at),
                more.get("name", names.SPAN_STEP),
                start,
                end,
                *known,
            ]
            db.execute("INSERT INTO spans VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", span)
        told = [
            (DRAM, 9, "g", samples),
            (DRAM, 9, "h", more.get("second", ())),
            (HOST, 1, None, more.get("host", ())),
        ]
        for name, resource, hw_id, points in told:
            for ts, value in points:
                db.execute(
                    "INSERT INTO metric_samples VALUES (?, ?, ?, NULL, ?, ?)",
                    [name, resource, hw_id, ts, value],
                )
        pipeline.run_sql_stage(db, "54_span_counters.sql")
        yield db


def found(
    db: duckdb.DuckDBPyConnection, columns: str = "mean, covered_share, outside_ns"
) -> list[tuple[Any, ...]]:
    return db.execute(f"SELECT {columns} FROM span_counters ORDER BY span_id, counter").fetchall()


def test_a_sample_is_the_mean_since_the_one_before_it() -> None:
    #  samples   0 ---0.2--- 100 ---0.6--- 200 ---1.0--- 300
    #  spans           50 ----------- 150
    #                                          200 ----- 300
    with counted([(50, 150), (200, 300)], [(0, 0.9), (100, 0.2), (200, 0.6), (300, 1.0)]) as db:
        # (50 x 0.2 + 50 x 0.6) / 100; the windows of both samples lie half outside.
        assert found(db) == [(pytest.approx(0.4), 1.0, 100), (pytest.approx(1.0), 1.0, 0)]


def test_spans_that_overlap_each_have_their_own_mean() -> None:
    with counted([(0, 200), (100, 200), (150, 160)], [(0, 0.0), (100, 0.2), (200, 0.6)]) as db:
        assert [row[0] for row in found(db)] == pytest.approx([0.4, 0.6, 0.6])


def test_a_gap_and_what_lies_beyond_the_samples_is_not_covered() -> None:
    steady = [(at, 0.5) for at in range(0, 1000, 100)]
    samples = [*steady, *((at, 0.7) for at in range(90_000, 90_300, 100))]
    # Before the first sample, half; within the gap of 89,100, nothing; over its end, where only 100 of 150 are told.
    with counted([(-50, 50), (5_000, 6_000), (89_950, 90_100), (91_000, 92_000)], samples) as db:
        assert found(db, "span_id, mean, covered_share") == [
            ("0", pytest.approx(0.5), 0.5), ("2", pytest.approx(0.7), pytest.approx(100 / 150)),
        ]  # fmt: skip


def test_of_several_gpus_the_mean_is_that_of_all() -> None:
    with counted([(0, 100)], [(0, 0.0), (100, 0.2)], second=[(0, 0.0), (100, 0.6)], resource=2) as db:
        assert found(db) == [(pytest.approx(0.4), 1.0, 0)]


def test_what_the_agent_told_is_not_told_again_and_a_span_without_end_has_no_mean() -> None:
    samples = [(0, 0.0), (100, 0.2)]
    with counted([(0, 100)], samples, known=0.3) as db:
        assert found(db) == []
    with counted([(0, None), (50, 50), (80, 20)], samples) as db:
        assert found(db) == []


def test_host_cores_are_of_the_spans_own_process_and_only_of_steps() -> None:
    host = [(0, 0.0), (100, 1.5)]
    with counted([(0, 100)], host=host) as db:
        assert found(db, "counter, mean") == [(HOST, pytest.approx(1.5))]
    with counted([(0, 100)], host=host, resource=2) as db:
        assert found(db) == []
    with counted([(0, 100)], [(0, 0.0), (100, 0.5)], host=host, name=names.PHASE_SPANS[names.DECODE]) as db:
        assert found(db, "counter, mean") == [(DRAM, 0.5)]


def test_nothing_sampled_is_an_empty_table() -> None:
    for samples in ((), [(50, 0.5)], [(50, float("nan")), (70, float("inf"))]):
        with counted([(0, 100)], samples) as db:
            assert found(db) == []
    with counted([], [(0, 0.0), (100, 0.5)]) as db:
        assert found(db) == []


def reference(start: int, end: int, samples: Samples) -> tuple[Fraction, Fraction] | None:
    """Return integral over what is covered, and that, in exact arithmetic on values rounded to a billionth."""
    limit = 4 * (samples[-1][0] - samples[0][0]) // (len(samples) - 1)
    total, covered = Fraction(0), 0
    for (begin, _), (until, value) in pairwise(samples):
        overlap = min(end, until) - max(start, begin)
        if until - begin <= limit and overlap > 0:
            total += overlap * Fraction(round(value * 1e9), 10**9)
            covered += overlap
    return (total / covered, Fraction(covered, end - start)) if covered else None


DAY = 86_400 * 10**9


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, DAY // 40), st.floats(0, 1)), min_size=2, max_size=30),
    st.lists(st.tuples(st.integers(0, DAY), st.integers(1, 10**7)), min_size=1, max_size=10),
)
def test_means_are_those_of_whole_number_arithmetic_after_a_day_as_well(
    lengths: list[tuple[int, float]], drawn: list[tuple[int, int]]
) -> None:
    at, samples = 1_795_000_000_000_000_000, []
    for length, value in lengths:
        at += length
        samples.append((at, value))
    reach = samples[-1][0] - samples[0][0]
    spans = [
        (samples[0][0] + offset % reach, samples[0][0] + offset % reach + length) for offset, length in drawn
    ]
    with counted(spans, samples) as db:
        rows = {
            int(span_id): (mean, share) for span_id, mean, share in found(db, "span_id, mean, covered_share")
        }
    expected = {n: told for n, (start, end) in enumerate(spans) if (told := reference(start, end, samples))}
    assert rows.keys() == expected.keys(), json.dumps([samples, spans])
    for number, (mean, share) in expected.items():
        assert rows[number][0] == pytest.approx(float(mean), abs=1e-9)
        assert rows[number][1] == pytest.approx(float(share), abs=1e-12)
