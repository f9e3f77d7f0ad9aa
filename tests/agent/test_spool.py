"""The disk spool keeps order and count through restarts, full disks, other agents, and damage to any byte."""

import errno
import os
import re
import stat
import subprocess
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtprof_agent.export import segment
from vtprof_agent.export.parcel import MAX_MESSAGE_BYTES, Parcel, Signal
from vtprof_agent.export.segment import ENTRY_BYTES, FIRST_ENTRY
from vtprof_agent.export.spool import SAY_S, SEGMENTS, Spool, default_folder, open_spool
from vtprof_schemas.errors import ConfigError

ROOM = 1 << 20


def _parcel(number: int, size: int = 40, signal: Signal = Signal.TRACES) -> Parcel:
    return Parcel(signal, number, number if signal is Signal.TRACES else 0, bytes([number % 251]) * size)


def _rest(spool: Spool) -> list[int]:
    """Take everything out; return the batch numbers."""
    found = []
    while (parcel := spool.head()) is not None:
        assert parcel.payload == bytes([parcel.number % 251]) * len(parcel.payload)
        found.append(parcel.number)
        spool.advance()
    return found


def _filled(folder: Path, count: int, **more: int) -> Spool:
    spool = Spool(folder, more.pop("max_bytes", ROOM))
    for number in range(1, count + 1):
        spool.append(_parcel(number, **more))
    return spool


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.spool"))


def test_messages_come_back_in_order_from_the_agent_itself_and_from_the_next(tmp_path: Path) -> None:
    spool = _filled(tmp_path / "s", 5)
    assert (spool.messages, [spool.head().number for _ in range(2)]) == (5, [1, 1])  # type: ignore[union-attr]
    spool.advance()
    spool.append(_parcel(6, signal=Signal.METRICS))
    spool.close()
    again = Spool(tmp_path / "s", ROOM)
    assert again.messages == 5
    again.append(_parcel(7))
    assert _rest(again) == [2, 3, 4, 5, 6, 7]
    assert (again.messages, again.bytes, _files(tmp_path / "s")) == (0, 0, [])


def test_what_was_delivered_before_the_end_is_not_delivered_again(tmp_path: Path) -> None:
    spool = _filled(tmp_path, 5)
    for _ in range(3):
        spool.head()
        spool.advance()
    spool.close()
    assert _rest(Spool(tmp_path, ROOM)) == [4, 5]


def test_a_restart_writes_on_in_the_last_file(tmp_path: Path) -> None:
    for number in range(1, 101):
        spool = Spool(tmp_path, ROOM)
        spool.append(_parcel(number))
        spool.close()
    assert len(_files(tmp_path)) == 1
    assert _rest(Spool(tmp_path, ROOM)) == list(range(1, 101))


def test_when_it_is_full_the_oldest_go_and_are_counted(tmp_path: Path) -> None:
    most = 64 * 1024
    spool = Spool(tmp_path, most)
    for number in range(1, 1001):
        spool.append(_parcel(number, 1000))
        assert sum(path.stat().st_size for path in _files(tmp_path)) == spool.bytes <= most
    left = _rest(spool)
    assert left == list(range(1001 - len(left), 1001))
    assert len(left) > 50, "only a part of the room is given up at a time"
    assert spool.lost.spans == sum(range(1, 1001)) - sum(left)


def test_a_full_spool_says_so_at_once_then_once_a_minute_and_at_the_end_and_every_message_in_all(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    now_s = [0.0]
    spool = Spool(tmp_path, 64 * 1024, lambda: now_s[0])
    added = 0
    # A message a second for ten minutes; 4 KB each, so that one is dropped about each second.
    for now_s[0] in range(600):
        added += 1
        spool.append(_parcel(added, 4000))
    said_s = 601 // SAY_S
    assert 2 <= len(caplog.messages) <= 1 + said_s
    left = spool.messages
    spool.close()
    told = [
        int(found[1]) for line in caplog.messages if (found := re.search(r"dropped \D*(\d+) messages", line))
    ]
    assert sum(told) == added - left
    assert len(told) == len(caplog.messages)


def test_what_a_spool_dropped_is_said_when_it_is_taken_from_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    now_s = [0.0]
    spool = Spool(tmp_path, 64 * 1024, lambda: now_s[0])
    for number in range(1, 40):
        spool.append(_parcel(number, 4000))
    assert len(caplog.messages) == 1
    now_s[0] = SAY_S
    assert spool.head() is not None
    spool.advance()
    assert re.search(r"full; dropped \d+ messages more in 60 s$", caplog.messages[1])


def test_a_message_larger_than_the_spool_is_lost_alone(tmp_path: Path) -> None:
    spool = _filled(tmp_path, 3, max_bytes=2000)
    spool.append(_parcel(4, 2000))
    spool.append(_parcel(5))
    assert (_rest(spool), spool.lost.spans) == ([1, 2, 3, 5], 4)


def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "s"
    spool = _filled(folder, 1)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in _files(folder)] == [0o600]
    spool.close()
    folder.chmod(0o755)
    Spool(folder, ROOM).close()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_that_was_tidied_away_is_made_again(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "a" / "s", ROOM)
    (tmp_path / "a" / "s").rmdir()
    spool.append(_parcel(1))
    assert _rest(spool) == [1]


def test_two_agents_at_once_do_not_touch_each_other_and_the_next_takes_over_both(tmp_path: Path) -> None:
    first, second = _filled(tmp_path, 2), Spool(tmp_path, ROOM)
    assert second.head() is None
    second.append(_parcel(3))
    first.append(_parcel(4))
    third = Spool(tmp_path, ROOM)
    assert third.head() is None
    first.close()
    second.close()
    # By the age of their files: the first agent's is older, with all that is in it.
    assert _rest(Spool(tmp_path, ROOM)) == [1, 2, 4, 3]


def test_what_is_no_file_of_ours_is_put_aside_or_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _filled(tmp_path, 3).close()
    (tmp_path / "00000000000000000001-aa.spool").write_bytes(b"")
    (tmp_path / "00000000000000000002-aa.spool").write_bytes(b"not a segment" * 100)
    (tmp_path / "notes.spool").write_text("mine")
    os.mkfifo(tmp_path / "00000000000000000003-aa.spool")
    (tmp_path / "00000000000000000004-aa.spool").symlink_to("/etc/passwd")
    (tmp_path / "00000000000000000005-aa.spool").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "1-a.new").write_text("")
    os.utime(tmp_path / "1-a.new", (0, 0))
    assert _rest(Spool(tmp_path, ROOM)) == [1, 2, 3]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "00000000000000000001-aa.damaged", "00000000000000000002-aa.damaged", "00000000000000000003-aa.damaged",
        "00000000000000000004-aa.spool", "00000000000000000005-aa.spool", "notes.damaged", "notes.txt",
    ]  # fmt: skip
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 6


@pytest.mark.parametrize(("sizes", "kept"), [([10] * 9, 4), ([500, 500, 600], 1), ([ROOM], 0), ([], 0)])
def test_files_put_aside_are_bounded_in_number_and_in_bytes_which_are_part_of_the_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, sizes: list[int], kept: int
) -> None:
    room = SEGMENTS * 1000
    for number, size in enumerate(sizes, start=1):
        (tmp_path / f"{number:020d}-aa.spool").write_bytes(b"x" * size)
    spool = Spool(tmp_path, room)
    left = sorted(tmp_path.glob("*.damaged"))
    assert [path.stat().st_size for path in left] == sizes[len(sizes) - kept :]
    assert sum("removed" in line for line in caplog.messages) == (len(sizes) > kept)
    for number in range(1, 500):
        spool.append(_parcel(number, size=100))
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= room
    assert spool.lost.spans > 0


def test_a_write_that_fails_half_way_leaves_nothing_and_the_next_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = _filled(tmp_path, 2)
    real = os.pwrite

    def full(fd: int, data: bytes, at: int) -> int:
        if len(data) < 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, data[: len(data) - 19], at)

    monkeypatch.setattr(os, "pwrite", full)
    for _ in range(3):
        with pytest.raises(OSError, match="No space left"):
            spool.append(_parcel(3))
    monkeypatch.undo()
    spool.append(_parcel(4))
    spool.close()
    assert _rest(Spool(tmp_path, ROOM)) == [1, 2, 4]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a file system here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_on_a_disk_that_is_full_what_was_written_stays_whole(small_disk: Path) -> None:
    spool, number = Spool(small_disk / "s", ROOM), 0
    with pytest.raises(OSError) as caught:
        for number in range(1, 1001):
            spool.append(_parcel(number, 1000))
    assert caught.value.errno == errno.ENOSPC
    for at in range(1, 11):
        assert spool.head().number == at  # type: ignore[union-attr]
        spool.advance()
    spool.close()
    assert _rest(Spool(small_disk / "s", ROOM)) == list(range(11, number))


def test_a_read_position_that_cannot_be_stored_delivers_again_and_not_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = _filled(tmp_path, 3)
    spool.head()

    def refuses(*_: object) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "pwrite", refuses)
    spool.advance()
    assert spool.head().number == 2  # type: ignore[union-attr]
    monkeypatch.undo()
    spool.close()
    assert _rest(Spool(tmp_path, ROOM)) == [1, 2, 3]


def test_the_spool_of_an_endpoint_is_its_own(tmp_path: Path) -> None:
    one = open_spool(tmp_path, "http://a:4318", ROOM)
    assert one is not None
    one.append(_parcel(1))
    one.close()
    other, same = open_spool(tmp_path, "http://b:4318", ROOM), open_spool(tmp_path, "http://a:4318/", ROOM)
    assert other is not None
    assert same is not None
    assert (other.head(), _rest(same)) == (None, [1])
    assert open_spool(tmp_path, "http://a:4318", 0) is None


def test_a_folder_that_cannot_be_used_is_an_error_if_named_and_else_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "vtprof").write_text("a file")
    with pytest.raises(ConfigError, match=r"--spool-dir .*: cannot be used: .*; give another folder"):
        open_spool(tmp_path / "vtprof", "http://a:4318", ROOM)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "vtprof" / "spool"
    assert open_spool(None, "http://a:4318", ROOM) is None
    assert "batches wait in memory" in caplog.text


def test_a_size_that_holds_no_batch_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="spool_bytes = 1000: too little for a batch; give 262144 or more, or 0"
    ):
        open_spool(tmp_path, "http://a:4318", 1000)


def test_an_endpoint_that_is_a_slip_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not an http"):
        open_spool(tmp_path, "collector:4318", ROOM)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_another_user_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = open_spool(tmp_path, "http://a", ROOM).folder.name.rpartition("-")[0]  # type: ignore[union-attr]
    (tmp_path / f"{name}-12345").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(ConfigError, match="another user's"):
        open_spool(tmp_path, "http://a", ROOM)


# --- Damage --------------------------------------------------------------------------------------------

SIZES = st.lists(st.integers(0, 200), min_size=1, max_size=12)


def _damaged(folder: Path, sizes: list[int], delivered: int) -> tuple[Path, list[tuple[int, int]]]:
    """Write a file and take some of it; return it, and where each entry begins and ends."""
    for old in folder.iterdir():
        old.unlink()
    spool, at, places = Spool(folder, ROOM), FIRST_ENTRY, []
    for number, size in enumerate(sizes, 1):
        spool.append(_parcel(number, size))
        places.append((at, at + ENTRY_BYTES + size))
        at = places[-1][1]
    for _ in range(delivered):
        spool.head()
        spool.advance()
    spool.close()
    (path,) = _files(folder)
    assert path.stat().st_size == at
    return path, places


@settings(max_examples=150, deadline=None)
@given(SIZES, st.data())
def test_a_file_cut_off_anywhere_keeps_every_whole_entry(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / "cut"
    folder.mkdir(exist_ok=True)
    path, places = _damaged(folder, sizes, 0)
    length = data.draw(st.integers(FIRST_ENTRY, path.stat().st_size))
    os.truncate(path, length)
    whole = [number for number, (_, end) in enumerate(places, 1) if end <= length]
    spool = Spool(folder, ROOM)
    if whole:
        assert path.stat().st_size == places[len(whole) - 1][1], "the rest is cut off"
    spool.append(_parcel(100))
    assert _rest(spool) == [*whole, 100]
    assert spool.lost.spans == sum(range(1, len(sizes) + 1)) - sum(whole)


def test_what_a_killed_agent_had_half_written_was_never_settled_and_is_not_lost(tmp_path: Path) -> None:
    path, places = _damaged(tmp_path, [40] * 3, 0)
    # The name follows what is written: that of two entries, before half of the third.
    os.truncate(path, (places[1][1] + places[2][1]) // 2)
    path.rename(path.with_name(path.name.replace("-6-0.spool", "-3-0.spool")))
    spool = Spool(tmp_path, ROOM)
    assert (_rest(spool), spool.lost.spans) == ([1, 2], 0)


@settings(max_examples=200, deadline=None)
@given(SIZES, st.data())
def test_damage_anywhere_costs_only_what_it_hit_and_that_is_counted(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / "damage"
    folder.mkdir(exist_ok=True)
    delivered = data.draw(st.integers(0, len(sizes) - 1))
    path, places = _damaged(folder, sizes, delivered)
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(FIRST_ENTRY, len(content) - 1))
    junk = data.draw(st.binary(min_size=1, max_size=min(150, len(content) - at)))
    before = bytes(content)
    content[at : at + len(junk)] = junk
    path.write_bytes(content)
    changed = [place for place in range(len(content)) if content[place] != before[place]]
    spool = Spool(folder, ROOM)
    found = _rest(spool)
    sound = [
        number for number, (start, end) in enumerate(places, 1)
        if number > delivered and not any(start <= place < end for place in changed)
    ]  # fmt: skip
    assert found == sound
    assert sum(found) + spool.lost.spans == sum(range(delivered + 1, len(sizes) + 1))


@settings(max_examples=150, deadline=None)
@given(SIZES, st.data())
def test_zeros_in_place_of_the_start_or_the_end_cost_what_they_hit_and_that_is_counted(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / "zeros"
    folder.mkdir(exist_ok=True)
    path, places = _damaged(folder, sizes, 0)
    size = path.stat().st_size
    start = data.draw(st.integers(0, size))
    end = data.draw(st.sampled_from([0, size]))
    hit = range(start, size) if end else range(start)
    content = bytearray(path.read_bytes())
    content[hit.start : hit.stop] = bytes(len(hit))
    path.write_bytes(content)
    spool = Spool(folder, ROOM)
    found = _rest(spool)
    whole = [
        number
        for number, (first, last) in enumerate(places, 1)
        # A zero may stand where one stood before.
        if last <= hit.start or hit.stop <= first or number in found
    ]
    assert found == whole
    assert sum(found) + spool.lost.spans == sum(range(1, len(sizes) + 1))
    assert _files(folder) == []


def test_batches_of_metric_points_in_a_file_of_zeros_are_counted_too(tmp_path: Path) -> None:
    spool = _filled(tmp_path, 3)
    spool.append(_parcel(4, signal=Signal.METRICS))
    spool.append(_parcel(5, signal=Signal.METRICS))
    spool.close()
    (path,) = _files(tmp_path)
    path.write_bytes(bytes(path.stat().st_size))
    again = Spool(tmp_path, ROOM)
    assert (again.lost.spans, again.lost.metrics, again.messages) == (1 + 2 + 3, 2, 0)
    assert [file.suffix for file in sorted(tmp_path.iterdir())] == [".damaged", ".lost"]
    again.forget_notes(again.noted())
    again.close()
    assert (Spool(tmp_path, ROOM).lost.spans, len(list(tmp_path.iterdir()))) == (0, 1)


def test_what_is_missing_at_the_end_is_counted_by_the_next_agent_until_the_count_is_stored(
    tmp_path: Path,
) -> None:
    path, places = _damaged(tmp_path, [40] * 3, 0)
    with path.open("r+b") as file:
        file.seek(places[1][0])
        file.write(bytes(places[2][1] - places[1][0]))
    killed = Spool(tmp_path, ROOM)
    assert (_rest(killed), killed.lost.spans) == ([1], 2 + 3)
    for note in killed._buried:
        note.close()
    assert Spool(tmp_path, ROOM).lost.spans == 2 + 3


def test_what_was_delivered_before_the_damage_is_neither_delivered_again_nor_lost(tmp_path: Path) -> None:
    path, places = _damaged(tmp_path, [40] * 5, delivered=3)
    with path.open("r+b") as file:
        file.seek(places[1][0])
        file.write(bytes(places[3][1] - places[1][0]))  # the second to the fourth
    spool = Spool(tmp_path, ROOM)
    assert (_rest(spool), spool.lost.spans) == ([5], 4)


def test_a_file_whose_name_another_agent_changes_just_now_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path, _ = _damaged(tmp_path, [40], 0)
    listed = list(tmp_path.iterdir())
    path.rename(path.with_name(path.name.replace("-1-0.spool", "-3-0.spool")))
    monkeypatch.setattr(Path, "iterdir", lambda _: iter(listed))
    assert Spool(tmp_path, ROOM).messages == 0
    assert not caplog.records
    monkeypatch.undo()
    assert _rest(Spool(tmp_path, ROOM)) == [1]


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_read_without_a_crash(tmp_path_factory: pytest.TempPathFactory, junk: bytes) -> None:
    folder = tmp_path_factory.getbasetemp() / "junk"
    folder.mkdir(exist_ok=True)
    path, _ = _damaged(folder, [10], 0)
    start = path.read_bytes()[:FIRST_ENTRY]
    for content in (junk, start + junk, start[:-16] + junk):
        for old in folder.iterdir():
            old.unlink()
        path.write_bytes(content)
        assert _rest(Spool(folder, ROOM)) == []


def test_an_entry_that_says_it_is_larger_than_any_message_is_not_read(tmp_path: Path) -> None:
    path, _ = _damaged(tmp_path, [10], 0)
    head = segment._ENTRY.pack(segment._MARK, 1, 2, 7, MAX_MESSAGE_BYTES + 1, 1, 0)
    with path.open("r+b") as file:
        file.seek(0, os.SEEK_END)
        file.write(head + segment._CRC.pack(zlib.crc32(head)))
        file.truncate(file.tell() + MAX_MESSAGE_BYTES + 1)
    spool = Spool(tmp_path, 1 << 30)
    assert (spool.messages, _rest(spool)) == (1, [1])


def test_damage_that_comes_while_the_agent_runs_is_counted_too(tmp_path: Path) -> None:
    spool = _filled(tmp_path, 4)
    assert spool.head().number == 1  # type: ignore[union-attr]
    (path,) = _files(tmp_path)
    entry = ENTRY_BYTES + 40
    with path.open("r+b") as file:
        for number, offset in ((2, 0), (3, ENTRY_BYTES)):  # a header, a payload
            file.seek(FIRST_ENTRY + (number - 1) * entry + offset)
            file.write(b"\xff\xff\xff")
    assert (_rest(spool), spool.lost.spans) == ([1, 4], 2 + 3)


def test_damage_is_counted_once_however_often_agents_begin_before_it(tmp_path: Path) -> None:
    path, places = _damaged(tmp_path, [40] * 4, 0)
    whole = bytearray(path.read_bytes())
    whole[places[1][0]] ^= 0xFF  # the mark of the second entry
    path.write_bytes(whole)
    for _ in range(3):
        spool = Spool(tmp_path, ROOM)
        assert (spool.head().number, spool.lost.spans) == (1, 0)  # type: ignore[union-attr]
        spool.close()
    spool = Spool(tmp_path, ROOM)
    assert (_rest(spool), spool.lost.spans) == ([1, 3, 4], 2)


def test_a_damaged_read_position_delivers_all_again(tmp_path: Path) -> None:
    path, _ = _damaged(tmp_path, [5, 5, 5], delivered=2)
    with path.open("r+b") as file:
        file.seek(segment._POSITION_AT)
        file.write(b"\xff")
    assert _rest(Spool(tmp_path, ROOM)) == [1, 2, 3]


def test_names_sort_by_age_when_the_clock_goes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path, 2000)
    now = time.time_ns()
    for number in range(1, 6):
        monkeypatch.setattr(time, "time_ns", lambda at=now - number: at)
        spool.append(_parcel(number, 200))
    spool.close()
    assert len(_files(tmp_path)) > 1
    assert _rest(Spool(tmp_path, 2000)) == [1, 2, 3, 4, 5]


def test_batches_that_wait_for_another_endpoint_are_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = open_spool(tmp_path, "http://a:4318", ROOM)
    assert before is not None
    before.close()
    now = open_spool(tmp_path, "http://b:4318", ROOM)
    assert now is not None
    assert not caplog.records  # the former has nothing left
    now.append(_parcel(1))
    now.close()
    open_spool(tmp_path, "http://b:4318", ROOM)
    assert "another endpoint" not in caplog.text
    open_spool(tmp_path, "http://c:4318", ROOM)
    (told,) = [text for record in caplog.records if "another endpoint" in (text := record.getMessage())]
    assert told.startswith(
        f"{now.folder}: batches of another endpoint wait here (files: 1); run an agent with that --otlp-endpoint"
    )
