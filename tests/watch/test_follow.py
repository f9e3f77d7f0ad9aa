"""Requests come out of traces and tables that grow: each once, complete, and none that is still being told of."""

import gzip
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from otlp_builder import BASE_NS, document, line, request, span
from otlp_messages import length32, message

from vtprof_analyzer.regress.requests import Requests, joined
from vtprof_analyzer.runs.read import read_runs
from vtprof_analyzer.watch import follow_cut
from vtprof_analyzer.watch.events import FOREVER_NS, Batch, KvSample
from vtprof_analyzer.watch.follow import Follower
from vtprof_schemas import names

MS = 1_000_000
S = 1_000 * MS
GRACE_S = 5
RESOURCE = {
    names.SERVICE_INSTANCE_ID: "ring-1",
    names.KV_CAPACITY_TOKENS: 1000,
    names.KV_BYTES_PER_TOKEN: 512,
}
TOLD = {
    names.TTFT_NS: 100 * MS, names.REQUEST_MODEL: "m", names.INPUT_TOKENS: 30, names.OUTPUT_TOKENS: 11,
    names.TOKENS_TEXT: 10, names.TOKENS_IMAGE: 20, names.TOKENS_VIDEO: 0, names.ITEMS_IMAGE: 1,
}  # fmt: skip


def spans_of(number: int, every_s: float = 1.0) -> list[dict[str, Any]]:
    """Return the spans of a request that begins so many times ``every_s`` after the first and takes 200 ms."""
    at = int(number * every_s * S)
    return request(
        at,
        at + 200 * MS,
        TOLD,
        trace=number + 1,
        encode=(at, at + 30 * MS),
        prefill=(at + 40 * MS, at + 90 * MS),
    )


def text_of(*spans: dict[str, Any]) -> bytes:
    return (line(document(*spans, resource=RESOURCE)) + "\n").encode()


def append(path: Path, *texts: bytes) -> Path:
    path.parent.mkdir(exist_ok=True)
    with path.open("ab") as out:
        out.writelines(texts)
    return path


def following(path: Path, state: dict[str, Any] | None = None) -> Follower:
    """Return a follower whose clock stands an hour after the traces."""
    return Follower(path, state, grace_s=GRACE_S, now_ns=lambda: BASE_NS + 3600 * S)


def restarted(path: Path, follower: Follower) -> Follower:
    state = json.loads(json.dumps(follower.state()))
    follower.close()
    return following(path, state)


def numbers(*batches: Batch) -> list[int]:
    return [int(one, 16) - 1 for batch in batches for one in batch.requests.ids.tolist()]


def assert_equal(found: Requests, wanted: Requests) -> None:
    assert found.models == wanted.models
    orders = [np.lexsort((one.ids.astype(str), one.start_ns)) for one in (found, wanted)]
    for column in fields(Requests):
        if column.name not in ("models", "in_flight"):
            left, right = (
                getattr(one, column.name)[at] for one, at in zip((found, wanted), orders, strict=True)
            )
            np.testing.assert_array_equal(left, right, err_msg=column.name)


def test_a_request_comes_when_its_grace_time_has_passed_and_with_all_its_phases(tmp_path: Path) -> None:
    own, *phases = spans_of(0)
    file = append(tmp_path / "t/a.jsonl", text_of(own, phases[0]))
    follower = following(tmp_path / "t")
    first = follower.poll()
    append(file, text_of(phases[1]), text_of(*spans_of(1)))
    second = follower.poll()
    append(file, text_of(*spans_of(6)))  # 5 s after the end of the first and second
    third = follower.poll()
    assert (numbers(first), numbers(second), numbers(third)) == ([], [], [0, 1])
    assert third.requests.encode_ms.tolist() == [30, 30]
    assert third.requests.prefill_ms.tolist() == [50, 50]
    assert third.requests.kv_bytes.tolist() == [40 * 512] * 2


def test_the_last_requests_come_with_the_end(tmp_path: Path) -> None:
    append(tmp_path / "t/a.jsonl", text_of(*spans_of(0)), text_of(*spans_of(1))[:-1])
    follower = following(tmp_path / "t")
    assert numbers(follower.poll()) == []
    batch = follower.finish()
    assert numbers(batch) == [0, 1]
    assert batch.settled_until_ns == FOREVER_NS


def test_nothing_is_settled_that_may_still_come(tmp_path: Path) -> None:
    # The newest span ends at 20.2 s; the grace time is 5 s, and a request takes 0.2 s.
    append(tmp_path / "t/a.jsonl", *(text_of(*spans_of(number)) for number in range(21)))
    batch = following(tmp_path / "t").poll()
    assert batch.settled_until_ns == BASE_NS + 15 * S
    assert numbers(batch) == list(range(16))
    assert batch.caught_up


def test_a_request_without_its_own_span_is_given_up_and_counted(tmp_path: Path) -> None:
    orphan = spans_of(0)[1:]
    file = append(tmp_path / "t/a.jsonl", text_of(*orphan), text_of(*spans_of(1)))
    follower = following(tmp_path / "t")
    first = follower.poll()
    append(file, text_of(*spans_of(1900)))
    second = follower.poll()
    assert first.skipped == {}
    assert second.skipped == {"request of which spans came, but not its own": 1}


@pytest.mark.parametrize("restarts", [False, True])
def test_spans_that_come_twice_or_late_make_no_second_request(tmp_path: Path, restarts: bool) -> None:
    file = append(tmp_path / "t/a.jsonl", text_of(*spans_of(0)), text_of(*spans_of(9)))
    follower = following(tmp_path / "t")
    assert numbers(follower.poll()) == [0]
    if restarts:
        follower = restarted(tmp_path / "t", follower)
    late = span(names.SPAN_STEP, 0, 1, trace=1, span_id=77, parent=1)
    append(file, text_of(*spans_of(0), late), text_of(*spans_of(19)))
    assert numbers(follower.poll()) == [9]
    assert numbers(follower.finish()) == [19]


def test_aborted_requests_and_unreadable_lines_are_counted(tmp_path: Path) -> None:
    aborted = request(0, 200 * MS, {**TOLD, names.REQUEST_STATUS: "aborted"}, trace=99)
    append(tmp_path / "t/a.jsonl", text_of(*aborted), b'{"resourceSpans": 5\n', text_of(*spans_of(9)))
    follower = following(tmp_path / "t")
    first, last = follower.poll(), follower.finish()
    assert {reason: count for batch in (first, last) for reason, count in batch.skipped.items()} == {
        "unreadable line": 1, "aborted": 1,
    }  # fmt: skip
    assert numbers(first, last) == [9]


def test_kv_in_use_is_told_by_instance_and_second(tmp_path: Path) -> None:
    steps = [
        span(
            names.SPAN_WINDOW, at * MS, (at + 10) * MS, {names.STEP_KV_USED_TOKENS_MAX: used}, trace=500 + at
        )
        for at, used in ((0, 100), (500, 300), (600, 200), (1200, 50))
    ]
    append(tmp_path / "t/a.jsonl", text_of(*steps))
    assert following(tmp_path / "t").poll().kv == (
        KvSample(BASE_NS + 610 * MS, "ring-1", 300.0, 1000.0),
        KvSample(BASE_NS + 1210 * MS, "ring-1", 50.0, 1000.0),
    )


def test_a_wrong_clock_does_not_let_time_go_on(tmp_path: Path) -> None:
    append(tmp_path / "t/a.jsonl", text_of(*spans_of(0)), text_of(*spans_of(100_000)))
    batch = following(tmp_path / "t").poll()
    assert numbers(batch) == []


def test_traces_of_frames_protobuf_and_parquet_are_followed(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    append(whole / "a.jsonl", text_of(*spans_of(0)), text_of(*spans_of(9)))
    frame = length32(message(document(*spans_of(19), resource=RESOURCE)))
    append(tmp_path / "t/b.pb", frame[:-5])
    follower = following(tmp_path / "t")
    assert numbers(follower.poll()) == []
    append(tmp_path / "t/b.pb", frame[-5:])
    append(tmp_path / "t/c.jsonl.gz", gzip.compress((whole / "a.jsonl").read_bytes()))
    assert numbers(follower.poll()) == [0, 9]
    assert numbers(follower.finish()) == [19]


COUNT = 10
"""Requests of the examples, 2 s apart."""


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[list[int], list[tuple[int, bool, bool]]]:
    """Return the order of the lines, one a span, and steps: bytes to append, whether to restart, whether to rotate."""
    order = draw(st.permutations(range(3)))
    steps = draw(
        st.lists(st.tuples(st.integers(0, 9_000), st.booleans(), st.booleans()), min_size=1, max_size=4)
    )
    return list(order), steps


@pytest.mark.slow
@settings(max_examples=5, derandomize=True)
@given(delivery=deliveries())
def test_any_split_over_polls_restarts_and_files_gives_what_one_read_gives(
    tmp_path_factory: pytest.TempPathFactory, delivery: tuple[list[int], list[tuple[int, bool, bool]]]
) -> None:
    order, steps = delivery
    tmp_path = tmp_path_factory.mktemp("split")
    lines = [text_of(spans_of(number, 2.0)[at]) for number in range(COUNT) for at in order]
    data = b"".join(lines)
    append(tmp_path / "whole/a.jsonl", data)
    (wanted,) = read_runs(tmp_path / "whole")
    path, batches = tmp_path / "t", []
    file = append(path / "a.jsonl")
    follower = following(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(follow_cut, "PIECE_BYTES", 2_000)
        for number, (size, restarts, rotates) in enumerate(steps):
            append(file, data[:size])
            data = data[size:]
            batches.append(follower.poll())
            if restarts:
                follower = restarted(path, follower)
            if rotates:
                rest, end, data = data.partition(b"\n")
                append(file, rest, end)
                file.rename(file.with_name(f"a.jsonl.{number + 1}"))
        append(file, data)
        batches += [follower.poll(), follower.finish()]
    assert_equal(joined([batch.requests for batch in batches]), wanted.requests)
    assert [batch.skipped for batch in batches if batch.skipped] == []


def table(first: int, last: int) -> pl.DataFrame:
    rows = range(first, last)
    return pl.DataFrame(
        {
            "request_id": [f"r{row}" for row in rows],
            "start_unix_nano": [BASE_NS + row * S for row in rows],
            "model": "m",
            "ttft_ms": 100.0,
            "prefill_ms": [50.0 + row for row in rows],
            "n_text_tokens": 10,
            "n_visual_tokens": 0,
            "n_output_tokens": 11,
            "tpot_ms": 10.0,
        }
    )


def ids(*batches: Batch) -> list[str]:
    return [str(one) for batch in batches for one in batch.requests.ids.tolist()]


def wanted_ids(*numbers_of: int) -> list[str]:
    return [f"r{number}" for number in numbers_of]


@pytest.mark.parametrize("restarts", [False, True])
def test_a_growing_table_gives_each_row_once(tmp_path: Path, restarts: bool) -> None:
    text = table(0, 30).write_csv().encode()
    file = append(tmp_path / "requests.csv", text[:900])
    follower = following(file)
    first = follower.poll()
    if restarts:
        follower = restarted(file, follower)
    append(file, text[900:])
    second = follower.poll()
    assert 0 < len(first.requests) < 30
    assert ids(first, second) == wanted_ids(*range(30))
    assert second.requests.prefill_ms.tolist() == [50.0 + row for row in range(len(first.requests), 30)]
    # A row is there when its request has ended: 0.2 s, and the grace time.
    assert second.settled_until_ns == BASE_NS + 29 * S - GRACE_S * S
    assert first.skipped == second.skipped == {}


def test_tables_that_appear_in_a_lake_are_read_once(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    lake.mkdir()
    table(0, 3).write_parquet(lake / "1.parquet")
    follower = following(lake)
    first = follower.poll()
    table(3, 5).write_parquet(lake / "2.parquet")
    follower = restarted(lake, follower)
    assert (ids(first), ids(follower.poll()), ids(follower.poll())) == (
        wanted_ids(0, 1, 2),
        wanted_ids(3, 4),
        [],
    )


def test_a_state_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        following(tmp_path, {"version": 2})
    with pytest.raises((ValueError, KeyError, TypeError)):
        following(tmp_path, {"version": 1, "files": [{"resume": 0}], "spans": {}})
