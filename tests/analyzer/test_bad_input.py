"""Bad input from the command line to the report: the good beside it is reported, the rest counted, nothing crashes.

Each case lies in one folder with good requests, whose numbers must come out as if they were alone. What a reader does with
each fault by itself is tested in `test_ingest_*`; the limits that stand for it are made small there.
"""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest
from otlp_builder import attributes, document, line, request, span, value, write
from otlp_messages import length32, message

from vtprof_analyzer.analyze import Options, analyze
from vtprof_analyzer.ingest import lines
from vtprof_schemas import SCHEMA_VERSION, names

MS = 1_000_000
GOOD = {names.INPUT_TOKENS: 70, names.OUTPUT_TOKENS: 30, names.TTFT_NS: 50 * MS}
Json = dict[str, Any]
Run = Callable[..., tuple[int, str, str]]


def good(trace: int, resource: Json | None = None) -> Json:
    """A request of 70 and 30 tokens with its first token after 50 ms."""
    spans = request(0, 100 * MS, GOOD, trace=trace, prefill=(0, 50 * MS), decode=(50 * MS, 100 * MS))
    return document(*spans, resource=resource)


def with_attribute(key: str, given: Json) -> Json:
    """A good request, trace 9, with one more attribute."""
    found = good(9)
    first = found["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
    first["attributes"].append({"key": key, "value": given})
    return found


def reported(run: Run, *words: object) -> Json:
    code, out, err = run("analyze", *words, "--format", "json")
    assert (code, err) == (0, "")
    found: Json = json.loads(out)
    return found


def faults(report: Json) -> dict[str, int]:
    return {row["kind"]: row["count"] for row in report["span_faults"]}


def nested(depth: int) -> str:
    return '{"arrayValue":{"values":[' * depth + '{"stringValue":"end"}' + "]}}" * depth


@pytest.mark.parametrize("depth", [90, 20_000])
def test_an_attribute_nested_however_deep_costs_at_most_its_line(
    run: Run, tmp_path: Path, depth: int
) -> None:
    deep = line(with_attribute("custom.deep", {"stringValue": "HERE"}))
    traces = tmp_path / "traces.jsonl"
    write(traces, good(1), deep.replace('{"stringValue":"HERE"}', nested(depth)), good(2))
    found = reported(run, traces)
    lost = found["integrity"]["malformed_lines"]
    assert (found["summary"]["requests"], found["summary"]["input_tokens"]) == (3 - lost, 70 * (3 - lost))
    # OTLP's own library stops at a hundred levels; up to there everything is read.
    assert lost == 0 or depth > 100


def test_an_enormous_attribute_is_cut_and_everything_beside_it_read(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "t.jsonl", good(1), with_attribute("custom.prompt", {"stringValue": "x" * (8 << 20)}))
    many = good(2)
    first = many["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
    first["attributes"] += attributes({f"custom.{n}": n for n in range(20_000)})
    write(tmp_path / "u.jsonl", many)
    database = tmp_path / "run.duckdb"
    found = reported(run, tmp_path / "t.jsonl", tmp_path / "u.jsonl", "--db", database)
    assert (found["summary"]["requests"], found["summary"]["input_tokens"]) == (3, 210)
    # 8 MiB of text do not come into the tables: 16 KiB of it do, and a note beside.
    with duckdb.connect(str(database), read_only=True) as db:
        query = "SELECT max(length(extra)) FROM spans WHERE extra LIKE '%custom.prompt%'"
        assert 16 << 10 <= db.execute(query).fetchall()[0][0] < 17 << 10
        assert db.execute("SELECT cut_values FROM ingest_counts").fetchall() == [(1,)]


@pytest.mark.parametrize("number", [2**63 - 1, -(2**63), 10**40])
def test_integers_at_and_past_64_bits_everywhere_make_nothing_overflow(
    run: Run, tmp_path: Path, number: int
) -> None:
    extremes: list[Json] = []
    for where, name in (
        ("request", names.SPAN_REQUEST),
        ("step", names.SPAN_STEP),
        ("step", names.SPAN_WINDOW),
    ):
        keys = [a.key for a in names.ATTRIBUTES.values() if a.where == where and a.type == names.INT]
        given = dict.fromkeys(keys, number)
        extremes.append(
            document(
                span(name, 0, 90 * MS, given, trace=50 + len(extremes)),
                resource={names.SERVICE_INSTANCE_ID: "x"},
            )
        )
    for field in ("startTimeUnixNano", "endTimeUnixNano"):
        shifted = span(names.SPAN_REQUEST, 0, 90 * MS, GOOD, trace=60 + len(extremes))
        shifted[field] = str(number)
        extremes.append(document(shifted))
    write(tmp_path / "t.jsonl", *extremes, *[good(n) for n in (1, 2, 3)])
    found = reported(run, tmp_path / "t.jsonl", "--slo-ttft-ms", 60)
    # Three good ones, that of impossible tokens, that without an end; the one without a start is none.
    assert found["summary"]["requests"] == 5
    assert found["summary"]["input_tokens"] == 4 * 70
    assert found["summary"]["ttft_ms"]["p50"] == 50.0


@pytest.mark.parametrize(
    "given",
    [value("seven"), {"arrayValue": {"values": [value(7)]}}, {}, {"bytesValue": "AAEC"}, {"doubleValue": "NaN"}],
)  # fmt: skip
def test_a_value_of_a_wrong_type_is_unknown_wherever_it_stands(run: Run, tmp_path: Path, given: Json) -> None:
    keys = [a.key for a in names.ATTRIBUTES.values() if a.type in (names.INT, names.DOUBLE)]
    odd = [{"key": key, "value": given} for key in keys]
    spans = [
        {**span(name, 0, 90 * MS, trace=70 + n), "attributes": odd}
        for n, name in enumerate((names.SPAN_REQUEST, names.SPAN_STEP, *names.PHASE_SPANS.values()))
    ]
    of_a_process = document(*spans)
    of_a_process["resourceSpans"][0]["resource"]["attributes"] = odd
    write(tmp_path / "t.jsonl", of_a_process, good(1), good(2))
    found = reported(run, tmp_path / "t.jsonl")
    assert (found["summary"]["requests"], found["summary"]["input_tokens"]) == (3, 140)
    assert found["integrity"]["requests_without_tokens"] == 1


def test_spans_that_share_an_id_and_differ_are_all_kept_and_counted(run: Run, tmp_path: Path) -> None:
    later = request(200 * MS, 300 * MS, {**GOOD, names.INPUT_TOKENS: 7}, trace=1)
    write(tmp_path / "t.jsonl", good(1), good(1), document(*later), good(2))
    found = reported(run, tmp_path / "t.jsonl")
    assert found["summary"]["requests"] == 3
    assert found["summary"]["input_tokens"] == 70 + 7 + 70
    # The second copy of the first document: its request, prefill and decode.
    assert found["integrity"]["duplicates"] == 3
    assert faults(found)["conflicting_id"] == 1


def test_rings_of_parents_end_and_are_counted(run: Run, tmp_path: Path) -> None:
    def phase(number: int, parent: int, trace: int) -> Json:
        return span(
            names.PHASE_SPANS["prefill"],
            0,
            9 * MS,
            {names.PHASE: "prefill"},
            trace=trace,
            span_id=number,
            parent=parent,
        )

    own = span(names.SPAN_REQUEST, 0, 90 * MS, GOOD, trace=20, span_id=1, parent=1)
    pair = [phase(1, 2, 21), phase(2, 1, 21)]
    ring = [phase(n, n % 5 + 1, 22) for n in range(1, 6)]
    write(tmp_path / "t.jsonl", document(own, *pair, *ring), good(1))
    found = reported(run, tmp_path / "t.jsonl")
    assert found["summary"]["requests"] == 2
    assert faults(found)["own_parent"] == 1
    assert faults(found)["cycle"] == 2 + 5


def test_a_bomb_is_read_up_to_the_stated_limit_and_good_files_beside_it(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, usage, _ = run("analyze", "--help")
    assert f"{lines.MAX_RATIO} times its size" in " ".join(usage.replace("│", " ").split())
    monkeypatch.setattr(lines, "FREE_BYTES", 4 << 20)
    folder = tmp_path / "traces"
    folder.mkdir()
    write(folder / "good.jsonl", good(1))
    packed = gzip.compress(line(good(2)).encode() + b"\n" + b"\n" * (32 << 20))
    (folder / "bomb.jsonl.gz").write_bytes(packed)
    found = reported(run, folder)
    assert found["summary"]["requests"] == 2
    assert found["integrity"]["damaged_files"] == 1
    assert any("200 times" in note["what"] for note in found["integrity"]["notes"])


@pytest.mark.parametrize(
    "data",
    [b"\x0a\x03abc" * 20, length32(b"\x08\x96\x01" * 9, b"\x12\x07testing" * 4), bytes(range(256)) * 40],
    ids=["strings", "another message", "all bytes"],
)
def test_a_protobuf_that_is_no_trace_is_one_line_and_no_hindrance(
    run: Run, tmp_path: Path, data: bytes
) -> None:
    other = tmp_path / "other.pb"
    other.write_bytes(data)
    code, out, err = run("analyze", other)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "other.pb" in err
    (tmp_path / "good.pb").write_bytes(length32(message(good(1)), message(good(2))))
    found = reported(run, other, tmp_path / "good.pb")
    assert (found["summary"]["requests"], found["integrity"]["damaged_files"]) == (2, 1)


def test_two_versions_of_the_vocabulary_are_told_apart(run: Run, tmp_path: Path) -> None:
    def of(version: int, trace: int) -> Json:
        return good(trace, {names.RESOURCE_SCHEMA_VERSION: version, names.SERVICE_INSTANCE_ID: f"v{version}"})

    write(tmp_path / "t.jsonl", of(SCHEMA_VERSION, 1), of(SCHEMA_VERSION + 1, 2), of(SCHEMA_VERSION, 3))
    found = reported(run, tmp_path / "t.jsonl")
    # What the newer one means nobody can know.
    assert found["summary"]["requests"] == 2
    assert any("version" in note["what"] for note in found["integrity"]["notes"])
    write(tmp_path / "newer.jsonl", of(SCHEMA_VERSION + 1, 4))
    code, out, err = run("analyze", tmp_path / "newer.jsonl")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "upgrade" in err


def test_a_folder_that_grows_while_it_is_read_is_read_as_it_was_listed(tmp_path: Path) -> None:
    folder = tmp_path / "traces"
    folder.mkdir()
    for number in (1, 2, 3):
        write(folder / f"{number}.jsonl", good(number))
    grown: list[int] = []

    def grow(read: int) -> None:
        # Between reading and counting a writer goes on in every file, one of them in mid-line, and begins another.
        grown.append(read)
        for number in (1, 2):
            with (folder / f"{number}.jsonl").open("a") as out:
                out.write(line(good(100 + number)) + "\n")
        with (folder / "3.jsonl").open("a") as out:
            out.write(line(good(103))[:70])
        write(folder / f"new-{len(grown)}.jsonl", good(200))

    before = analyze(Options([folder], cache=False), grow)
    assert grown
    assert (before.summary.requests, before.integrity.files_read) == (3, 3)
    assert (before.integrity.malformed_lines, before.integrity.truncated_lines) == (0, 0)
    after = analyze(Options([folder], cache=False))
    assert (after.summary.requests, after.integrity.truncated_lines) == (6, 1)


def test_a_link_to_a_file_that_is_gone_costs_itself(tmp_path: Path) -> None:
    folder = tmp_path / "traces"
    folder.mkdir()
    write(folder / "1.jsonl", good(1))
    (folder / "2.jsonl").symlink_to(folder / "gone.jsonl")
    found = analyze(Options([folder], cache=False))
    assert (found.summary.requests, found.integrity.files_skipped) == (1, 1)
