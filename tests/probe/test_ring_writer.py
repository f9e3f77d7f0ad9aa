"""The probe's side of the ring: layout on disk, what is dropped and counted, forks, threads, unusable directories."""

import errno
import json
import os
import shutil
import stat
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import pytest

from vtprof_probe import ring_file
from vtprof_probe.clock import read_anchor
from vtprof_probe.process_identity import parse_start_ticks, read_process_identity
from vtprof_probe.ring_file import RingSettings, ring_settings
from vtprof_probe.ring_writer import RingWriter
from vtprof_schemas import names, records

ROOT = Path(__file__).resolve().parents[2]


def make(directory: Path, capacity: int = 64, **info: object) -> RingWriter:
    return RingWriter.create(str(directory), capacity, "all", 3, info)


def slot(path: str, number: int, capacity: int = 64) -> bytes:
    start = 65536 + (number - 1) % capacity * 128
    return Path(path).read_bytes()[start : start + 128]


def counters(path: str) -> tuple[int, ...]:
    """Return closed, dropped, hook errors, probe ns, as the layout places them."""
    return struct.unpack_from("<QQQQ", Path(path).read_bytes(), 192)


def info_of(path: str) -> dict[str, object]:
    data = Path(path).read_bytes()
    _, length, crc = struct.unpack_from("<III", data, 320)
    text = data[4096 : 4096 + length]
    assert zlib.crc32(text) == crc
    document = json.loads(text)
    assert isinstance(document, dict)
    return document


def test_record_lies_in_its_slot_with_checksum_kind_and_number(tmp_path: Path) -> None:
    writer = make(tmp_path / "rings")
    for time_ns in range(65):
        writer.write(records.REQUEST_ARRIVED, 7, time_ns)
    crc, kind, flags, sequence, request, time_ns = struct.unpack_from("<IHHQQq", slot(writer.path, 65))
    assert (kind, flags, sequence, request, time_ns) == (1, 0, 65, 7, 64)
    assert crc == zlib.crc32(slot(writer.path, 65)[4:])
    assert struct.unpack_from("<Q", slot(writer.path, 2), 8) == (2,)


def test_header_names_this_process_and_is_sealed(tmp_path: Path) -> None:
    writer = make(tmp_path / "rings")
    header = Path(writer.path).read_bytes()[:128]
    magic, version, header_bytes, record_bytes, capacity, pid, rank = struct.unpack_from("<8sIIIIIi", header)
    assert (magic, version, header_bytes, record_bytes, capacity) == (b"VTPROF\x00\x01", 1, 65536, 128, 64)
    assert (pid, rank) == (os.getpid(), 3)
    assert struct.unpack_from("<I", header, 124)[0] == zlib.crc32(header[:124])
    ticks = Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19]
    assert Path(writer.path).name == f"{os.getpid()}-{ticks}.ring"


def test_directory_and_file_are_for_the_owner_alone_and_no_temporary_is_left(tmp_path: Path) -> None:
    writer = make(tmp_path / "rings")
    assert stat.S_IMODE((tmp_path / "rings").stat().st_mode) == 0o700
    assert stat.S_IMODE(Path(writer.path).stat().st_mode) == 0o600
    assert [path.name for path in (tmp_path / "rings").iterdir()] == [Path(writer.path).name]


def test_named_group_may_read_and_steer(tmp_path: Path) -> None:
    settings = RingSettings(str(tmp_path / "rings"), 64, os.getgid())
    writer = RingWriter(settings, "all", 0, {})
    assert writer.reason == ""
    assert stat.S_IMODE((tmp_path / "rings").stat().st_mode) == 0o2770
    assert stat.S_IMODE(Path(writer.path).stat().st_mode) == 0o660


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (records.REQUEST_ARRIVED, (-1, 5)),
        (records.REQUEST_ARRIVED, (None, 5)),
        (records.REQUEST_ARRIVED, (1,)),
        (records.REQUEST_ARRIVED, (1, 2**63)),
        (records.REQUEST_LABEL, (1, 97, b"x" * 97)),
        (records.REQUEST_LABEL, (1, 3, "abc")),
        (records.REQUEST_PARENT, (1, b"t" * 16, b"s" * 9, 1)),
        (None, (1, 2)),
    ],
)
def test_values_that_do_not_fit_are_dropped_counted_and_leave_no_hole(
    tmp_path: Path, kind: records.RecordKind, values: tuple[object, ...]
) -> None:
    writer = make(tmp_path / "rings")
    writer.write(kind, *values)
    writer.write(records.REQUEST_ARRIVED, 1, 2)
    assert counters(writer.path)[1] == 1
    void = slot(writer.path, 1)
    assert struct.unpack_from("<IHHQ", void) == (zlib.crc32(void[4:]), 0, 0, 1)
    assert struct.unpack_from("<Q", slot(writer.path, 2), 8) == (2,)


def test_two_threads_write_each_record_once(tmp_path: Path) -> None:
    writer = make(tmp_path / "rings", 32768)
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        work = [
            threading.Thread(
                target=lambda t=t: [writer.write(records.REQUEST_ARRIVED, t, n) for n in range(16384)]
            )
            for t in (1, 2)
        ]
        for thread in work:
            thread.start()
        for thread in work:
            thread.join()
    finally:
        sys.setswitchinterval(switch)
    data = Path(writer.path).read_bytes()[65536:]
    rows = list(struct.iter_unpack("<IHHQQq96x", data))
    assert [row[3] for row in rows] == list(range(1, 32769))
    for thread_number in (1, 2):
        assert [row[5] for row in rows if row[4] == thread_number] == list(range(16384))


def run_in_child(writer: RingWriter, write: "object") -> None:
    child = os.fork()
    if child == 0:
        try:
            write(writer)  # type: ignore[operator]
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def test_forked_child_writes_into_a_ring_of_its_own(tmp_path: Path) -> None:
    writer = make(tmp_path / "rings")
    write = writer.write  # kept by a hook before the fork
    write(records.REQUEST_ARRIVED, 1, 10)
    before = Path(writer.path).read_bytes()
    run_in_child(
        writer,
        lambda ring: (write(records.REQUEST_ARRIVED, 2, 20), ring.write(records.REQUEST_ARRIVED, 3, 30)),
    )
    assert Path(writer.path).read_bytes() == before
    (other,) = [path for path in (tmp_path / "rings").iterdir() if str(path) != writer.path]
    assert struct.unpack_from("<Q", slot(str(other), 1), 16) == (2,)
    assert struct.unpack_from("<Q", slot(str(other), 2), 16) == (3,)
    assert struct.unpack_from("<I", other.read_bytes(), 24)[0] == int(other.name.split("-")[0]) != os.getpid()


def test_forked_child_that_records_nothing_leaves_no_file(tmp_path: Path) -> None:
    writer = make(tmp_path / "rings")
    before = Path(writer.path).read_bytes()
    run_in_child(
        writer, lambda ring: (ring.control(), ring.refresh_anchor(), ring.add_probe_ns(5), ring.close())
    )
    assert Path(writer.path).read_bytes() == before
    assert len(list((tmp_path / "rings").iterdir())) == 1


def test_grandchild_gets_a_ring_though_its_parent_recorded_nothing(tmp_path: Path) -> None:
    writer = make(tmp_path / "rings")
    run_in_child(
        writer, lambda ring: run_in_child(ring, lambda inner: inner.write(records.REQUEST_ARRIVED, 9, 9))
    )
    assert len(list((tmp_path / "rings").iterdir())) == 2


def test_close_marks_the_end_and_later_records_go_nowhere(tmp_path: Path) -> None:
    writer = make(tmp_path / "rings")
    writer.close()
    before = Path(writer.path).read_bytes()
    writer.write(records.REQUEST_ARRIVED, 1, 2)
    writer.close()
    (path,) = (tmp_path / "rings").iterdir()
    assert path.read_bytes() == before
    assert counters(str(path))[0] == 1


def test_second_ring_of_a_process_gets_another_name(tmp_path: Path) -> None:
    first, second = make(tmp_path / "rings"), make(tmp_path / "rings")
    assert Path(second.path).name == Path(first.path).stem + "-1.ring"


def test_control_word_is_read_and_unknown_bits_ignored(tmp_path: Path) -> None:
    writer = make(tmp_path / "rings")
    assert writer.control() == (3, False)
    with Path(writer.path).open("r+b") as file:
        file.seek(128)
        file.write(struct.pack("<Q", 0xFFFF_FFFF_FFFF_FEF1))
    assert writer.control() == (1, False)
    with Path(writer.path).open("r+b") as file:
        file.seek(128)
        file.write(struct.pack("<Q", 0x100))
    assert writer.control() == (0, True)


def test_probe_time_and_hook_errors_are_summed(tmp_path: Path) -> None:
    writer = make(tmp_path / "rings")
    writer.add_probe_ns(40)
    writer.add_probe_ns(2)
    writer.count_hook_error()
    assert counters(writer.path) == (0, 0, 1, 42)


def test_info_is_json_and_its_version_grows(tmp_path: Path) -> None:
    writer = RingWriter.create(str(tmp_path), 64, "all", 0, {names.SERVICE_NAME: "é", names.HW_ID: None})
    assert info_of(writer.path) == {names.SERVICE_NAME: "é"}
    writer.set_info({names.SERVICE_NAME: "b"})
    assert struct.unpack_from("<I", Path(writer.path).read_bytes(), 320) == (2,)


def test_info_that_does_not_fit_loses_its_largest_values_and_says_how_many(tmp_path: Path) -> None:
    info = {names.SERVICE_NAME: "s", names.MODEL_CONFIG: "m" * 70_000, names.ENGINE_CONFIG: "e" * 60_000}
    writer = RingWriter.create(str(tmp_path), 64, "all", 0, info)
    kept = info_of(writer.path)
    assert kept == {names.SERVICE_NAME: "s", names.ENGINE_CONFIG: "e" * 60_000, names.INFO_TRUNCATED: 1}
    writer.set_info({**info, names.KV_DTYPE: "k" * 60_000})
    assert info_of(writer.path)[names.INFO_TRUNCATED] == 2


def test_info_that_is_no_json_is_counted_and_the_old_stays(tmp_path: Path) -> None:
    writer = RingWriter.create(str(tmp_path), 64, "all", 0, {names.SERVICE_NAME: "a"})
    circle: dict[str, object] = {}
    circle["self"] = circle
    writer.set_info({names.MODEL_CONFIG: circle})
    assert info_of(writer.path) == {names.SERVICE_NAME: "a"}
    assert counters(writer.path)[2] == 1


def test_anchor_takes_the_narrowest_bracket() -> None:
    # Brackets 0..100, 200..210, 300..400, …: the second is the narrowest, its middle is 205.
    monotonic = iter([0, 100, 200, 210, 300, 400, 500, 600, 700, 800])
    wall = iter([1, 2, 3, 4, 5])
    assert read_anchor(lambda: next(monotonic), lambda: next(wall)) == (205, 2)


def test_directory_that_cannot_be_made_leaves_an_inert_writer_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    writer = make(tmp_path / "file" / "rings")
    writer.write(records.REQUEST_ARRIVED, 1, 2)
    writer.set_info({names.SERVICE_NAME: "x" * 100_000})
    writer.refresh_anchor()
    writer.close()
    assert writer.control() == (3, False)
    assert "rings" in make(tmp_path / "file" / "rings").reason


def test_full_tmpfs_fails_at_creation_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(ring_file.os, "posix_fallocate", full)
    writer = make(tmp_path / "rings")
    assert "No space left" in writer.reason
    writer.write(records.REQUEST_ARRIVED, 1, 2)
    assert list((tmp_path / "rings").iterdir()) == []


def test_memory_of_the_ring_is_reserved_when_it_is_made(tmp_path: Path) -> None:
    writer = make(tmp_path / "rings", 4096)
    status = Path(writer.path).stat()
    assert status.st_blocks * 512 >= status.st_size == 65536 + 4096 * 128


def test_directory_open_to_everybody_or_behind_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    assert "sticky" in make(tmp_path / "open").reason
    (tmp_path / "open").chmod(0o1777)
    assert make(tmp_path / "open").reason == ""
    (tmp_path / "link").symlink_to(tmp_path / "open")
    assert make(tmp_path / "link").reason != ""


def test_directory_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rings").mkdir()
    monkeypatch.setattr(ring_file.os, "geteuid", lambda: os.getuid() + 1)
    assert "belongs to user" in make(tmp_path / "rings").reason
    shared = RingSettings(str(tmp_path / "rings"), 64, (tmp_path / "rings").stat().st_gid)
    assert RingWriter(shared, "all", 0, {}).reason == ""


def test_environment_sets_directory_size_and_group() -> None:
    environ = {"VTPROF_RING_DIR": "/a/b", "VTPROF_RING_RECORDS": "128", "VTPROF_RING_GROUP": "1234"}
    assert ring_settings(environ) == RingSettings("/a/b", 128, 1234, 0)
    assert ring_settings({}) == RingSettings("/dev/shm/vtprof", 65536, None, 0)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("VTPROF_RING_DIR", "relative/path"),
        ("VTPROF_RING_RECORDS", "many"),
        ("VTPROF_RING_RECORDS", "100"),
        ("VTPROF_RING_RECORDS", "-64"),
        ("VTPROF_RING_RECORDS", "33554432"),
        ("VTPROF_RING_GROUP", "no such group"),
        ("VTPROF_RING_GROUP", "-5"),
    ],
)
def test_bad_environment_value_is_counted_and_the_default_stands(key: str, value: str) -> None:
    assert ring_settings({key: value}) == RingSettings(faults=1)


def test_faults_of_the_environment_reach_the_ring(tmp_path: Path) -> None:
    environ = {"VTPROF_RING_DIR": str(tmp_path), "VTPROF_RING_RECORDS": "7", "VTPROF_RING_GROUP": "?"}
    writer = RingWriter.from_environment(environ, "all", 0, {})
    assert counters(writer.path)[2] == 2
    writer.close()


def test_start_time_is_found_behind_any_process_name(tmp_path: Path) -> None:
    tail = "S " + " ".join(str(number) for number in range(4, 53))
    assert parse_start_ticks(f"77 (a) b) (c) {tail}".encode()) == 22
    assert parse_start_ticks(b"") == 0
    (tmp_path / "self").mkdir()
    (tmp_path / "self/stat").write_text(f"77 (x) {tail}")
    (tmp_path / "sys/kernel/random").mkdir(parents=True)
    (tmp_path / "sys/kernel/random/boot_id").write_text("00112233-4455-6677-8899-aabbccddeeff\n")
    identity = read_process_identity(str(tmp_path))
    assert identity == (os.getpid(), 22, bytes.fromhex("00112233445566778899aabbccddeeff"), 0)
    assert read_process_identity(str(tmp_path / "absent")) == (os.getpid(), 0, bytes(16), 0)


def interpreter(version: str) -> str:
    found = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}"))
    path = str(found[-1]) if found else shutil.which(f"python{version}")
    works = path and subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0
    if not path or not works:
        pytest.skip(f"python{version} is not installed")
    return path


@pytest.mark.parametrize("version", ["3.9", "3.13", "3.14"])
def test_ring_of_another_interpreter_is_read_here(tmp_path: Path, version: str) -> None:
    reading = pytest.importorskip("vtprof_agent.inbox.ring_reader")
    script = (
        "from vtprof_probe.ring_writer import RingWriter; from vtprof_schemas import records as r, names\n"
        f"w = RingWriter.create({str(tmp_path)!r}, 64, 'all', 0, {{names.SERVICE_NAME: 'far'}})\n"
        "for n in range(1, 41): w.write(r.REQUEST_FINISHED, n, n * 10, 0, n)\n"
        "w.close(); print(w.reason)"
    )
    path = f"{ROOT / 'agent'}:{ROOT / 'schemas'}"
    subprocess.run([interpreter(version), "-c", script], check=True, env={"PYTHONPATH": path})
    reader = reading.RingReader.open(next(tmp_path.glob("*.ring")))
    values = [record.values for record in reader.decoded(reader.read(100))]
    assert values == [(n, n * 10, 0, n) for n in range(1, 41)]
    assert reader.info().values == {names.SERVICE_NAME: "far"}
    assert reader.state().closed
    reader.close()
