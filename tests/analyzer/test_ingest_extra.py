"""What has no column is kept: attributes in `extra` as JSON, span kind and status; the cut of long values is counted."""

import json
from pathlib import Path
from typing import Any

import pytest
from otlp_builder import document, span, write
from store_fixture import fetch, loaded

from vtprof_analyzer.ingest import pieces
from vtprof_schemas import names

ODD_VALUES: list[tuple[dict[str, Any], Any]] = [
    ({"stringValue": 'a "quoted"\n\u0000 é'}, 'a "quoted"\n\u0000 é'),
    ({"intValue": "9007199254740993"}, 9007199254740993),
    ({"doubleValue": 0.25}, 0.25),
    ({"boolValue": False}, False),
    ({"arrayValue": {"values": [{"intValue": "7"}]}}, {"values": [{"intValue": "7"}]}),
    ({"kvlistValue": {"values": []}}, {"values": []}),
    ({"bytesValue": "AAE="}, "AAE="),
    ({}, None),
]


def with_attributes(name: str, *attributes: tuple[str, dict[str, Any]], **fields: Any) -> dict[str, Any]:
    made = span(name, 0, 9, {names.OUTPUT_TOKENS: 3} if name == names.SPAN_REQUEST else {}) | fields
    made["attributes"] += [{"key": key, "value": value} for key, value in attributes]
    return made


@pytest.mark.parametrize("name", [names.SPAN_REQUEST, "GET /"])
@pytest.mark.parametrize(("given", "kept"), ODD_VALUES)
def test_an_attribute_without_a_column_is_kept(
    tmp_path: Path, name: str, given: dict[str, Any], kept: Any
) -> None:
    made = with_attributes(name, ("my.key", given))
    with loaded(write(tmp_path / "t.jsonl", document(made))) as db:
        ((extra,),) = fetch(db, "SELECT extra FROM spans")
    assert json.loads(extra) == {"my.key": kept}


@pytest.mark.parametrize(("given", "kept"), ODD_VALUES)
def test_the_careful_reader_keeps_it_too(tmp_path: Path, given: dict[str, Any], kept: Any) -> None:
    # A token count as text is what only the careful reader takes.
    made = with_attributes(names.SPAN_REQUEST, ("my.key", given), (names.INPUT_TOKENS, {"stringValue": "7"}))
    with loaded(write(tmp_path / "t.jsonl", document(made))) as db:
        ((extra, tokens),) = fetch(db, "SELECT extra, input_tokens FROM spans")
    assert (json.loads(extra), tokens) == ({"my.key": kept}, 7)


def test_a_span_whose_attributes_all_have_columns_has_no_extra(tmp_path: Path) -> None:
    with loaded(write(tmp_path / "t.jsonl", document(with_attributes(names.SPAN_REQUEST)))) as db:
        assert fetch(db, "SELECT extra, output_tokens FROM spans") == [(None, 3)]


def test_a_key_of_another_kind_of_span_and_a_repeated_one_are_kept(tmp_path: Path) -> None:
    made = with_attributes(
        names.SPAN_REQUEST, (names.ENCODE_ITEMS, {"intValue": "2"}), (names.OUTPUT_TOKENS, {"intValue": "5"})
    )
    with loaded(write(tmp_path / "t.jsonl", document(made))) as db:
        ((extra, first, other, unknown),) = fetch(
            db, "SELECT extra, output_tokens, encode_items, unknown_keys FROM spans"
        )
    assert (json.loads(extra), first, other) == ({names.ENCODE_ITEMS: 2, names.OUTPUT_TOKENS: 5}, 3, None)
    assert unknown is None


def test_a_long_value_is_cut_and_counted(tmp_path: Path) -> None:
    made = with_attributes(
        names.SPAN_REQUEST,
        ("long", {"stringValue": "x" * 20_000}),
        ("list", {"arrayValue": {"values": [{"stringValue": "y" * 20_000}]}}),
        ("short", {"stringValue": "z" * 16_384}),
    )
    with loaded(write(tmp_path / "t.jsonl", document(made))) as db:
        ((extra,),) = fetch(db, "SELECT extra FROM spans")
        assert fetch(db, "SELECT cut_values FROM ingest_counts") == [(2,)]
    kept = json.loads(extra)
    assert kept["long"] == "x" * 16_384
    assert kept["list"] == ('{"values":[{"stringValue":"' + "y" * 20_000)[:16_384]
    assert kept["short"] == "z" * 16_384


def test_attributes_of_a_resource_without_a_column_are_kept(tmp_path: Path) -> None:
    resource = {names.SERVICE_INSTANCE_ID: "i", "k8s.pod.name": "p", "k8s.restarts": 2}
    with loaded(write(tmp_path / "t.jsonl", document(span("x", 0, 1), resource=resource))) as db:
        ((extra, instance),) = fetch(db, "SELECT extra, service_instance_id FROM resources")
    assert (json.loads(extra), instance) == ({"k8s.pod.name": "p", "k8s.restarts": 2}, "i")


@pytest.mark.parametrize(
    ("kind", "code", "expected"),
    [
        (2, 2, (2, 2)),
        ("SPAN_KIND_CONSUMER", "STATUS_CODE_ERROR", (5, 2)),
        ("SPAN_KIND_UNSPECIFIED", "STATUS_CODE_UNSET", (0, 0)),
        ("nonsense", 999, (None, None)),
        (None, None, (None, None)),
    ],
)
@pytest.mark.parametrize("careful", [False, True])
def test_kind_and_status_are_read_as_numbers_or_names(
    tmp_path: Path, kind: Any, code: Any, expected: tuple[int | None, int | None], careful: bool
) -> None:
    odd = [(names.INPUT_TOKENS, {"stringValue": "7"})] if careful else []
    made = with_attributes(names.SPAN_REQUEST, *odd, kind=kind, status={"code": code})
    with loaded(write(tmp_path / "t.jsonl", document(made))) as db:
        assert fetch(db, "SELECT kind, status_code FROM spans") == [expected]


def test_attributes_that_were_not_seen_when_looking_ahead_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "SPOTS", 1)
    monkeypatch.setattr(pieces, "SPOT_BYTES", 1)
    late = [
        with_attributes("GET /", ("flag", {"boolValue": True})),
        with_attributes(names.SPAN_REQUEST, ("my.key", {"arrayValue": {"values": []}}), spanId=f"{2:016x}"),
    ]
    plain = with_attributes(names.SPAN_REQUEST)
    with loaded(write(tmp_path / "t.jsonl", document(plain), document(plain), document(*late))) as db:
        assert fetch(db, "SELECT extra FROM spans ORDER BY extra") == [
            ('{"flag":true}',), ('{"my.key":{"values":[]}}',), (None,),
        ]  # fmt: skip
        assert fetch(db, "SELECT sum(output_tokens)::INT FROM spans") == [(6,)]
