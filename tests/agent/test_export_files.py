"""The files as OTLP/JSON has them, and their rotation; streams and disks are the real ones."""

import json
import os
import re
import stat
from pathlib import Path

import pytest
from collectors import batch
from ring_records import SINGLE, assemble, make

from vtprof_agent.align import Alignment
from vtprof_agent.export.destination import Batch
from vtprof_agent.export.files import QUEUED_BATCHES, FileDestination
from vtprof_agent.export.rotating import RotatingLines, Rotation
from vtprof_agent.identifiers import Origin
from vtprof_agent.inbox.ring_header import RingIdentity
from vtprof_agent.metric_points import Point, metrics_data
from vtprof_agent.resource import ring_resource
from vtprof_agent.samplers.sampler import Sample
from vtprof_agent.spans import SpanBuilder
from vtprof_agent.windows import Folding
from vtprof_schemas import names, records
from vtprof_schemas.errors import ConfigError

IDENTITY = RingIdentity(b"b" * 16, 42, 1000, 0, "all", 0, 5)
PARENT = make(records.REQUEST_PARENT, request=1, trace_id=b"\xab" * 16, span_id=b"\xcd" * 8, trace_flags=1)


class FakeClock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _builder() -> SpanBuilder:
    resource = ring_resource(
        {names.ENGINE_NAME: "test", names.RANK: 0}, IDENTITY, {names.DEVICE_PEAK_FLOPS: 1.5e11}
    )
    return SpanBuilder(Origin(b"b" * 16, 42, 1000, 5), resource, Alignment(10**18))


def _written(tmp_path: Path, rows: list[object]) -> dict[str, object]:
    requests, steps, _ = assemble(rows)  # type: ignore[arg-type]
    builder, folding = _builder(), Folding()
    for fact in steps:
        folding.add(fact)
    folding.close()
    spans = [*builder.request(requests["1"]), *(builder.step(step) for step in folding.take())]
    metrics = metrics_data(
        [Point(builder.resource, Sample(names.AGENT_RECORDS_READ, 11, True), 10**18)], 10**17
    )
    destination = FileDestination(tmp_path, "test", Rotation())
    destination.submit(Batch(1, spans, metrics))
    destination.close(1.0)
    assert destination.outbox.settled() == 1
    (path,) = tmp_path.glob("*.traces.jsonl")
    (line,) = path.read_text().splitlines()
    document: dict[str, object] = json.loads(line)
    return document


def _spans(document: dict[str, object]) -> dict[str, dict[str, object]]:
    (resource,) = document["resourceSpans"]  # type: ignore[misc]
    (scope,) = resource["scopeSpans"]
    return {span["name"]: span for span in scope["spans"]}


def _attributes(holder: dict[str, object]) -> dict[str, object]:
    return {entry["key"]: entry["value"] for entry in holder["attributes"]}  # type: ignore[attr-defined]


def test_spans_are_written_as_otlp_json_says(tmp_path: Path) -> None:
    document = _written(tmp_path, list(SINGLE))
    spans = _spans(document)
    assert set(spans) == {
        "vtprof.request", "vtprof.preprocess", "vtprof.queue", "vtprof.encode", "vtprof.prefill", "vtprof.decode",
        "vtprof.step", "vtprof.window",
    }  # fmt: skip
    root = spans["vtprof.request"]
    # OTLP/JSON: ids in hex and not in base64, 64-bit integers as strings, enumerations as numbers.
    assert re.fullmatch("[0-9a-f]{32}", str(root["traceId"]))
    assert re.fullmatch("[0-9a-f]{16}", str(root["spanId"]))
    assert root["startTimeUnixNano"] == str(10**18 + 100)
    assert root["endTimeUnixNano"] == str(10**18 + 225)
    assert root["kind"] == 2
    assert _attributes(root)[names.TTFT_NS] == {"intValue": "101"}
    assert _attributes(root)[names.SAMPLING_RATIO] == {"doubleValue": 1.0}
    for name in ("vtprof.preprocess", "vtprof.decode"):
        assert spans[name]["parentSpanId"] == root["spanId"]
        assert spans[name]["traceId"] == root["traceId"]
    link = spans["vtprof.step"]["links"][0]  # type: ignore[index]
    assert (link["traceId"], link["spanId"]) == (root["traceId"], root["spanId"])
    assert spans["vtprof.step"]["traceId"] != root["traceId"]


def test_the_resource_says_who_and_what_with_types_of_the_vocabulary(tmp_path: Path) -> None:
    document = _written(tmp_path, list(SINGLE))
    resource = document["resourceSpans"][0]["resource"]  # type: ignore[index]
    attributes = _attributes(resource)
    assert attributes[names.SERVICE_INSTANCE_ID] == {"stringValue": IDENTITY.instance_id}
    assert attributes[names.PROCESS_PID] == {"intValue": "42"}
    assert attributes[names.DEVICE_PEAK_FLOPS] == {"doubleValue": 1.5e11}
    assert attributes[names.ROLE] == {"stringValue": "all"}


def test_metric_points_carry_the_resource_of_their_ring(tmp_path: Path) -> None:
    _written(tmp_path, list(SINGLE))
    (path,) = tmp_path.glob("*.metrics.jsonl")
    (resource,) = json.loads(path.read_text())["resourceMetrics"]
    assert _attributes(resource["resource"])[names.SERVICE_INSTANCE_ID] == {
        "stringValue": IDENTITY.instance_id
    }
    (metric,) = resource["scopeMetrics"][0]["metrics"]
    (point,) = metric["sum"]["dataPoints"]
    assert (metric["name"], point["asInt"], metric["sum"]["isMonotonic"]) == (
        names.AGENT_RECORDS_READ,
        "11",
        True,
    )


def test_under_a_caller_the_request_hangs_in_the_callers_trace(tmp_path: Path) -> None:
    spans = _spans(_written(tmp_path, [SINGLE[0], PARENT, *SINGLE[1:]]))
    root = spans["vtprof.request"]
    assert root["traceId"] == "ab" * 16
    assert root["parentSpanId"] == "cd" * 8
    assert spans["vtprof.encode"]["traceId"] == "ab" * 16
    assert spans["vtprof.step"]["links"][0]["traceId"] == "ab" * 16  # type: ignore[index]
    assert int(str(root["flags"])) & 0x200, "the parent is remote"


def test_a_repeated_export_has_the_same_ids(tmp_path: Path) -> None:
    first = _spans(_written(tmp_path / "a", list(SINGLE)))
    second = _spans(_written(tmp_path / "b", list(SINGLE)))
    assert {n: s["spanId"] for n, s in first.items()} == {n: s["spanId"] for n, s in second.items()}


def test_a_file_ends_by_size_before_a_line_would_pass_it(tmp_path: Path) -> None:
    lines = RotatingLines(tmp_path, "me", "traces", Rotation(max_bytes=10), FakeClock(), lambda: 0.0)
    for text in (b"1234\n", b"5678\n", b"9\n", b"longer than a file\n", b"z\n"):
        lines.write(text)
    lines.close()
    files = sorted(tmp_path.iterdir())
    assert [path.name for path in files] == [
        f"vtprof-19700101T000000Z-me-000{n}.traces.jsonl" for n in (1, 2, 3, 4)
    ]
    assert [path.read_text() for path in files] == ["1234\n5678\n", "9\n", "longer than a file\n", "z\n"]
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in files)


def test_a_folder_that_the_agent_makes_is_its_users_alone_and_another_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir(mode=0o755)
    for name, mode in (("ours", 0o700), ("theirs", 0o755)):
        lines = RotatingLines(tmp_path / name, "me", "traces", Rotation(), FakeClock(), lambda: 0.0)
        lines.write(b"1\n")
        lines.close()
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == mode


def test_a_file_ends_by_age(tmp_path: Path) -> None:
    clock = FakeClock()
    lines = RotatingLines(tmp_path, "me", "traces", Rotation(max_age_s=60.0), clock, lambda: 0.0)
    for now in (0.0, 59.0, 60.0, 61.0):
        clock.now = now
        lines.write(f"{now}\n".encode())
    lines.close()
    assert [path.read_text() for path in sorted(tmp_path.iterdir())] == ["0.0\n59.0\n", "60.0\n61.0\n"]


def test_the_oldest_files_go_when_more_than_the_limit_is_kept(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not ours")
    lines = RotatingLines(
        tmp_path, "me", "traces", Rotation(max_bytes=5, keep_bytes=10), FakeClock(), lambda: 0.0
    )
    for number in range(6):
        lines.write(f"{number}234\n".encode())
    lines.close()
    assert [path.read_text() for path in sorted(tmp_path.glob("*.jsonl"))] == ["4234\n", "5234\n"]
    assert (tmp_path / "notes.txt").exists()


def test_a_line_that_could_not_be_written_whole_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = RotatingLines(tmp_path, "me", "traces", Rotation(), FakeClock(), lambda: 0.0)
    lines.write(b"whole\n")
    real, calls = os.write, []

    def full_disk(fd: int, data: bytes) -> int:
        calls.append(len(data))
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        return real(fd, data[:3])

    monkeypatch.setattr(os, "write", full_disk)
    with pytest.raises(OSError, match="No space"):
        lines.write(b"second line\n")
    monkeypatch.undo()
    lines.write(b"third\n")
    lines.close()
    (path,) = tmp_path.iterdir()
    assert path.read_text() == "whole\nthird\n"


def test_the_folder_is_made_by_the_first_line(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "out"
    lines = RotatingLines(folder, "me", "traces", Rotation(), FakeClock(), lambda: 0.0)
    assert list(tmp_path.iterdir()) == []
    lines.write(b"first\n")
    lines.close()
    assert [path.read_text() for path in folder.iterdir()] == ["first\n"]


def test_a_folder_that_cannot_be_made_is_one_clear_line_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "out", tmp_path / "file" / "a" / "b"):
        with pytest.raises(ConfigError, match=r"cannot make the folder .*file is not a folder"):
            RotatingLines(folder, "me", "traces", Rotation())


def test_a_folder_that_may_not_be_written_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may write everywhere: the kernel's answer is stood in for.
    monkeypatch.setattr(os, "access", lambda path, _mode: path != tmp_path)
    for folder in (tmp_path, tmp_path / "a" / "b"):
        with pytest.raises(ConfigError, match=f"no permission to write to {tmp_path};"):
            RotatingLines(folder, "me", "traces", Rotation())


def test_on_a_full_disk_batches_wait_in_memory_within_bounds_and_go_on_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    destination = FileDestination(tmp_path, "test", Rotation())
    destination.submit(batch(1, with_metrics=True))
    real = os.write

    def full(fd: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    for number in range(2, QUEUED_BATCHES + 12):
        destination.submit(batch(number, with_metrics=True))
    assert (destination.outbox.settled(), destination.outbox.spans_dropped) == (11, 20)
    monkeypatch.setattr(os, "write", real)
    destination.submit(batch(QUEUED_BATCHES + 12))
    destination.close(1.0)
    # The newest pushed out one more before the disk was tried again.
    assert (destination.outbox.settled(), destination.outbox.spans_dropped) == (QUEUED_BATCHES + 12, 22)
    assert destination.outbox.metrics_dropped == 11
    (path,) = tmp_path.glob("*.traces.jsonl")
    numbers = [_first_id(json.loads(line)) // 100 for line in path.read_text().splitlines()]
    assert numbers == [1, *range(13, QUEUED_BATCHES + 13)]


def test_what_a_full_disk_never_took_is_counted_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    destination = FileDestination(tmp_path, "test", Rotation())

    def full(fd: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    destination.submit(batch(1))
    destination.close(1.0)
    assert (destination.outbox.spans_dropped, destination.outbox.settled()) == (2, 0)


def _first_id(document: dict[str, list[dict[str, list[dict[str, list[dict[str, str]]]]]]]) -> int:
    return int(document["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["spanId"], 16)
