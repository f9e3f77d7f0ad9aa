"""The agent's side of the ring: round trips, corruption, torn writes, holes, overwriting, and files made by an enemy."""

import os
import struct
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vtprof_agent.inbox.decoder import decode
from vtprof_agent.inbox.ring_header import RingFile, RingState, parse_info
from vtprof_agent.inbox.ring_reader import Batch, RingReader
from vtprof_probe.ring_writer import RingWriter
from vtprof_schemas import names, records
from vtprof_schemas.errors import BackendError

CAPACITY = 64
GRACE_NS = 1000
LIMITS = {
    "Q": (0, 2**64 - 1),
    "q": (-(2**63), 2**63 - 1),
    "i": (-(2**31), 2**31 - 1),
    "B": (0, 255),
    "H": (0, 96),
}
QUICK = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Clock:
    now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


class Ring:
    """A ring under test, written by the probe's writer or byte by byte."""

    def __init__(self, directory: Path) -> None:
        self.writer = RingWriter.create(str(directory), CAPACITY, "worker", 2, {names.SERVICE_NAME: "s"})
        self.path = Path(self.writer.path)
        self.clock = Clock()
        self.reader = RingReader.open(self.path, GRACE_NS, self.clock)

    def poke(self, offset: int, data: bytes) -> None:
        with self.path.open("r+b") as file:
            file.seek(offset)
            file.write(data)

    def put(self, number: int, record: bytes) -> None:
        self.poke(65536 + (number - 1) % CAPACITY * 128, record)

    def write(self, count: int) -> None:
        for _ in range(count):
            self.writer.write(records.REQUEST_ARRIVED, 1, 2)


@pytest.fixture
def ring(tmp_path: Path) -> Iterator[Ring]:
    made = Ring(tmp_path / "rings")
    yield made
    made.reader.close()


def record(number: int, code: int = 1) -> bytes:
    """Build a record by hand, as the layout describes it; no byte of its payload is that of another number's."""
    body = struct.pack("<HHQ112s", code, 0, number, bytes([number % 251 + 1]) * 112)
    return struct.pack("<I", zlib.crc32(body)) + body


def numbers(batch: Batch) -> list[int]:
    return [struct.unpack_from("<Q", batch.raw, start + 8)[0] for start in range(0, len(batch.raw), 128)]


def fate(batch: Batch) -> tuple[list[int], int, int, int]:
    return numbers(batch), batch.lost, batch.torn, batch.voided


def field(kind: records.RecordKind, name: str, fmt: str) -> st.SearchStrategy[object]:
    if fmt.endswith("s"):
        return st.binary(min_size=int(fmt[:-1]), max_size=int(fmt[:-1]))
    low, high = LIMITS[fmt]
    if (kind, name) == (records.TRANSFER, "kind"):
        low, high = 0, 1
    if (kind, name) == (records.REQUEST_FINISHED, "status"):
        low, high = 0, 3
    return st.integers(low, high)


RECORDS = st.sampled_from(sorted(records.KINDS.values(), key=lambda kind: kind.code)).flatmap(
    lambda kind: st.tuples(
        st.just(kind), st.tuples(*(field(kind, name, fmt) for name, fmt, _ in kind.fields))
    )
)


@pytest.mark.parametrize("kind", list(records.KINDS.values()), ids=lambda kind: str(kind.name))
@QUICK
@given(data=st.data())
def test_every_kind_comes_back_as_it_was_written(
    ring: Ring, kind: records.RecordKind, data: st.DataObject
) -> None:
    values = data.draw(st.tuples(*(field(kind, name, fmt) for name, fmt, _ in kind.fields)))
    ring.writer.write(kind, *values)
    (got,) = ring.reader.decoded(ring.reader.read(10))
    assert (got.kind, got.sequence, got.values) == (kind, ring.reader.cursor - 1, values)


@QUICK
@given(runs=st.lists(st.tuples(st.lists(RECORDS, max_size=40), st.integers(1, 50)), max_size=6))
def test_any_mix_of_writes_and_reads_delivers_in_order_and_accounts_for_all(
    ring: Ring, runs: list[tuple[list[tuple[records.RecordKind, tuple[object, ...]]], int]]
) -> None:
    start = ring.reader.cursor
    written: list[tuple[records.RecordKind, tuple[object, ...]]] = []
    lost = count = 0
    for to_write, max_records in [*runs, ([], 10**6)]:
        for kind, values in to_write:
            ring.writer.write(kind, *values)
        written += to_write
        batch = ring.reader.read(max_records)
        assert batch.count <= max_records
        for got in ring.reader.decoded(batch):
            assert (got.kind, got.values) == written[got.sequence - start]
        lost += batch.lost
        count += batch.count
        assert batch.torn == batch.voided == 0
    assert count + lost == len(written) == ring.reader.cursor - start


def test_every_changed_byte_of_a_record_is_detected(ring: Ring) -> None:
    good = record(1)
    for place in range(128):
        for flip in (0x01, 0x80, 0xFF):
            bad = bytearray(good)
            bad[place] ^= flip
            ring.put(1, bytes(bad))
            assert fate(ring.reader.read(10)) == ([], 0, 0, 0)
    ring.put(1, good)
    assert fate(ring.reader.read(10)) == ([1], 0, 0, 0)


@pytest.mark.parametrize("old", [bytes(128), record(1)], ids=["empty slot", "older record"])
def test_write_torn_at_any_byte_is_waited_for_and_never_read(ring: Ring, old: bytes) -> None:
    for number in range(1, CAPACITY + 1):
        ring.put(number, record(number))
    ring.reader.read(CAPACITY)
    new = record(CAPACITY + 1)
    for length in range(128):
        ring.put(CAPACITY + 1, new[:length] + old[length:])
        if new[:length] + old[length:] != new:
            assert fate(ring.reader.read(10)) == ([], 0, 0, 0)
    ring.put(CAPACITY + 1, new)
    assert numbers(ring.reader.read(10)) == [CAPACITY + 1]


def test_hole_is_waited_for_and_filled(ring: Ring) -> None:
    for number in (1, 3, 4):
        ring.put(number, record(number))
    assert fate(ring.reader.read(10)) == ([1], 0, 0, 0)
    ring.clock.now_ns = GRACE_NS - 1
    assert fate(ring.reader.read(10)) == ([], 0, 0, 0)
    ring.put(2, record(2))
    assert fate(ring.reader.read(10)) == ([2, 3, 4], 0, 0, 0)


def test_hole_is_given_up_as_torn_after_the_grace(ring: Ring) -> None:
    for number in (1, 4):
        ring.put(number, record(number))
    ring.clock.now_ns = 500
    assert fate(ring.reader.read(10)) == ([1], 0, 0, 0)
    ring.clock.now_ns = 500 + GRACE_NS
    assert fate(ring.reader.read(10)) == ([4], 0, 2, 0)


def test_end_of_the_records_is_no_hole_however_long_nothing_comes(ring: Ring) -> None:
    ring.write(2)
    assert numbers(ring.reader.read(10)) == [1, 2]
    ring.clock.now_ns = 100 * GRACE_NS
    assert fate(ring.reader.read(10)) == ([], 0, 0, 0)
    ring.write(1)
    assert numbers(ring.reader.read(10)) == [3]


@pytest.mark.parametrize("closed", [True, False])
def test_hole_of_a_writer_that_is_gone_is_torn_at_once(ring: Ring, closed: bool) -> None:
    for number in (1, 3, 60):
        ring.put(number, record(number))
    ring.put(61, record(61)[:40] + bytes(88))
    if closed:
        ring.writer.close()
    batch = ring.reader.read(100, writer_gone=not closed)
    assert fate(batch) == ([1, 3, 60], 0, 1 + 56 + 1, 0)
    assert ring.reader.read(100, writer_gone=not closed).passed == 0


def test_overwritten_records_are_counted_and_the_rest_is_read(ring: Ring) -> None:
    ring.write(10)
    assert numbers(ring.reader.read(100)) == list(range(1, 11))
    ring.write(190)
    # 200 written, 64 kept: 137..200; an eighth (8) of margin is given up as well.
    batch = ring.reader.read(100)
    assert fate(batch) == (list(range(145, 201)), 134, 0, 0)
    assert (batch.first_sequence, batch.last_sequence, batch.passed) == (11, 200, 190)


def test_exactly_one_ring_behind_nothing_is_lost(ring: Ring) -> None:
    ring.write(CAPACITY)
    assert fate(ring.reader.read(100)) == (list(range(1, CAPACITY + 1)), 0, 0, 0)


def test_record_that_could_not_be_packed_is_passed_and_counted(ring: Ring) -> None:
    ring.write(1)
    ring.writer.write(records.REQUEST_ARRIVED, -1, 0)
    ring.write(1)
    assert fate(ring.reader.read(100)) == ([1, 3], 0, 0, 1)
    assert ring.reader.state().dropped == 1


def test_reader_goes_on_from_a_stored_cursor_and_reports_the_gap(ring: Ring) -> None:
    ring.write(100)
    ring.reader.seek(31)
    # 37..100 are kept, of them 45..100 are read.
    assert fate(ring.reader.read(100)) == (list(range(45, 101)), 14, 0, 0)
    ring.reader.seek(10**9)
    assert ring.reader.cursor == 101


def test_unknown_kinds_and_absurd_values_are_counted(ring: Ring) -> None:
    ring.put(1, record(1, code=999))
    ring.writer.write(records.REQUEST_ARRIVED, 0, 0)  # number 1: overwritten below
    ring.put(1, record(1, code=999))
    ring.writer.write(records.REQUEST_LABEL, 1, 97, b"x")
    ring.writer.write(records.REQUEST_FINISHED, 1, 2, 4, 5)
    ring.writer.write(records.TRANSFER, 1, 2, 3, 4, -1)
    ring.write(1)
    decoded = list(ring.reader.decoded(ring.reader.read(10)))
    assert [one.sequence for one in decoded] == [5]
    assert ring.reader.undecoded == 4


@QUICK
@given(st.binary(min_size=128, max_size=128))
def test_no_record_makes_decoding_fail(data: bytes) -> None:
    decode(data)


@QUICK
@given(place=st.integers(0, CAPACITY - 1), number=st.integers(0, 2**64 - 1), gone=st.booleans())
def test_forged_numbers_neither_crash_nor_hang_the_reader(
    ring: Ring, place: int, number: int, gone: bool
) -> None:
    body = struct.pack("<HHQ112x", 1, 0, number)
    ring.put(place + 1, struct.pack("<I", zlib.crc32(body)) + body)
    reader = RingReader.open(ring.path, 0, ring.clock)
    for _ in range(3):
        batch = reader.read(1000, writer_gone=gone)
        assert batch.count + batch.lost + batch.torn + batch.voided == batch.passed
    reader.close()


@QUICK
@given(offset=st.integers(0, 255), data=st.binary(min_size=1, max_size=64))
def test_damaged_header_is_refused_with_file_and_field_or_harmless(
    ring: Ring, offset: int, data: bytes
) -> None:
    before = ring.path.read_bytes()
    ring.poke(offset, data)
    try:
        reader = RingReader.open(ring.path)
    except BackendError as error:
        assert str(ring.path) in str(error) and "\n" not in str(error)
    else:
        assert ring.path.read_bytes()[:128] == before[:128]
        reader.state()
        reader.close()
    ring.path.write_bytes(before)


@QUICK
@given(data=st.binary(max_size=400))
def test_random_bytes_are_no_ring(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.ring"
    for size in (len(data), 65536, 65536 + 64 * 128):
        path.write_bytes(data.ljust(size, b"\0"))
        with pytest.raises(BackendError, match=r"x\.ring"):
            RingReader.open(path)


@pytest.mark.parametrize(
    ("offset", "value", "named"),
    [
        (0, b"ELF", "magic"),
        (8, struct.pack("<I", 2), "layout version"),
        (12, struct.pack("<I", 4096), "header bytes"),
        (16, struct.pack("<I", 64), "record bytes"),
        (20, struct.pack("<I", 65), "capacity"),
        (20, struct.pack("<I", 2**31), "capacity"),
        (20, struct.pack("<I", 2**21), "capacity"),
        (20, struct.pack("<I", 128), "file size"),
        (72, b"\xff", "role"),
    ],
)
def test_refusal_names_the_field(ring: Ring, offset: int, value: bytes, named: str) -> None:
    ring.poke(offset, value)
    header = ring.path.read_bytes()[:124]
    ring.poke(124, struct.pack("<I", zlib.crc32(header)))
    with pytest.raises(BackendError, match=f"header's {named}"):
        RingReader.open(ring.path)


def test_links_folders_and_missing_files_are_refused(ring: Ring, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(ring.path)
    for path in (tmp_path / "link", tmp_path, tmp_path / "absent"):
        with pytest.raises(BackendError, match="cannot be opened"):
            RingReader.open(path)
    with pytest.raises(BackendError, match="regular file"):
        RingReader.open(Path("/dev/null"))


def test_file_truncated_under_the_reader_is_an_error_and_no_signal(ring: Ring) -> None:
    ring.write(3)
    with ring.path.open("r+b") as file:
        file.truncate(65536 + 100)
    with pytest.raises(BackendError, match="truncated"):
        ring.reader.read(10)


def test_reads_that_bring_less_than_was_asked_for_are_continued(
    ring: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda file, buffers, offset: real(file, [buffers[0][:1000]], offset))
    ring.write(CAPACITY)
    assert numbers(ring.reader.read(100)) == list(range(1, CAPACITY + 1))


def test_the_largest_ring_costs_little_memory_however_it_was_filled(ring: Ring, tmp_path: Path) -> None:
    capacity = 2**20
    header = bytearray(ring.path.read_bytes()[:65536])
    header[20:24] = struct.pack("<I", capacity)
    header[124:128] = struct.pack("<I", zlib.crc32(header[:124]))
    path = tmp_path / "large.ring"
    with path.open("wb") as file:
        file.write(header)
        file.truncate(65536 + capacity * 128)
        for number in (1, 2, 3 + capacity):
            file.seek(65536 + (number - 1) % capacity * 128)
            file.write(record(number))
    reader = RingReader.open(path, GRACE_NS, ring.clock)
    tracemalloc.start()
    # Number 3 is overwritten by 3 + capacity, and an eighth of the ring is given up with it.
    batch = reader.read(100, writer_gone=True)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    reader.close()
    assert numbers(batch)[:2] == [1, 2]
    assert batch.lost == capacity // 8 + 1
    assert peak < 8_000_000


def test_a_number_that_no_writer_can_have_come_to_is_a_fault_of_the_ring_and_no_loss(ring: Ring) -> None:
    ring.write(2)
    forged = 3 + 2**40 * CAPACITY
    ring.put(forged, record(forged))
    ring.clock.now_ns = ring.reader.identity.created_ns + 1_000_000_000
    assert fate(ring.reader.read(10)) == ([1, 2], 0, 0, 0)
    with pytest.raises(BackendError, match=f"number {forged}, which its writer cannot have come to"):
        ring.reader.read(10)
    # In a second ten million can be written, 64 more are the ring's size: this one is only far ahead.
    possible = 3 + 64 * 156_249
    ring.put(possible, record(possible))
    assert ring.reader.read(10).lost == possible - 64 + 8 + 1 - 3


def test_the_runs_of_missing_numbers_are_named(ring: Ring) -> None:
    ring.write(1)
    ring.writer.write(records.REQUEST_ARRIVED, -1, 0)
    ring.writer.write(records.REQUEST_ARRIVED, -1, 0)
    ring.write(1)
    assert ring.reader.read(100).gaps == ((2, 3),)
    ring.write(196)
    assert ring.reader.read(100).gaps == ((5, 144),)


def test_identity_and_control_word(ring: Ring) -> None:
    identity = ring.reader.identity
    assert (identity.role, identity.rank) == ("worker", 2)
    assert ring.path.name == f"{identity.pid}-{identity.start_ticks}.ring"
    assert ring.reader.set_control(1, detach=True)
    assert ring.writer.control() == (1, True)
    with pytest.raises(ValueError, match="detail level"):
        ring.reader.set_control(4)


@pytest.mark.parametrize(
    ("at", "value"),
    [(0, 2**63), (0, 2**48 + 1), (1, 2**64 - 1), (2, 10**18), (2, 2**63)],
    ids=["dropped", "dropped-48", "errors", "time", "time-63"],
)
def test_counters_of_the_writer_that_cannot_be_leave_the_former_ones_and_are_said_once(
    at: int, value: int, ring: Ring, caplog: pytest.LogCaptureFixture
) -> None:
    good = [3, 2, 5_000_000]
    ring.poke(200, struct.pack("<QQQ", *good))
    expected = RingState(False, *good)
    assert ring.reader.state() == expected
    damaged = [*good]
    damaged[at] = value
    ring.poke(200, struct.pack("<QQQ", *damaged))
    assert [ring.reader.state() for _ in range(3)] == [expected] * 3
    (said,) = [one.getMessage() for one in caplog.records if "cannot be" in one.getMessage()]
    assert said.startswith(f"{ring.path.name}: ") and str(value) in said
    ring.poke(200, struct.pack("<QQQ", 4, 2, 6_000_000))
    assert ring.reader.state() == RingState(False, 4, 2, 6_000_000)


def test_the_probe_s_time_grows_no_faster_than_64_threads_can_spend_it(ring: Ring) -> None:
    clock = Clock()
    clock.now_ns = ring.reader.identity.created_ns
    file = RingFile(ring.path, clock)
    second = 10**9
    # One second of grace: a hook tells its time when it ends.
    for passed_s, spent_s, taken_s in ((1, 129, 0), (1, 128, 128), (2, 128 + 192, 128), (3, 256, 256)):
        clock.now_ns = ring.reader.identity.created_ns + passed_s * second
        ring.poke(216, struct.pack("<Q", spent_s * second))
        assert file.state().probe_ns == taken_s * second, passed_s
    clock.now_ns = 0
    ring.poke(216, struct.pack("<Q", 2**60))
    assert file.state().probe_ns == 2**60
    file.close()


def test_half_written_blocks_leave_the_last_good_values(ring: Ring) -> None:
    info, anchor = ring.reader.info(), ring.reader.anchor()
    assert info is not None and info.values == {names.SERVICE_NAME: "s"}
    assert anchor is not None
    ring.poke(320, struct.pack("<III", 2, 50, 1))
    ring.poke(256, b"\0\0\0\0")
    assert (ring.reader.info(), ring.reader.anchor()) == (info, anchor)
    ring.poke(320, struct.pack("<III", 3, 2**32 - 1, 1))
    assert ring.reader.info() == info
    ring.writer.set_info({names.SERVICE_NAME: "t"})
    again = ring.reader.info()
    assert again is not None and again.values == {names.SERVICE_NAME: "t"}


@pytest.mark.parametrize(
    ("text", "values", "unknown", "refused"),
    [
        (b'{"vtprof.rank": 3, "nonsense": 1}', {"vtprof.rank": 3}, 1, 0),
        (b'{"vtprof.rank": 3.0}', {"vtprof.rank": 3}, 0, 0),
        (b'{"vtprof.rank": "3"}', {}, 0, 1),
        (b'{"vtprof.rank": true}', {}, 0, 1),
        (b'{"vtprof.rank": 3.5}', {}, 0, 1),
        (b'{"vtprof.rank": 9223372036854775808}', {}, 0, 1),
        (b'{"vtprof.device.peak_flops_per_s": 7}', {"vtprof.device.peak_flops_per_s": 7.0}, 0, 0),
        (b'{"vtprof.device.peak_flops_per_s": 1e999}', {}, 0, 1),
        (b'{"vtprof.device.peak_flops_per_s": NaN}', {}, 0, 1),
        (b'{"service.name": "\\ud800"}', {}, 0, 1),
        (b'{"service.name": ["a"]}', {}, 0, 1),
        (b"[1]", {}, 0, 1),
        (b"{", {}, 0, 1),
        (b"\xff", {}, 0, 1),
        (b"[" * 60_000, {}, 0, 1),
        (b"9" * 60_000, {}, 0, 1),
    ],
)
def test_info_keeps_known_keys_of_the_right_type(
    text: bytes, values: dict[str, object], unknown: int, refused: int
) -> None:
    info = parse_info(1, text)
    assert (info.values, info.unknown_keys, info.refused_values) == (values, unknown, refused)
