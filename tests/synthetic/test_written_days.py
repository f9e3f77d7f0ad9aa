"""Files of a synthetic day hold the same spans in every format, and copies are days of their own."""

import gzip
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import polars as pl
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from synthetic.day import Day, make_day
from synthetic.scenarios import SKEWED
from synthetic.write import Format
from vtprof_schemas import names

Row = dict[str, Any]


@pytest.fixture(scope="module")
def day() -> Day:
    return make_day(replace(SKEWED, seconds=3.0), 4, interference=False)


def of_json(lines: list[str]) -> Iterator[Row]:
    """Yield the spans of JSON lines as one flat dictionary each."""
    for line in lines:
        for whole in json.loads(line).get("resourceSpans", ()):
            about = {one["key"]: _value(one["value"]) for one in whole["resource"]["attributes"]}
            for span in whole["scopeSpans"][0]["spans"]:
                yield {
                    "about": about,
                    "ids": (span["traceId"], span["spanId"], span.get("parentSpanId", "")),
                    "name": span["name"],
                    "kind": span["kind"],
                    "flags": span["flags"],
                    "failed": span["status"].get("code", 0) == 2,
                    "times": (int(span["startTimeUnixNano"]), int(span["endTimeUnixNano"])),
                    "links": [(link["traceId"], link["spanId"]) for link in span.get("links", ())],
                    "told": {one["key"]: _value(one["value"]) for one in span["attributes"]},
                }


def _value(value: dict[str, Any]) -> Any:
    return (
        int(value["intValue"]) if "intValue" in value else value.get("doubleValue", value.get("stringValue"))
    )


def of_protobuf(data: bytes, *, varint: bool) -> Iterator[Row]:
    """Yield the spans of framed messages, read by OpenTelemetry's own classes."""
    at = 0
    while at < len(data):
        if varint:
            length, shift = 0, 0
            while True:
                byte = data[at]
                at, length, shift = at + 1, length | (byte & 127) << shift, shift + 7
                if byte < 128:
                    break
        else:
            length, at = int.from_bytes(data[at : at + 4], "big"), at + 4
        message = TracesData.FromString(data[at : at + length])
        at += length
        for whole in message.resource_spans:
            about = {
                one.key: getattr(one.value, str(one.value.WhichOneof("value")))
                for one in whole.resource.attributes
            }
            for span in whole.scope_spans[0].spans:
                yield {
                    "about": about,
                    "ids": (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()),
                    "name": span.name,
                    "kind": span.kind,
                    "flags": span.flags,
                    "failed": span.status.code == 2,
                    "times": (span.start_time_unix_nano, span.end_time_unix_nano),
                    "links": [(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
                    "told": {
                        one.key: getattr(one.value, str(one.value.WhichOneof("value")))
                        for one in span.attributes
                    },
                }


def json_rows(folder: Path) -> list[Row]:
    return [
        row
        for path in sorted(folder.glob("traces-*.jsonl"))
        for row in of_json(path.read_text("utf-8").splitlines())
    ]


def test_json_lines_hold_every_span_as_it_is(day: Day, tmp_path: Path) -> None:
    day.write(tmp_path, spans_per_line=50)
    found = {row["ids"][1]: row for row in json_rows(tmp_path)}
    assert len(found) == len(day.spans)
    for span in day.spans:
        row = found[f"{span.ids.span:016x}"]
        assert row["about"] == day.resources[span.resource]
        assert row["ids"][0] == f"{span.ids.high:016x}{span.ids.low:016x}"
        assert row["ids"][2] == ("" if span.parent is None else f"{span.parent:016x}")
        assert (row["name"], row["times"], row["told"]) == (
            span.name,
            (span.start_ns, span.end_ns),
            span.attributes,
        )
        assert len(row["links"]) == len(span.links)
    lines = [
        line for path in tmp_path.glob("traces-*.jsonl") for line in path.read_text("utf-8").splitlines()
    ]
    assert max(len(json.loads(line)["resourceSpans"][0]["scopeSpans"][0]["spans"]) for line in lines) == 50


@pytest.mark.parametrize("format", ["gz", "pb", "varint"])
def test_packed_and_binary_files_hold_what_json_lines_do(day: Day, tmp_path: Path, format: Format) -> None:
    day.write(tmp_path / "json")
    paths = [path for path in day.write(tmp_path / format, format) if path.name.startswith("traces")]
    if format == "gz":
        rows = [
            row for path in paths for row in of_json(gzip.decompress(path.read_bytes()).decode().splitlines())
        ]
    else:
        rows = [row for path in paths for row in of_protobuf(path.read_bytes(), varint=format == "varint")]
    assert rows == json_rows(tmp_path / "json")


def test_a_parquet_table_has_the_analyzers_columns(day: Day, tmp_path: Path) -> None:
    day.write(tmp_path / "json")
    day.write(tmp_path / "flat", "parquet")
    for path in sorted((tmp_path / "flat").glob("traces-*.parquet")):
        table = pl.read_parquet(path)
        rows = [
            row for row in json_rows(tmp_path / "json") if row["about"] == day.resources[int(path.stem[-1])]
        ]
        assert len(table) == len(rows)
        for flat, row in zip(table.iter_rows(named=True), rows, strict=True):
            assert (flat["trace_id"], flat["span_id"], flat["parent_span_id"] or "") == row["ids"]
            assert (flat["start_ns"], flat["end_ns"]) == row["times"]
            told = {names.column_name(key): value for key, value in (row["about"] | row["told"]).items()}
            known = {column: value for column, value in told.items() if column in flat}
            assert known == {column: flat[column] for column in known}
            assert {column for column, value in flat.items() if value is not None} <= set(known) | {
                "trace_id", "span_id", "parent_span_id", "name", "kind", "status_code", "start_ns", "end_ns", "links",
            }  # fmt: skip


def test_copies_are_days_of_other_processes_that_follow_each_other(day: Day, tmp_path: Path) -> None:
    day.write(tmp_path, copies=3)
    rows = json_rows(tmp_path)
    assert len(rows) == 3 * len(day.spans) == len({row["ids"][:2] for row in rows})
    ours = [row for row in rows if names.SERVICE_INSTANCE_ID in row["about"]]
    by_instance: dict[str, list[Row]] = {}
    for row in ours:
        by_instance.setdefault(row["about"][names.SERVICE_INSTANCE_ID], []).append(row)
    assert len(by_instance) == 3 * len(day.scenario.engines)
    roots = [row for row in ours if row["name"] == names.SPAN_REQUEST]
    assert len({row["told"][names.REQUEST_ID] for row in roots}) == len(roots)
    alphas = sorted(key for key in by_instance if key.startswith("alpha"))
    ends = [max(row["times"][1] for row in by_instance[key]) for key in alphas]
    begins = [min(row["times"][0] for row in by_instance[key]) for key in alphas]
    assert all(end < begin for end, begin in zip(ends[:-1], begins[1:], strict=True))
    known = {row["ids"][:2] for row in roots}
    assert all(link in known for row in ours for link in row["links"])


def test_metrics_are_means_whose_integral_is_told_too(day: Day, tmp_path: Path) -> None:
    paths = [path for path in day.write(tmp_path) if path.name.startswith("metrics")]
    assert len(paths) == len(day.scenario.engines)
    for path in paths:
        found = {
            metric["name"]: next(metric[kind]["dataPoints"] for kind in ("gauge", "sum") if kind in metric)
            for line in path.read_text("utf-8").splitlines()
            for metric in json.loads(line)["resourceMetrics"][0]["scopeMetrics"][0]["metrics"]
        }
        for ratio, integral in names.GPU_INTEGRALS.items():
            means = [cast(float, point["asDouble"]) for point in found[ratio]]
            assert all(0 <= mean <= 1.05 for mean in means)
            whole_ns = int(found[integral][-1]["asInt"])
            assert sum(means) * 100_000_000 == pytest.approx(whole_ns, rel=1e-6)
