"""Finding rings, telling the living from the dead, clearing up, and cursors that outlive the agent."""

import os
import shutil
from pathlib import Path

import pytest

from vtprof_agent.inbox.cursors import CursorStore
from vtprof_agent.inbox.discovery import (
    Liveness,
    RingDirectory,
    process_alive,
    remove_ring,
    remove_temporary,
)
from vtprof_agent.inbox.ring_header import RingIdentity
from vtprof_agent.inbox.ring_reader import RingReader
from vtprof_probe.ring_writer import RingWriter
from vtprof_schemas.errors import BackendError

BOOT = bytes(range(16))
NOW_S = 1e9
BOOT_TEXT = "00010203-0405-0607-0809-0a0b0c0d0e0f"


def proc(root: Path, pid: int = 0, start_ticks: int = 0, state: str = "S", threads: int = 1) -> Path:
    """Make a /proc with this boot's id, a PID namespace, and one process."""
    (root / "sys/kernel/random").mkdir(parents=True)
    (root / "sys/kernel/random/boot_id").write_text(BOOT_TEXT + "\n")
    (root / "self/ns").mkdir(parents=True)
    (root / "self/ns/pid").write_text("")
    if pid:
        (root / str(pid)).mkdir()
        numbers = " ".join(["0"] * 18)
        (root / str(pid) / "stat").write_text(f"{pid} (py) x) {state} {numbers} {start_ticks} 0 0\n")
        for thread in range(threads):
            (root / str(pid) / "task" / str(pid + thread)).mkdir(parents=True)
    return root


def identity(root: Path, pid: int = 40, start_ticks: int = 700, boot_id: bytes = BOOT) -> RingIdentity:
    namespace = (root / "self/ns/pid").stat().st_ino
    return RingIdentity(boot_id, pid, start_ticks, namespace, "all", 0, 1)


def test_running_process_is_alive(tmp_path: Path) -> None:
    root = proc(tmp_path, 40, 700)
    assert process_alive(identity(root), root) is Liveness.ALIVE


def test_absent_process_later_process_and_zombie_are_dead(tmp_path: Path) -> None:
    absent, reused, zombie = (tmp_path / name for name in "abc")
    assert process_alive(identity(proc(absent)), absent) is Liveness.DEAD
    assert process_alive(identity(proc(reused, 40, 900)), reused) is Liveness.DEAD
    assert process_alive(identity(proc(zombie, 40, 700, "Z")), zombie) is Liveness.DEAD


def test_ended_main_thread_with_others_running_is_alive(tmp_path: Path) -> None:
    root = proc(tmp_path, 40, 700, "Z", threads=2)
    assert process_alive(identity(root), root) is Liveness.ALIVE


def test_process_of_an_earlier_boot_is_dead(tmp_path: Path) -> None:
    root = proc(tmp_path, 40, 700)
    assert process_alive(identity(root, boot_id=b"x" * 16), root) is Liveness.DEAD


def test_process_of_another_pid_namespace_is_unknown(tmp_path: Path) -> None:
    root = proc(tmp_path)
    for namespace in (0, 12345):
        elsewhere = RingIdentity(BOOT, 40, 700, namespace, "all", 0, 1)
        assert process_alive(elsewhere, root) is Liveness.UNKNOWN


def test_unreadable_proc_is_unknown(tmp_path: Path) -> None:
    root = proc(tmp_path, 40, 700)
    (root / "40/stat").write_text("garbage")
    assert process_alive(identity(root), root) is Liveness.UNKNOWN
    assert process_alive(identity(root), tmp_path / "absent") is Liveness.UNKNOWN


def test_this_very_process_is_alive_by_the_real_proc(tmp_path: Path) -> None:
    writer = RingWriter.create(str(tmp_path / "rings"), 64, "all", 0, {})
    reader = RingReader.open(Path(writer.path))
    assert process_alive(reader.identity) is Liveness.ALIVE
    assert not remove_ring(reader.path)
    reader.close()


def test_scan_lists_sound_rings_and_reports_a_faulty_file_once(tmp_path: Path) -> None:
    writers = [RingWriter.create(str(tmp_path), 64, "all", 0, {}) for _ in range(2)]
    (tmp_path / "1-1.ring").write_bytes(b"nonsense")
    (tmp_path / "2-2.ring").symlink_to(writers[0].path)
    (tmp_path / "3-3.ring").mkdir()
    (tmp_path / ".hidden.ring").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("no ring")
    directory = RingDirectory(tmp_path)
    scan = directory.scan()
    assert scan.rings == tuple(sorted(Path(writer.path) for writer in writers))
    assert [problem.split(":")[0] for problem in scan.problems] == [
        str(tmp_path / name) for name in ("1-1.ring", "2-2.ring", "3-3.ring")
    ]
    assert directory.scan().problems == ()
    assert directory.scan().rings == scan.rings


def test_a_second_name_and_a_copy_of_a_ring_are_said_once_and_not_read(tmp_path: Path) -> None:
    ring = Path(RingWriter.create(str(tmp_path), 64, "all", 0, {}).path)
    link, copy = tmp_path / "0.ring", ring.with_name(ring.stem + "-copy.ring")  # both sort before the ring
    os.link(ring, link)
    shutil.copy(ring, copy)
    directory = RingDirectory(tmp_path)
    scan = directory.scan()
    assert scan.rings == (ring,)
    why = f"another name of the ring {ring.name}, or a copy of it, and is not read; remove it"
    assert sorted(scan.problems) == sorted(f"{path}: {why}" for path in (link, copy))
    assert directory.scan().problems == ()
    ring.unlink()
    assert directory.scan().rings == (), "what it holds was read under its first name"
    link.unlink()
    copy.unlink()
    another = Path(RingWriter.create(str(tmp_path), 64, "all", 0, {}).path)
    assert directory.scan().rings == (another,)


def test_a_ring_that_has_another_name_only_is_read_under_that(tmp_path: Path) -> None:
    ring = Path(RingWriter.create(str(tmp_path), 64, "all", 0, {}).path)
    moved = ring.rename(tmp_path / "moved.ring")
    directory = RingDirectory(tmp_path)
    assert directory.scan().rings == (moved,)
    os.link(moved, ring)
    assert directory.scan().rings == (moved,), "as long as it has that"


def test_directory_that_does_not_exist_yet_is_empty(tmp_path: Path) -> None:
    directory = RingDirectory(tmp_path / "later")
    assert directory.scan().rings == directory.scan().problems == ()
    writer = RingWriter.create(str(tmp_path / "later"), 64, "all", 0, {})
    assert directory.scan().rings == (Path(writer.path),)


def test_directory_that_is_a_file_is_reported_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    directory = RingDirectory(tmp_path / "file")
    assert len(directory.scan().problems) == 1
    assert directory.scan().problems == ()


def test_the_closed_ring_of_a_living_process_is_removed(tmp_path: Path) -> None:
    writer = RingWriter.create(str(tmp_path / "rings"), 64, "all", 0, {})
    path = Path(writer.path)
    assert not remove_ring(path)
    writer.close()
    assert remove_ring(path)
    assert not path.exists()


def test_an_open_ring_is_removed_only_if_its_process_is_dead(tmp_path: Path) -> None:
    writer = RingWriter.create(str(tmp_path / "rings"), 64, "all", 0, {})
    other_boot = proc(tmp_path / "proc")
    stray = tmp_path / "rings" / "9-9.ring"
    stray.write_bytes(b"mine")
    link = tmp_path / "rings" / "8-8.ring"
    link.symlink_to(writer.path)
    assert not remove_ring(Path(writer.path))
    assert not remove_ring(stray, other_boot)
    assert not remove_ring(link, other_boot)
    assert remove_ring(Path(writer.path), other_boot)
    assert sorted(path.name for path in stray.parent.iterdir()) == ["8-8.ring", "9-9.ring"]


def _half_made(folder: Path, name: str, age_s: float) -> Path:
    path = folder / name
    path.write_bytes(b"half a ring")
    os.utime(path, (NOW_S - age_s,) * 2)
    return path


def test_a_half_made_ring_is_removed_when_it_is_old_and_no_process_of_its_name_runs(tmp_path: Path) -> None:
    root = proc(tmp_path / "proc", 40, 700)
    gone = _half_made(tmp_path, ".41-700-9.tmp", 3600)
    reused = _half_made(tmp_path, ".40-699-9.tmp", 3600)
    alive = _half_made(tmp_path, ".40-700-9.tmp", 3600)
    young = _half_made(tmp_path, ".41-700-8.tmp", 299)
    linked = _half_made(tmp_path, "notes", 3600)
    link = tmp_path / ".41-700-7.tmp"
    link.symlink_to(linked)
    others = [_half_made(tmp_path, name, 3600) for name in (".41-700.tmp", "41-700-9.tmp", ".41-700-9.tmp.x")]
    found = RingDirectory(tmp_path).scan().temporaries
    assert set(found) == {gone, reused, alive, young, link}
    removed = {path for path in (*found, *others) if remove_temporary(path, int(NOW_S * 1e9), root)}
    assert removed == {gone, reused}
    assert not gone.exists() and alive.exists() and young.exists() and linked.exists()


def test_a_half_made_ring_stays_when_its_writer_cannot_be_seen_or_it_is_another_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _half_made(tmp_path, ".40-700-9.tmp", 3600)
    root = proc(tmp_path / "proc", 40, 700)
    (root / "40/stat").write_text("garbage")
    assert not remove_temporary(path, int(NOW_S * 1e9), root)
    assert not remove_temporary(path, int(NOW_S * 1e9), tmp_path / "absent")
    (root / "40/stat").unlink()
    with monkeypatch.context() as patch:
        patch.setattr("vtprof_agent.inbox.discovery.os.geteuid", lambda: os.getuid() + 1)
        assert not remove_temporary(path, int(NOW_S * 1e9), root)
    assert remove_temporary(path, int(NOW_S * 1e9), root)


def test_ring_of_another_user_is_not_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = RingWriter.create(str(tmp_path / "rings"), 64, "all", 0, {})
    root = proc(tmp_path / "proc")
    monkeypatch.setattr("vtprof_agent.inbox.discovery.os.geteuid", lambda: os.getuid() + 1)
    assert not remove_ring(Path(writer.path), root)


def test_cursors_survive_a_restart(tmp_path: Path) -> None:
    store = CursorStore(tmp_path / "state" / "cursors.json")
    assert (store.get("a"), store.problem) == (None, None)
    store.set("a", 41)
    store.set("b", 1)
    store.forget("b")
    store.save(durable=True)
    again = CursorStore(store.path)
    assert (again.get("a"), again.get("b"), again.problem) == (41, None, None)
    assert [path.name for path in store.path.parent.iterdir()] == ["cursors.json"]


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"\xff", b'{"version": 1}', b'{"version": 9, "cursors": {}}', b"[" * 100_000]
    + [b'{"version": 1, "cursors": {"a": %s}}' % value for value in (b"0", b"-1", b"true", b'"5"', b"1.5")],
)
def test_broken_cursor_file_starts_anew_and_says_so(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "cursors.json"
    path.write_bytes(text)
    store = CursorStore(path)
    assert store.problem is not None and str(path) in store.problem
    assert store.get("a") is None
    store.set("a", 5)
    store.save()
    assert CursorStore(path).get("a") == 5


def test_an_entry_that_cannot_be_costs_itself_alone(tmp_path: Path) -> None:
    path = tmp_path / "cursors.json"
    odd = f'"high": {2**62 + 1}, "long": {"9" * 5000}, "text": "x"'
    path.write_text(f'{{"version": 1, "cursors": {{"good": 5, {odd}}}}}')
    store = CursorStore(path)
    assert [store.get(ring) for ring in ("good", "high", "long", "text")] == [5, None, None, None]
    assert store.problem == f"{path}: 3 stored numbers cannot be used and are left out, as high = {2**62 + 1}"


@pytest.mark.parametrize("number", [2**63, 2**62 + 1, 0, -888, 10**400])
def test_nothing_is_stored_that_the_next_agent_cannot_load(tmp_path: Path, number: int) -> None:
    store = CursorStore(tmp_path / "cursors.json")
    store.set("good", 5)
    store.set("odd", number)
    store.save()
    again = CursorStore(store.path)
    assert (again.problem, again.get("good"), again.get("odd")) == (None, 5, 2**62 if number > 1 else 1)


def test_cursors_that_cannot_be_stored_are_an_error_naming_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BackendError, match=r"file/cursors\.json"):
        CursorStore(tmp_path / "file" / "cursors.json").save()


def test_ring_shared_with_our_group_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = RingWriter.create(str(tmp_path / "rings"), 64, "all", 0, {})
    path = Path(writer.path)
    path.chmod(0o660)
    monkeypatch.setattr("vtprof_agent.inbox.discovery.os.geteuid", lambda: os.getuid() + 1)
    assert remove_ring(path, proc(tmp_path / "proc"))


def test_ring_of_an_unseen_process_is_removed_once_its_writer_closed_it(tmp_path: Path) -> None:
    writer = RingWriter.create(str(tmp_path / "rings"), 64, "all", 0, {})
    path, unseen = Path(writer.path), tmp_path / "no-proc"
    assert not remove_ring(path, unseen)
    writer.close()
    assert remove_ring(path, unseen)
