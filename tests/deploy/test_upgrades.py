"""What the upgrade notes promise of files that an agent of another version left, or a probe of one writes."""

import json
import struct
import zlib
from pathlib import Path

from vtprof_agent.export.parcel import Parcel, Signal
from vtprof_agent.export.spool import Spool
from vtprof_agent.inbox.cursors import CursorStore
from vtprof_agent.inbox.discovery import RingDirectory, remove_ring
from vtprof_agent.progress_store import CURSORS_FILE
from vtprof_probe.ring_writer import RingWriter
from vtprof_schemas import records

VERSION_OFFSET = len(records.MAGIC)


def test_a_ring_of_another_layout_is_said_once_and_left_alone(tmp_path: Path) -> None:
    ring = RingWriter.create(str(tmp_path), records.MIN_CAPACITY, "all", 0, {})
    path = Path(ring.path)
    ring.close()
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, VERSION_OFFSET, records.LAYOUT_VERSION + 1)
    path.write_bytes(content)
    folder = RingDirectory(tmp_path)
    (problem,) = folder.scan().problems
    assert f"layout version is {records.LAYOUT_VERSION + 1}" in problem
    again = folder.scan()
    assert (again.rings, again.problems) == ((), ())
    assert not remove_ring(path)
    assert path.exists()


def test_cursors_of_another_version_are_not_used_and_that_is_said(tmp_path: Path) -> None:
    path = tmp_path / CURSORS_FILE
    store = CursorStore(path)
    store.set("ring", 7)
    store.save()
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 99}))
    newer = CursorStore(path)
    assert newer.get("ring") is None, "so the ring is read from its oldest record"
    assert newer.problem is not None
    assert "read from their beginning" in newer.problem


def test_a_spool_file_of_another_version_is_put_aside_and_not_deleted(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1 << 20)
    spool.append(Parcel(Signal.TRACES, 1, 1, b"spans"))
    spool.close()
    (path,) = tmp_path.glob("*.spool")
    content = bytearray(path.read_bytes())
    magic, version = bytes(content[:8]), content[8] ^ 2
    struct.pack_into("<II", content, 8, version, zlib.crc32(magic, version))
    path.write_bytes(content)
    taken = Spool(tmp_path, 1 << 20)
    assert (taken.messages, taken.lost.spans) == (0, 1)
    taken.forget_notes(taken.noted())
    taken.close()
    assert [other.read_bytes() for other in tmp_path.iterdir()] == [bytes(content)]
