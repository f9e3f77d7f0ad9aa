"""Through outages of the Collector, stops and kill -9 of the agent every span arrives, in order, or is counted."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from collectors import Seen, batch, grpc_collector, http_collector, ids, span, wait_for

from vtprof_agent.delivery import Delivery
from vtprof_agent.export.backoff import Backoff
from vtprof_agent.export.destination import Batch
from vtprof_agent.export.otlp import GRPC, HTTP, OtlpDestination
from vtprof_agent.export.spool import Spool
from vtprof_agent.faults import Faults
from vtprof_agent.follower import Progress
from vtprof_agent.progress_store import ProgressStore

ROOM = 1 << 26
SERVERS = {HTTP: http_collector, GRPC: grpc_collector}


def _open(url: str, folder: Path, protocol: str = HTTP, room: int = ROOM) -> OtlpDestination:
    return OtlpDestination(
        url, protocol=protocol, timeout_s=10.0, queued_batches=8, spool=Spool(folder, room), backoff=Backoff(0.01, 0.01)
    )  # fmt: skip


@pytest.mark.parametrize("protocol", [HTTP, GRPC])
def test_what_came_during_an_outage_arrives_in_order_after_it_and_the_spool_is_gone(
    protocol: str, tmp_path: Path
) -> None:
    with SERVERS[protocol]() as seen:
        seen.away = True
        destination = _open(seen.url, tmp_path, protocol)
        for number in range(1, 51):
            destination.submit(batch(number))
        wait_for(lambda: destination.outbox.settled() == 50)
        assert destination.outbox.spool_messages == 50
        seen.away = False
        destination.submit(batch(51))
        wait_for(lambda: destination.outbox.spans_delivered == 102)
        destination.submit(batch(52))
        destination.close(20.0)
        assert seen.spans == ids(*range(1, 53))
        assert (destination.outbox.spans_dropped, list(tmp_path.iterdir())) == (0, [])
        assert destination.outbox.messages_replayed >= 50


def test_a_ring_may_be_overwritten_once_its_spans_lie_in_the_spool(tmp_path: Path) -> None:
    with http_collector() as seen:
        seen.away = True
        destination = _open(seen.url, tmp_path / "spool")
        (tmp_path / "rings").mkdir()
        store = ProgressStore(tmp_path / "rings")
        delivery = Delivery([destination], store, 512, Faults())
        delivery.submit([span(1), span(2)], None)
        delivery.reached({"ring": Progress(17, 0, 0, 0, 0)})
        wait_for(delivery.settle)
        delivery.close(20.0)
    assert seen.spans == []
    assert ProgressStore(tmp_path / "rings").get("ring") == Progress(17, 0, 0, 0, 0)
    with http_collector() as seen:
        _open(seen.url, tmp_path / "spool").close(20.0)
        assert seen.spans == [1, 2]


def test_a_stop_during_an_outage_waits_for_nothing_and_the_next_agent_delivers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    destination = _open("http://127.0.0.1:9", tmp_path)
    for number in range(1, 6):
        destination.submit(batch(number))
    destination.close(3600.0)
    assert (destination.outbox.settled(), destination.outbox.spans_dropped) == (5, 0)
    with http_collector() as seen:
        destination = _open(seen.url, tmp_path)
        destination.submit(batch(6))
        destination.close(20.0)
        assert seen.spans == ids(*range(1, 7))
        assert list(tmp_path.iterdir()) == []


def test_a_stop_while_the_collector_hangs_leaves_all_to_the_next_agent(tmp_path: Path) -> None:
    with http_collector() as seen:
        seen.hang.clear()
        destination = _open(seen.url, tmp_path)
        for number in range(1, 4):
            destination.submit(batch(number))
        wait_for(lambda: seen.calls)
        destination.close(0.05)
        assert (destination.outbox.settled(), destination.outbox.spans_dropped) == (3, 0)
    with http_collector() as seen:
        _open(seen.url, tmp_path).close(20.0)
        assert seen.spans == ids(1, 2, 3)


def test_a_limit_on_file_sizes_costs_nothing_but_room(tmp_path: Path) -> None:
    """RLIMIT_FSIZE is the one real write error that needs no rights."""
    seen = Seen()
    seen.away = True
    with http_collector(seen):
        destination = _open(seen.url, tmp_path)
        destination.submit(batch(1))
        wait_for(lambda: destination.outbox.spool_messages == 1)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        try:
            for number in range(2, 21):
                destination.submit(batch(number))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        dropped = destination.outbox.spans_dropped
        assert 0 < dropped <= 2 * 19
        seen.away = False
        wait_for(lambda: destination.outbox.spans_delivered + dropped == 40)
        destination.close(20.0)
        assert len(set(seen.spans)) == len(seen.spans) == 40 - dropped


SUBMITTER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from collectors import span
from vtprof_agent.export.backoff import Backoff
from vtprof_agent.export.destination import Batch
from vtprof_agent.export.otlp import OtlpDestination
from vtprof_agent.export.spool import Spool
url, folder, first, room = sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
destination = OtlpDestination(url, queued_batches=8, spool=Spool(folder, room), backoff=Backoff(0.01, 0.01))
number, sent = 0, 0
while True:
    number += 1
    destination.submit(Batch(number, [span(first + number)]))
    settled = destination.outbox.settled()
    if settled > sent:
        sent = settled
        print(settled, destination.outbox.spans_dropped, flush=True)
"""


def _submit_and_kill(url: str, folder: Path, first: int, lines: int, room: int = ROOM) -> tuple[int, int]:
    """Run an agent that submits spans ``first + 1`` and on; kill -9 it. Return the last that it said it had settled."""
    arguments = [str(Path(__file__).parent), url, str(folder), str(first), str(room)]
    with subprocess.Popen([sys.executable, "-c", SUBMITTER, *arguments], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(lines):
            process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
        rest = [line for line in process.stdout.read().splitlines(keepends=True) if line.endswith(b"\n")]
        settled, dropped = (int(part) for part in rest[-1].split()) if rest else (lines, 0)
        process.wait()
    return settled, dropped


def test_agents_killed_at_any_moment_lose_nothing_that_was_settled(tmp_path: Path) -> None:
    seen, settled = Seen(), {}
    with http_collector(seen):
        # While it is away, while it takes, and while it is away again; then somebody delivers what they left.
        for turn, away in enumerate((True, False, True)):
            seen.away = away
            first = 1_000_000 * (turn + 1)
            settled[first] = _submit_and_kill(seen.url, tmp_path, first, 60)
        seen.away = False
        _open(seen.url, tmp_path).close(60.0)
    arrived = set(seen.spans)
    for first, (last, dropped) in settled.items():
        assert dropped == 0
        assert last >= 1
        missing = [number for number in range(first + 1, first + last + 1) if number not in arrived]
        assert missing == []
    assert list(tmp_path.iterdir()) == []


def test_with_a_spool_too_small_what_is_lost_is_counted_to_the_span(tmp_path: Path) -> None:
    with http_collector() as seen:
        seen.away = True
        destination = _open(seen.url, tmp_path, room=20_000)
        for number in range(1, 301):
            destination.submit(Batch(number, [span(3 * number + at) for at in range(3)]))
        wait_for(lambda: destination.outbox.settled() == 300)
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 20_000
        seen.away = False
        wait_for(lambda: destination.outbox.spool_messages == 0)
        destination.close(20.0)
        outbox = destination.outbox
        assert outbox.spans_dropped > 0
        assert len(set(seen.spans)) == outbox.spans_delivered
        assert len(set(seen.spans)) + outbox.spans_dropped == 900
        assert seen.spans == sorted(seen.spans)
