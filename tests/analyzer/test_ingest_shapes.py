"""A span's values are taken by place: right for every order, type and repetition of keys, planned before or not."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from otlp_builder import BASE_NS, write
from store_fixture import fetch, loaded

from vtprof_analyzer.ingest import pieces, planning
from vtprof_analyzer.ingest.columns import SPAN_ATTRIBUTES
from vtprof_analyzer.ingest.shapes import DOUBLE, INT, OTHER, STRING, plan
from vtprof_schemas import names

REQUEST_INTS = [
    a
    for a in SPAN_ATTRIBUTES
    # Not those that are a part of another, which is checked too.
    if a.where == "request" and a.type == names.INT and "kv." not in a.key and "tokens." not in a.key
][:6]


@given(st.lists(st.sampled_from([a.key for a in REQUEST_INTS] + ["my.key", names.ENCODE_ITEMS]), max_size=12))
def test_the_first_of_each_key_has_its_place_and_all_others_are_the_rest(keys: list[str]) -> None:
    made = plan(names.SPAN_REQUEST, keys, [INT] * len(keys))
    first = {a.column: keys.index(a.key) + 1 for a in REQUEST_INTS if a.key in keys}
    assert made.places == first
    assert made.rest == [n for n in range(1, len(keys) + 1) if n not in first.values()]
    assert made.unknown == [key for key in keys if key == "my.key"]
    assert not made.mistyped


def test_a_double_may_be_written_as_an_integer_and_nothing_else_as_another_type() -> None:
    expected = {
        names.STEP_RUNNING: {INT, DOUBLE},
        names.STEP_INDEX: {INT},
        names.GPU_TIME_QUALITY: {STRING},
    }
    for key, good in expected.items():
        for slot in (OTHER, INT, DOUBLE, STRING):
            assert plan(names.SPAN_STEP, [key], [slot]).mistyped == (slot not in good), (key, slot)


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.permutations(range(6)).flatmap(lambda p: st.integers(0, 6).map(lambda n: p[:n])),
        min_size=1,
        max_size=60,
    )
)
def test_values_arrive_in_their_columns_in_any_order(orders: list[list[int]]) -> None:
    spans: list[dict[str, Any]] = []
    for number, order in enumerate(orders, start=1):
        attributes = [
            {"key": REQUEST_INTS[place].key, "value": {"intValue": str(10 * number + place)}}
            for place in order
        ]
        spans.append(
            {
                "traceId": f"{number:032x}", "spanId": f"{number:016x}", "name": names.SPAN_REQUEST,
                "startTimeUnixNano": str(BASE_NS), "attributes": attributes,
            }
        )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        # But the first line is looked at before the load: all other shapes are met in it.
        patch.setattr(pieces, "SPOTS", 1)
        patch.setattr(pieces, "SPOT_BYTES", 1)
        path = write(
            Path(folder) / "t.jsonl",
            *[json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [made]}]}]}) for made in spans],
        )
        picked = ", ".join(a.column for a in REQUEST_INTS)
        with loaded(path) as db:
            rows = fetch(db, f"SELECT {picked} FROM spans ORDER BY trace_id")
    for number, (order, row) in enumerate(zip(orders, rows, strict=True), start=1):
        assert row == tuple(10 * number + place if place in order else None for place in range(6))


def test_spans_with_keys_of_their_own_are_read_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "SHAPES_AT_ONCE", 1000)
    monkeypatch.setattr(planning, "MAX_SHAPES", 10)
    monkeypatch.setattr(pieces, "SPOTS", 1)
    monkeypatch.setattr(pieces, "SPOT_BYTES", 1)
    spans = [
        {
            "traceId": f"{number:032x}", "spanId": f"{number:016x}", "name": names.SPAN_REQUEST,
            "startTimeUnixNano": str(BASE_NS),
            "attributes": [
                {"key": f"user.{number}", "value": {"intValue": "1"}},
                {"key": names.OUTPUT_TOKENS, "value": {"intValue": str(number)}},
            ],
        }
        for number in range(1, 3001)
    ]  # fmt: skip
    lines = [{"resourceSpans": [{"scopeSpans": [{"spans": part}]}]} for part in (spans[:1], spans[1:])]
    with loaded(write(tmp_path / "t.jsonl", *lines)) as db:
        assert fetch(db, "SELECT count(DISTINCT extra), sum(output_tokens)::INT FROM spans") == [
            (3000, sum(range(3001)))
        ]
