"""From the machine's first PID namespace an agent sees whether the server of a container still runs; from others not."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import pytest
from agent_process import wait_for
from test_ring_discovery import BOOT, proc

from vtprof_agent import sampling
from vtprof_agent.inbox import discovery, pid_namespaces
from vtprof_agent.inbox.discovery import Liveness, pid_here, process_alive, remove_ring
from vtprof_agent.inbox.ring_header import RingIdentity
from vtprof_agent.inbox.ring_reader import RingReader
from vtprof_agent.resource import agent_resource
from vtprof_agent.samplers.host import HostSampler
from vtprof_agent.samplers.sampler import Sample
from vtprof_schemas import names

if TYPE_CHECKING:
    from vtprof_agent.follower import RingFollower

CONTAINER = 4_026_532_999
INSIDE, OUTSIDE, TICKS = 7, 31_007, 700


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A /proc of the first namespace, with an init and a server whose number is 7 in its container."""
    made = proc(tmp_path, OUTSIDE, TICKS)
    (made / str(OUTSIDE) / "status").write_text(f"Name:\tpython\nNSpid:\t{OUTSIDE}\t{INSIDE}\nThreads:\t1\n")
    (made / "1").mkdir()
    (made / "1/status").write_text("NSpid:\t1\n")
    here = (made / "self/ns/pid").stat().st_ino
    monkeypatch.setattr(pid_namespaces, "FIRST_NAMESPACE", here)
    return made


class Reader(NamedTuple):
    identity: RingIdentity


class Ring(NamedTuple):
    """What a sampler sees of a ring; its resource is the number that it tells."""

    pid: int
    reader: Reader
    resource: int


def writer(pid: int = INSIDE, ticks: int = TICKS) -> RingIdentity:
    return RingIdentity(BOOT, pid, ticks, CONTAINER, "all", 0, 1)


def test_a_server_is_found_by_its_number_in_the_container(root: Path) -> None:
    assert process_alive(writer(), root) is Liveness.ALIVE


def test_one_of_another_number_or_start_is_another(root: Path) -> None:
    assert process_alive(writer(pid=8), root) is Liveness.DEAD
    assert process_alive(writer(ticks=701), root) is Liveness.DEAD
    # The number that it has outside is not the one that its ring tells.
    assert process_alive(writer(pid=OUTSIDE), root) is Liveness.DEAD


def test_one_that_ends_after_it_was_found_is_dead(root: Path) -> None:
    assert process_alive(writer(), root) is Liveness.ALIVE
    shutil.rmtree(root / str(OUTSIDE))
    assert process_alive(writer(), root) is Liveness.DEAD


def test_what_cannot_be_seen_is_not_called_dead(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(root / str(OUTSIDE))
    with monkeypatch.context() as patch:
        patch.setattr(pid_namespaces, "FIRST_NAMESPACE", 1)
        assert process_alive(writer(), root) is Liveness.UNKNOWN, "from inside another container"
    (root / "1/status").unlink()
    assert process_alive(writer(), root) is Liveness.UNKNOWN, "/proc is mounted with hidepid"


def test_a_search_is_made_once(root: Path) -> None:
    before = pid_namespaces.outer_pid.cache_info().misses
    for _ in range(5):
        assert process_alive(writer(), root) is Liveness.ALIVE
    assert pid_namespaces.outer_pid.cache_info().misses == before + 1


CONTAINER_COMMAND = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
WRITER = """
import sys
from vtprof_probe.ring_writer import RingWriter
ring = RingWriter.create(sys.argv[1], 64, "all", 0, {})
print(ring.path, flush=True)
sys.stdin.readline()
"""


def _namespaces_can_be_made() -> bool:
    """Tell whether this user sees all processes and may make a PID namespace."""
    if shutil.which("unshare") is None or not pid_namespaces.sees_all(Path("/proc")):
        return False
    return subprocess.run([*CONTAINER_COMMAND, "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not _namespaces_can_be_made(), reason="needs root in the machine's first PID namespace")
def test_the_ring_of_a_killed_container_is_removed_and_that_of_a_running_one_stays(tmp_path: Path) -> None:
    command = [*CONTAINER_COMMAND, sys.executable, "-c", WRITER, str(tmp_path)]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        path = Path(server.stdout.readline().strip())
        reader = RingReader.open(path)
        told = reader.identity
        reader.close()
        assert told.pid == 1
        assert told.pid_namespace != pid_namespaces.namespace_inode(Path("/proc"))
        assert discovery.process_alive(told) is Liveness.ALIVE
        assert not remove_ring(path)
    finally:
        server.kill()
        server.stdout.read()  # its end closes the pipe
        server.wait()
        server.stdin.close()
        server.stdout.close()
    wait_for(lambda: discovery.process_alive(told) is Liveness.DEAD)
    assert remove_ring(path)
    assert not path.exists()


def test_a_sampler_reads_it_under_the_number_that_it_has_here_or_not_at_all(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its number inside is that of a stranger here."""
    assert pid_here(writer(), root) == OUTSIDE
    assert pid_here(writer(pid=8), root) is None
    monkeypatch.setattr(pid_namespaces, "FIRST_NAMESPACE", 1)
    assert pid_here(writer(), root) is None


def test_the_host_sampler_is_given_the_number_here_and_its_samples_go_to_the_ring(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[frozenset[int]] = []

    class Host(HostSampler):
        def sample(self, pids: frozenset[int]) -> list[Sample]:
            asked.append(pids)
            return [Sample(names.HOST_PROCESS_RSS_BYTES, 5, pid=OUTSIDE)]

    here = {INSIDE: OUTSIDE, 8: None}
    monkeypatch.setattr(sampling, "pid_here", lambda identity: here[identity.pid])
    rings = [cast("RingFollower", Ring(pid, Reader(writer(pid)), pid)) for pid in here]
    points = sampling.Sampling([Host()]).sample(rings, agent_resource("node"), 1)
    assert asked == [frozenset({OUTSIDE})]
    assert [point.resource for point in points] == [INSIDE]
