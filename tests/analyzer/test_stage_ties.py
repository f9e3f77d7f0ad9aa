"""Rows of one time give the same results in whatever order they lie: with other threads they lie otherwise."""

from collections.abc import Iterator
from importlib import resources

import duckdb
import pytest
from otlp_builder import attributes, document, metric_document, request, span, write
from store_fixture import fetch, loaded

from vtprof_analyzer import pipeline, step_cost
from vtprof_schemas import names

MS = 1_000_000
RESOURCES = [
    {
        names.SERVICE_INSTANCE_ID: "p",
        names.RING_CREATED_NS: created,
        names.ENGINE_NAME: "vllm",
        names.ENGINE_CONFIG: f'{{"max_num_seqs": {created}}}',
        names.HW_ID: "GPU-1",
    }
    for created in (1, 2)
]
"""Two rings of one process, each with metrics of its own."""


def window(end: int, decodes: int, span_id: int) -> dict[str, object]:
    attrs = {
        names.STEP_COUNT: 1,
        names.STEP_DECODE_REQUESTS: decodes,
        names.STEP_DECODE_CONTEXT_TOKENS: 9 * decodes,
    }
    return span(names.SPAN_WINDOW, 0, end, attrs, trace=9, span_id=span_id)


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    """Steps that begin and end at once, spans that share ids and begin, readings of one moment that differ."""
    attrs = {names.TTFT_NS: 0, names.INPUT_TOKENS: 10, names.OUTPUT_TOKENS: 11}
    counted = request(0, 100 * MS, attrs, prefill=(0, 50 * MS), decode=(50 * MS, 100 * MS))
    for phase in counted[1:]:
        # Of each phase the counter is known for the first half.
        phase["attributes"] += attributes({names.GPU_TIME_NS: 5})
        half = dict(phase, spanId=f"{int(phase['spanId'], 16) + 20:016x}")
        phase["endTimeUnixNano"] = half["startTimeUnixNano"] = str(int(phase["startTimeUnixNano"]) + 25 * MS)
        phase["attributes"] = [*phase["attributes"], *attributes({names.GPU_DRAM_BANDWIDTH_RATIO: 0.5})]
        counted.append(half)
    steps = [window(100 * MS, 1, 1), window(100 * MS, 2, 2), window(60 * MS, 3, 1), window(60 * MS, 4, 2)]
    metrics = [
        metric_document(
            names.ENGINE_PREEMPTIONS, [(0, 0.25 * number), (40 * MS, 3 - number), (90 * MS, 5.0)], resource
        )
        for number, resource in enumerate(RESOURCES)
    ]
    spans = [
        document(*made, resource=resource) for made, resource in zip((counted, steps), RESOURCES, strict=True)
    ]
    path = write(tmp_path_factory.mktemp("ties") / "t.jsonl", *spans, *metrics)

    with loaded(path) as connection:
        pipeline.run(connection, pipeline.Settings(), {step_cost.STAGE: step_cost.create_table})
        yield connection


@pytest.mark.parametrize(
    ("stage", "table", "read"),
    [
        ("50_steps.sql", "steps", "span_rows"),
        ("61_engine_growth.sql", "engine_growth", "metric_samples"),
        ("68_engine_work.sql", "engine_work", "steps"),
        ("89_process_settings.sql", "process_settings", "resources"),
        ("92_engine.sql", "engine_said", "metric_samples"),
        ("96_trust.sql", "trust", "counter_coverage"),
    ],
)
def test_a_stage_tells_the_same_of_rows_in_reverse(
    tied: duckdb.DuckDBPyConnection, stage: str, table: str, read: str
) -> None:
    before = fetch(tied, f"FROM {table} ORDER BY ALL")
    assert before
    tied.execute("BEGIN")
    try:
        tied.execute(f"CREATE TEMP TABLE turned AS FROM {read} ORDER BY rowid DESC")
        tied.execute(f"DELETE FROM {read}")
        tied.execute(f"INSERT INTO {read} FROM turned")
        tied.execute(f"DROP TABLE {table}")
        tied.execute(resources.files("vtprof_analyzer.stages").joinpath(stage).read_text("utf-8"))
        assert fetch(tied, f"FROM {table} ORDER BY ALL") == before
    finally:
        tied.execute("ROLLBACK")
