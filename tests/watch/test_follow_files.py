"""What is new of files is read once, while they grow, rotate, are packed, renamed, replaced, and after a restart."""

import errno
import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtprof_analyzer.watch import follow_cut, follow_files
from vtprof_analyzer.watch.follow_files import Files, Told


def a_line(number: int, size: int = 40) -> bytes:
    return b'{"resourceSpans":[],"number":%d,"fill":"%s"}\n' % (number, b"x" * size)


class Reader:
    """Files under a path, and all that was read of them; it can be stopped, and another one started."""

    def __init__(self, path: Path, work: Path) -> None:
        self._path, self._work = path, work
        self._work.mkdir(exist_ok=True)
        self.files = Files(path, work)
        self.read: list[bytes] = []
        self.again: list[bytes] = []
        self.skipped: dict[str, int] = {}
        self.notes: list[str] = []

    def poll(self, *, final: bool = False) -> bool:
        told = Told()
        pieces, all_read = self.files.poll(told, final=final)
        for piece in pieces:
            lines = piece.staged.read_bytes().splitlines(keepends=True)
            (self.again if piece.again else self.read).extend(lines)
            piece.staged.unlink()
        for reason, count in told.skipped.items():
            self.skipped[reason] = self.skipped.get(reason, 0) + count
        self.notes += told.notes
        return all_read

    def restart(self, resume: dict[str, int] | None = None) -> None:
        state = json.loads(json.dumps(self.files.state(resume or {})))
        self.files = Files(self._path, self._work)
        self.files.restore(state)


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    return Reader(tmp_path / "traces", tmp_path / "work")


def append(path: Path, *lines: bytes) -> Path:
    path.parent.mkdir(exist_ok=True)
    with path.open("ab") as out:
        out.writelines(lines)
    return path


def test_a_line_is_read_when_its_end_has_come_and_not_again(reader: Reader, tmp_path: Path) -> None:
    file = append(tmp_path / "traces/a.jsonl", a_line(1), a_line(2)[:10])
    reader.poll()
    assert reader.read == [a_line(1)]
    append(file, a_line(2)[10:])
    reader.poll()
    reader.poll()
    assert reader.read == [a_line(1), a_line(2)]


def test_a_folder_that_comes_later_is_waited_for_and_said_once(reader: Reader, tmp_path: Path) -> None:
    reader.poll()
    reader.poll()
    assert len(reader.notes) == 1
    assert "no traces and no request tables yet" in reader.notes[0]
    append(tmp_path / "traces/a.jsonl", a_line(1))
    reader.poll()
    assert reader.read == [a_line(1)]
    assert reader.skipped == {}


@pytest.mark.parametrize("name", ["a.jsonl.1", "a-20261122.jsonl", "other"])
def test_a_file_that_is_renamed_goes_on_where_it_was(reader: Reader, tmp_path: Path, name: str) -> None:
    file = append(tmp_path / "traces/a.jsonl", a_line(1))
    reader.poll()
    append(file, a_line(2))
    file.rename(file.with_name(name))
    append(file, a_line(3))
    reader.poll()
    assert sorted(reader.read) == [a_line(1), a_line(2), a_line(3)]
    assert reader.skipped == {}


@pytest.mark.parametrize("restarts", [False, True])
def test_what_a_packed_copy_has_beyond_what_was_read_is_read(
    reader: Reader, tmp_path: Path, restarts: bool
) -> None:
    file = append(tmp_path / "traces/a.jsonl", a_line(1), a_line(2))
    reader.poll()
    append(file, a_line(3))
    file.with_name("a.jsonl.1.gz").write_bytes(gzip.compress(file.read_bytes()))
    file.unlink()
    append(file, a_line(4))
    if restarts:
        reader.restart()
    reader.poll()
    assert reader.read[:2] == [a_line(1), a_line(2)]
    assert sorted(reader.read[2:]) == [a_line(3), a_line(4)]
    assert reader.skipped == {}


def test_a_file_that_was_copied_and_cut_off_begins_anew(reader: Reader, tmp_path: Path) -> None:
    file = append(tmp_path / "traces/a.jsonl", a_line(1), a_line(2))
    reader.poll()
    file.with_name("a.jsonl.1").write_bytes(file.read_bytes())
    os.truncate(file, 0)
    append(file, a_line(3))
    reader.poll()
    assert reader.read == [a_line(1), a_line(2), a_line(3)]


def test_a_copy_that_is_still_being_made_is_not_read(reader: Reader, tmp_path: Path) -> None:
    file = append(tmp_path / "traces/b.jsonl", a_line(1), a_line(2), a_line(3))
    reader.poll()
    copy = append(tmp_path / "traces/a.jsonl", a_line(1), a_line(2))
    reader.poll()
    append(copy, a_line(3))
    reader.poll()
    append(file, a_line(4))
    reader.poll()
    assert reader.read == [a_line(1), a_line(2), a_line(3), a_line(4)]


def test_a_file_in_the_place_of_another_is_read_from_its_begin(reader: Reader, tmp_path: Path) -> None:
    file = append(tmp_path / "traces/a.jsonl", a_line(1), a_line(2))
    reader.poll()
    file.write_bytes(a_line(7) + a_line(8) + a_line(9))
    reader.poll()
    assert reader.read[2:] == [a_line(7), a_line(8), a_line(9)]


def test_a_file_removed_before_all_was_read_is_counted_once(
    reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow_files, "POLL_BYTES", 10)
    monkeypatch.setattr(follow_cut, "PIECE_BYTES", 100)
    file = append(tmp_path / "traces/a.jsonl", *map(a_line, range(9)))
    assert not reader.poll()
    file.unlink()
    reader.poll()
    reader.poll()
    assert reader.skipped == {"file removed before all of it was read": 1}


def test_a_line_without_an_end_is_handed_on_in_the_end_alone(reader: Reader, tmp_path: Path) -> None:
    append(tmp_path / "traces/a.jsonl", a_line(1), a_line(2)[:-1])
    reader.poll()
    assert reader.read == [a_line(1)]
    reader.poll(final=True)
    assert reader.read == [a_line(1), a_line(2)[:-1]]


def test_a_line_that_goes_on_after_the_end_is_read_again_as_a_whole(reader: Reader, tmp_path: Path) -> None:
    file = append(tmp_path / "traces/a.jsonl", a_line(1), a_line(2)[:9])
    reader.poll(final=True)
    append(file, a_line(2)[9:])
    reader.restart()
    reader.poll()
    assert reader.read == [a_line(1), a_line(2)[:9], a_line(2)]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_counted_and_noted_once(reader: Reader, tmp_path: Path) -> None:
    append(tmp_path / "traces/a.jsonl", a_line(1)).chmod(0)
    reader.poll()
    reader.poll()
    assert reader.skipped == {"file that cannot be read": 1}


def test_a_file_that_fails_is_counted_and_the_others_are_read(
    reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(tmp_path / "traces/a.jsonl", a_line(1))
    append(tmp_path / "traces/b.jsonl", a_line(2))
    look: Callable[..., Any] = follow_cut.look

    def failing(path: Path, **given: Any) -> Any:
        if path.name == "a.jsonl":
            raise OSError(errno.EACCES, "Permission denied")
        return look(path, **given)

    monkeypatch.setattr(follow_files, "look", failing)
    reader.poll()
    append(tmp_path / "traces/b.jsonl", a_line(3))
    reader.poll()
    assert reader.read == [a_line(2), a_line(3)]
    assert reader.skipped == {"file that cannot be read": 1}
    assert [note for note in reader.notes if "Permission denied" in note] == reader.notes


def test_a_line_longer_than_a_piece_is_read_whole(
    reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow_cut, "PIECE_BYTES", 16)
    lines = [a_line(1, 100), a_line(2, 3), a_line(3, 200)]
    append(tmp_path / "traces/a.jsonl", *lines)
    reader.poll()
    assert reader.read == lines


def test_a_line_that_is_too_long_is_passed_over_and_counted(
    reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow_cut, "PIECE_BYTES", 64)
    monkeypatch.setattr(follow_cut, "MAX_LINE_BYTES", 500)
    append(tmp_path / "traces/a.jsonl", a_line(1, 2), a_line(2, 2000), a_line(3, 2))
    reader.poll()
    assert reader.read == [a_line(1, 2), a_line(3, 2)]
    assert list(reader.skipped.values()) == [1]


def test_metrics_of_the_agent_are_not_read(reader: Reader, tmp_path: Path) -> None:
    append(tmp_path / "traces/vtprof-1.metrics.jsonl", a_line(1))
    append(tmp_path / "traces/vtprof-1.traces.jsonl", a_line(2))
    reader.poll()
    assert reader.read == [a_line(2)]


def test_frames_are_cut_between_messages(reader: Reader, tmp_path: Path) -> None:
    bodies = [a_line(number).strip() for number in range(3)]
    frames = [len(body).to_bytes(4, "big") + body for body in bodies]
    file = append(tmp_path / "traces/a.json", frames[0], frames[1][:7])
    reader.poll()
    append(file, frames[1][7:], frames[2])
    reader.poll()
    assert b"".join(reader.read) == b"".join(frames)


def test_parquet_is_read_when_its_end_is_there(reader: Reader, tmp_path: Path) -> None:
    import polars as pl

    whole = tmp_path / "whole.parquet"
    pl.DataFrame({"trace_id": ["a"], "span_id": ["b"], "name": ["c"], "start_ns": [1]}).write_parquet(whole)
    data = whole.read_bytes()
    file = append(tmp_path / "traces/a.parquet", data[:-4])
    reader.poll()
    assert reader.read == []
    append(file, data[-4:])
    reader.poll()
    reader.poll()
    assert b"".join(reader.read) == data


def test_what_is_behind_in_time_is_read_first(
    reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def at(number: int) -> bytes:
        return b'{"resourceSpans":[{"startTimeUnixNano":"%d"}]}\n' % (10**18 + number)

    monkeypatch.setattr(follow_cut, "PIECE_BYTES", 100)
    append(tmp_path / "traces/a.jsonl", *map(at, (5, 6, 7, 8)))
    append(tmp_path / "traces/b.jsonl", *map(at, (1, 2, 3, 4)))
    reader.poll()
    assert reader.read == [at(number) for number in range(1, 9)]


def test_rows_of_a_table_are_read_with_its_header_and_quoted_line_ends_do_not_cut(
    reader: Reader, tmp_path: Path
) -> None:
    header, first = b"request_id,start_unix_nano,ttft_ms\n", b"r1,1795000000000000000,5\n"
    file = append(tmp_path / "traces/a.csv", header, first, b'"r\n')
    reader.poll()
    append(file, b'2",1795000000000000001,6\n')
    reader.poll()
    assert b"".join(reader.read) == header + first + header + b'"r\n2",1795000000000000001,6\n'


def test_what_was_held_is_read_again_after_a_restart_and_marked(reader: Reader, tmp_path: Path) -> None:
    file = append(tmp_path / "traces/a.jsonl", a_line(1), a_line(2))
    reader.poll()
    (followed,) = reader.files.state({})
    append(file, a_line(3))
    reader.restart({followed["key"]: len(a_line(1))})
    reader.poll()
    assert (reader.read, reader.again) == ([a_line(1), a_line(2), a_line(3)], [a_line(2)])


ACTIONS = st.one_of(
    st.tuples(st.just("append"), st.integers(1, 200)),
    st.just(("poll", 0)),
    st.just(("restart", 0)),
    st.just(("rotate", 0)),
    st.just(("pack", 0)),
)


@settings(max_examples=60)
@given(actions=st.lists(ACTIONS, max_size=25), piece=st.integers(20, 300))
def test_every_line_is_read_once_however_the_files_come(
    tmp_path_factory: pytest.TempPathFactory, actions: list[tuple[str, int]], piece: int
) -> None:
    tmp_path = tmp_path_factory.mktemp("any")
    reader = Reader(tmp_path / "traces", tmp_path / "work")
    file = tmp_path / "traces/a.jsonl"
    numbers, waiting, written, rotated = iter(range(10**6)), b"", [], 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(follow_cut, "PIECE_BYTES", piece)
        for action, size in [*actions, ("end", 0)]:
            if action == "append":
                while len(waiting) < size:
                    written.append(a_line(next(numbers)))
                    waiting += written[-1]
                append(file, waiting[:size])
                waiting = waiting[size:]
            elif action == "poll":
                reader.poll()
            elif action == "restart":
                reader.restart()
            elif action in ("rotate", "pack", "end") and file.exists():
                append(file, waiting)  # writers end a file with a whole line
                waiting = b""
                rotated += 1
                target = file.with_name(f"a.jsonl.{rotated}")
                if action == "pack":
                    target.with_name(target.name + ".gz").write_bytes(gzip.compress(file.read_bytes()))
                    file.unlink()
                elif action == "rotate":
                    file.rename(target)
        while not reader.poll():
            pass
        reader.poll(final=True)
    assert sorted(reader.read) == sorted(written)
    assert reader.again == []
    assert reader.skipped == {}


@given(data=st.binary(max_size=300))
@settings(max_examples=60)
def test_no_bytes_stop_the_follower(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    tmp_path = tmp_path_factory.mktemp("bytes")
    for name in ("a.jsonl", "b.jsonl.gz", "c.parquet", "d.pb", "e.csv"):
        append(tmp_path / "traces" / name, data)
    append(tmp_path / "traces/z.jsonl", a_line(1))
    reader = Reader(tmp_path / "traces", tmp_path / "work")
    reader.poll()
    reader.poll()
    reader.poll(final=True)
    assert a_line(1) in reader.read


def test_a_table_that_shrinks_or_goes_is_said_and_rotated_traces_are_not(
    reader: Reader, tmp_path: Path
) -> None:
    rows = [b"request_id,ttft_ms\n", *(b"r%d,1.0\n" % at for at in range(5))]
    file = append(tmp_path / "traces/a.csv", *rows)
    trace = append(tmp_path / "traces/b.jsonl", a_line(1))
    reader.poll()
    os.truncate(file, len(b"".join(rows[:3])))
    reader.poll()
    assert len(reader.notes) == 1 and "became shorter" in reader.notes[0]
    trace.unlink()
    reader.poll()
    assert len(reader.notes) == 1
    file.unlink()
    reader.poll()
    reader.poll()
    assert len(reader.notes) == 2 and "was removed or replaced" in reader.notes[1]
