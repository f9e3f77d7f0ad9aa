"""A span that a later agent makes again of the same records has the same times, though the clocks drifted apart since."""

import os
import zlib
from pathlib import Path

from opentelemetry.sdk.trace import ReadableSpan

from vtprof_agent.assembly import AssemblySettings
from vtprof_agent.follower import Progress, RingFollower
from vtprof_agent.inbox.ring_reader import RingReader
from vtprof_agent.progress_store import ProgressStore
from vtprof_probe.ring_writer import RingWriter
from vtprof_schemas import names, records

STARTED_UNIX_NS = 1_700_000_000_000_000_000
SECOND = 10**9


def anchor(path: Path, monotonic_ns: int, drift_ns: int) -> None:
    """Write a clock anchor: a wall clock that started with the monotonic one and went this much ahead."""
    block = records.ANCHOR.pack(0, monotonic_ns, STARTED_UNIX_NS + monotonic_ns + drift_ns)
    block = records.CRC.pack(zlib.crc32(block[records.CRC.size :])) + block[records.CRC.size :]
    file = os.open(path, os.O_WRONLY)
    os.pwrite(file, block, records.ANCHOR_OFFSET)
    os.close(file)


def write(ring: RingWriter, first: int, count: int) -> None:
    for number in range(first, first + count):
        ring.write(records.REQUEST_ARRIVED, number, number * SECOND)
        ring.write(records.REQUEST_FINISHED, number, number * SECOND + 5, 0, 1)


def read(path: Path, progress: Progress | None) -> tuple[list[ReadableSpan], Progress]:
    """Follow a ring as an agent does; return the spans and what is to be stored once they are exported."""
    reader = RingReader.open(path)
    follower = RingFollower(reader, AssemblySettings(finish_linger_ns=0), {}, progress)
    follower.read(100, 1000 * SECOND)
    follower.advance(1000 * SECOND)
    spans, reached = follower.spans(), follower.progress()
    follower.close()
    return spans, reached


def times(spans: list[ReadableSpan]) -> dict[int, tuple[int | None, int | None]]:
    return {span.context.span_id: (span.start_time, span.end_time) for span in spans}


def test_what_is_read_again_after_a_restart_has_the_same_times(tmp_path: Path) -> None:
    ring = RingWriter.create(str(tmp_path), 4096, "all", 0, {names.DEVICE_KIND: "cpu"})
    path = Path(ring.path)
    anchor(path, 1 * SECOND, 0)
    write(ring, 1, 3)
    first, reached = read(path, None)
    assert len(first) == 3
    assert min(times(first).values()) == (STARTED_UNIX_NS + SECOND, STARTED_UNIX_NS + SECOND + 5)
    store = ProgressStore(tmp_path)
    # The kill came before the later spans were settled: the cursor stays at the beginning.
    store.save({"ring": Progress(cursor=1, passed=6, clock_offset_ns=reached.clock_offset_ns)})
    anchor(path, 60 * SECOND, 1234)
    write(ring, 4, 1)
    again, _ = read(path, ProgressStore(tmp_path).get("ring"))
    assert len(again) == 4
    assert {key: times(again)[key] for key in times(first)} == times(first)
    ring.close()


def test_a_wall_clock_that_was_set_meanwhile_is_believed(tmp_path: Path) -> None:
    ring = RingWriter.create(str(tmp_path), 4096, "all", 0, {names.DEVICE_KIND: "cpu"})
    path = Path(ring.path)
    anchor(path, 1 * SECOND, 0)
    write(ring, 1, 1)
    _, reached = read(path, None)
    anchor(path, 60 * SECOND, SECOND)
    write(ring, 2, 1)
    later, _ = read(path, reached)
    assert max(times(later).values())[0] == STARTED_UNIX_NS + 3 * SECOND
    ring.close()
