"""A value that nothing real has is taken as unknown, counted and named; its neighbours stay."""

from pathlib import Path
from typing import Any

import pytest
from otlp_builder import BASE_NS, document, metric_document, request, span, write
from store_fixture import fetch, loaded

from vtprof_analyzer.ingest import columns, dialects
from vtprof_analyzer.ingest.ranges import range_of
from vtprof_schemas import names

INT64_MAX = 2**63 - 1
SPAN_OF = {
    "request": names.SPAN_REQUEST,
    "step": names.SPAN_STEP,
    "phase": names.SPAN_STEP,
    "gpu": names.SPAN_STEP,
}
SPAN_OF |= names.PHASE_SPANS
NUMBERS = [a for a in columns.SPAN_ATTRIBUTES if a.type != names.STRING]
RESOURCE_NUMBERS = [a for a in columns.RESOURCE_ATTRIBUTES if a.type != names.STRING]


def judged(db: Any) -> tuple[int, list[str]]:
    """Return how many values were taken as unknown, and the notes."""
    ((total,),) = fetch(db, "SELECT sum(values_out_of_range)::BIGINT FROM ingest_files")
    return total, [what for (what,) in fetch(db, "SELECT what FROM ingest_notes ORDER BY what")]


@pytest.mark.parametrize("sign", [1, -1])
def test_every_number_of_a_span_has_a_range(tmp_path: Path, sign: int) -> None:
    spans = []
    for number, attribute in enumerate(NUMBERS, start=1):
        huge = {names.INT: sign * INT64_MAX, names.DOUBLE: sign * 1e300}[attribute.type]
        # The ends of an interval are read only beside the value itself.
        counter = attribute.key.removesuffix(".low").removesuffix(".high")
        attrs = {counter: 0.5, attribute.key: huge}
        spans.append(span(SPAN_OF[attribute.where], 0, 9, attrs, span_id=number))
    with loaded(write(tmp_path / "t.jsonl", document(*spans))) as db:
        for number, attribute in enumerate(NUMBERS, start=1):
            rows = fetch(db, f"SELECT {attribute.column}, end_ns FROM spans WHERE span_id = '{number:016x}'")
            assert rows == [(None, BASE_NS + 9)], attribute.key
        total, notes = judged(db)
        assert total == len(NUMBERS)
        assert all(any(attribute.key in note for note in notes) for attribute in NUMBERS)


@pytest.mark.parametrize("huge", [INT64_MAX, -INT64_MAX - 1])
def test_numbers_of_one_span_that_overflow_together_are_all_unknown(tmp_path: Path, huge: int) -> None:
    keys = [a.key for a in NUMBERS if a.where == "request" and a.type == names.INT]
    parts = {names.TOKENS_IMAGE, names.TOKENS_VIDEO, names.TOKENS_AUDIO, names.INPUT_TOKENS}
    assert parts <= set(keys)
    made = span(names.SPAN_REQUEST, 0, 9, dict.fromkeys(keys, huge))
    with loaded(write(tmp_path / "t.jsonl", document(made, *request(0, 9, trace=2)))) as db:
        columns_ = ", ".join(names.column_name(key) for key in keys)
        (first, _) = fetch(db, f"SELECT {columns_} FROM spans ORDER BY trace_id")
        assert first == (None,) * len(keys)
        assert judged(db)[0] == len(keys)


@pytest.mark.parametrize("sign", [1, -1])
def test_every_number_of_a_resource_has_a_range(tmp_path: Path, sign: int) -> None:
    huge = {names.INT: sign * INT64_MAX, names.DOUBLE: sign * 1e300}
    resource = {a.key: huge[a.type] for a in RESOURCE_NUMBERS}
    path = write(tmp_path / "t.jsonl", document(*request(0, 9), resource=resource))
    with loaded(path) as db:
        for attribute in RESOURCE_NUMBERS:
            assert fetch(db, f"SELECT {attribute.column} FROM resources") == [(None,)], attribute.key
        assert judged(db)[0] == len(RESOURCE_NUMBERS)
        assert fetch(db, "SELECT DISTINCT file FROM ingest_notes") == [(str(path),)]


@pytest.mark.parametrize("seconds", [1e10, 1e300, -0.5, float("inf")])
def test_latencies_of_vllm_have_a_range(tmp_path: Path, seconds: float) -> None:
    keys = {k.key: seconds for k in dialects.VLLM_KEYS if k.type == names.DOUBLE}
    made = span(dialects.VLLM_REQUEST_SPAN, 0, 9, keys)
    for attribute in made["attributes"]:
        if seconds == float("inf"):
            attribute["value"] = {"doubleValue": "Infinity"}
    with loaded(write(tmp_path / "t.jsonl", document(made))) as db:
        columns_of = ", ".join(k.column for k in dialects.VLLM_KEYS if k.type == names.DOUBLE)
        assert fetch(db, f"SELECT {columns_of} FROM spans") == [(None,) * 5]
        assert judged(db)[0] == 5


def test_values_within_their_range_stay(tmp_path: Path) -> None:
    # Ratios above one occur: some counters count several units.
    attrs = {names.INPUT_TOKENS: 2**31, names.KV_BYTES: 2**50, names.TTFT_NS: 0, names.SAMPLING_RATIO: 0.01}
    step = {names.GPU_SM_ACTIVE_RATIO: 1.3, names.STEP_WAITING: 5e6}
    path = write(
        tmp_path / "t.jsonl", document(*request(0, 9, attrs), span(names.SPAN_STEP, 0, 9, step, span_id=9))
    )
    with loaded(path) as db:
        assert fetch(
            db, "SELECT input_tokens, kv_bytes, ttft_ns, sampling_ratio FROM spans WHERE kv_bytes > 0"
        ) == [(2**31, 2**50, 0, 0.01)]
        assert fetch(db, "SELECT gpu_sm_active_ratio, step_waiting FROM spans WHERE span_id LIKE '%9'") == [
            (1.3, 5e6)
        ]
        assert judged(db) == (0, [])


@pytest.mark.parametrize("start", [5, 10**14, INT64_MAX])
def test_a_span_at_no_time_is_left_out_and_an_end_at_none_is_unknown(tmp_path: Path, start: int) -> None:
    nowhere = span(names.SPAN_REQUEST, 0, 9, trace=2)
    nowhere["startTimeUnixNano"] = str(start)
    endless = span(names.SPAN_REQUEST, 0, 9, trace=3)
    endless["endTimeUnixNano"] = str(INT64_MAX)
    # Half a year: no request lasts that long.
    long = span(names.SPAN_REQUEST, 0, 2**54, trace=4)
    with loaded(write(tmp_path / "t.jsonl", document(nowhere, endless, long, *request(0, 9)))) as db:
        found = fetch(db, "SELECT trace_id, end_ns - start_ns FROM spans ORDER BY trace_id")
        assert found == [(f"{1:032x}", 9), (f"{3:032x}", None), (f"{4:032x}", None)]
        assert fetch(db, "SELECT dropped_spans, values_out_of_range FROM ingest_files") == [(1, 2)]


@pytest.mark.parametrize(("key", "reading"), [(names.AGENT_RECORDS_LOST, -5.0), (names.AGENT_RECORDS_LOST, 1e300),
                                              (names.GPU_POWER_MW, -1.0)])  # fmt: skip
def test_a_metric_out_of_range_is_left_out(tmp_path: Path, key: str, reading: float) -> None:
    late = metric_document(key, [(1, 1.0)])
    late["resourceMetrics"][0]["scopeMetrics"][0]["metrics"][0]["gauge"]["dataPoints"][0]["timeUnixNano"] = (
        "1"
    )
    points = metric_document(key, [(1, reading), (2, 3.0)])
    path = write(tmp_path / "t.jsonl", document(*request(0, 9)), points, late)
    with loaded(path) as db:
        assert fetch(db, "SELECT ts_ns, value FROM metric_samples") == [(BASE_NS + 2, 3.0)]
        assert judged(db)[0] == 2


def test_more_visual_than_prompt_tokens_make_the_modalities_unknown_and_nothing_else(tmp_path: Path) -> None:
    attrs = {names.INPUT_TOKENS: 100, names.TOKENS_TEXT: 10, names.TOKENS_IMAGE: 80, names.TOKENS_VIDEO: 30,
             names.KV_BYTES: 10, names.KV_VISUAL_BYTES: 10}  # fmt: skip
    fitting = attrs | {names.TOKENS_VIDEO: 20}
    path = write(tmp_path / "t.jsonl", document(*request(0, 9, attrs), *request(0, 9, fitting, trace=2)))
    with loaded(path) as db:
        query = "SELECT input_tokens, tokens_text, tokens_image, tokens_video, kv_visual_bytes FROM spans ORDER BY trace_id"
        assert fetch(db, query) == [(100, None, None, None, 10), (100, 10, 80, 20, 10)]
        total, notes = judged(db)
        assert total == 1
        assert names.INPUT_TOKENS in notes[0]


def test_ranges_follow_from_units() -> None:
    assert range_of(names.PARALLEL_TP, "ranks").low == 1
    assert range_of(names.GPU_SM_ACTIVE_RATIO, "1").high >= 2
    assert range_of("anything", "items") == (0, 2**40)


def test_a_trace_that_counts_from_zero_is_taken_as_it_is(tmp_path: Path) -> None:
    made = request(0, 9)
    made[0] |= {"startTimeUnixNano": "1000", "endTimeUnixNano": "2000"}
    with loaded(write(tmp_path / "t.jsonl", document(*made))) as db:
        assert fetch(db, "SELECT start_ns, end_ns FROM spans") == [(1000, 2000)]
        assert judged(db) == (0, [])
