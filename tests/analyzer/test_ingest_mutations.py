"""Broken bytes anywhere in a file: the reader never fails, and the spans of untouched lines are all there."""

from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from otlp_builder import document, line, metric_document, request
from store_fixture import fetch, loaded

from vtprof_analyzer.ingest.repair import repair
from vtprof_schemas import names

LINES = [
    line(
        document(*request(0, 9, {names.INPUT_TOKENS: 7, names.REQUEST_MODEL: "m"}, trace=n, prefill=(0, 5)))
    ).encode()
    for n in range(1, 6)
]
LINES.insert(2, line(metric_document(names.GPU_POWER_MW, [(1, 2.0)])).encode())

edits = st.lists(
    st.tuples(st.integers(0, len(LINES) - 1), st.integers(0, 400), st.binary(max_size=4), st.integers(0, 4)),
    max_size=4,
)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=edits, cut=st.integers(0, 600) | st.none())
def test_untouched_lines_survive_any_edit_of_the_others(
    tmp_path: Path, edits: list[tuple[int, int, bytes, int]], cut: int | None
) -> None:
    mutated = list(LINES)
    touched = set()
    for number, at, inserted, removed in edits:
        mutated[number] = mutated[number][:at] + inserted + mutated[number][at + removed :]
        # An edit can eat into nothing but its own line; a line break in it makes two.
        touched.add(number)
    data = b"\n".join(mutated)
    if cut is not None:
        data = data[: len(data) - cut]
        lengths = 0
        for number, text in enumerate(mutated):
            lengths += len(text) + (number < len(mutated) - 1)
            if lengths > len(data):
                touched.add(number)
    path = tmp_path / "t.jsonl"
    path.write_bytes(data)
    with loaded(path) as db:
        found = {
            row[0]
            for row in fetch(
                db, "SELECT trace_id FROM spans WHERE name = 'vtprof.request' AND input_tokens = 7"
            )
        }
    traces = {number: f"{n:032x}" for number, n in zip((0, 1, 3, 4, 5), range(1, 6), strict=True)}
    assert {trace for number, trace in traces.items() if number not in touched} <= found


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda children: st.lists(children, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["resourceSpans", "resource", "scopeSpans", "spans", "attributes", "key", "value", "intValue", "traceId",
             "spanId", "name", "startTimeUnixNano", "links", "resourceMetrics", "scopeMetrics", "metrics", "gauge",
             "dataPoints", "asInt", "timeUnixNano"]
        ),
        children,
        max_size=4,
    ),
    max_leaves=25,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(json_values)
def test_any_json_value_is_repaired_or_refused(value: Any) -> None:
    outcome = repair(value)
    assert outcome is None or outcome.dropped_spans >= 0
