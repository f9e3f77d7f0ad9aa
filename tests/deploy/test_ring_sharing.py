"""Servers of several users and the agent share the ring folder that is installed: each may do its part, and no more."""

import json
import os
import shutil
import subprocess
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from vtprof_agent.inbox.discovery import RingDirectory, read_boot_id, remove_ring
from vtprof_agent.inbox.ring_header import RingFile
from vtprof_agent.progress_store import LOCK_FILE, claim
from vtprof_probe.process_identity import read_process_identity
from vtprof_probe.ring_file import create_ring_file, ring_settings
from vtprof_schemas import names, records

DEPLOY = Path(__file__).parents[2] / "deploy"
TMPFILES = DEPLOY / "systemd" / "vtprof.tmpfiles.conf"
SHARED_MEMORY = Path("/dev/shm")
RING_GROUP = 61_000


class User(NamedTuple):
    """A user of its own group, and of the rings' group or not."""

    uid: int
    shares: bool = True


AGENT, ALICE, BOB, MALLORY = User(61_001), User(61_002), User(61_003), User(61_004, shares=False)
ROOT = User(0)
pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not SHARED_MEMORY.is_dir(), reason="other users can be had as root only"
)


def as_user(user: User, do: Callable[[], Any]) -> Any:
    """Do something in a process of another user and return its result as JSON has it; an OSError by its name."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([RING_GROUP] if user.shares else [])
            os.setgid(user.uid)
            os.setuid(user.uid)
            try:
                result = do()
            except OSError as error:
                result = type(error).__name__
            os.write(writing, json.dumps(result).encode())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    return json.loads(told)


@pytest.fixture
def folder() -> Iterator[Path]:
    """The ring folder as the installation makes it: mode, owner and group of its line."""
    _, _, mode, *_ = TMPFILES.read_text("utf-8").splitlines()[-1].split()
    above = Path(tempfile.mkdtemp(dir=SHARED_MEMORY))
    above.chmod(0o755)
    made = above / "rings"
    made.mkdir()
    os.chown(made, AGENT.uid, RING_GROUP)
    made.chmod(int(mode, 8))
    read_boot_id()  # what it imports may be out of another user's reach
    yield made
    shutil.rmtree(above)


@pytest.fixture
def folder_of_root(folder: Path) -> Path:
    """The ring folder as the kubelet makes it for a hostPath that is not there."""
    os.chown(folder, 0, 0)
    folder.chmod(0o755)
    return folder


def prepare(folder: Path) -> None:
    """Do what the node agent's init container does, with the users that there are here."""
    *_, daemon_set = yaml.safe_load_all((DEPLOY / "kubernetes" / "node-agent.yaml").read_text("utf-8"))
    init = daemon_set["spec"]["template"]["spec"]["initContainers"][0]
    script = init["args"][0].replace(" 0:10001 ", f" 0:{RING_GROUP} ")
    script = script.replace(" 10001:10001 ", f" {AGENT.uid}:{RING_GROUP} ")
    for mount in init["volumeMounts"]:
        of_it = folder if mount["name"] == "ring" else folder.with_name(mount["name"])
        of_it.mkdir(exist_ok=True)
        script = script.replace(mount["mountPath"], str(of_it))
    subprocess.run([*init["command"], script], check=True)


def record(folder: Path, group: int | None = RING_GROUP) -> str:
    """Make a ring, as a server's probe does, and return its path."""
    given = {names.ENV_RING_DIR: str(folder), names.ENV_RING_RECORDS: str(records.MIN_CAPACITY)}
    if group is not None:
        given[names.ENV_RING_GROUP] = str(group)
    ring = create_ring_file(ring_settings(given), "all", 0, read_process_identity())
    ring.memory.close()
    return ring.path


def steered(path: Path) -> bool:
    """Open a ring as the agent does and tell its probe something."""
    ring = RingFile(path)
    try:
        return ring.set_control(2) and ring.detail() == 2
    finally:
        ring.close()


def test_the_agent_reads_steers_and_removes_the_rings_of_another_user(folder: Path) -> None:
    path = Path(as_user(ALICE, lambda: record(folder)))
    status = path.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (ALICE.uid, RING_GROUP, 0o660)
    assert as_user(AGENT, lambda: [str(ring) for ring in RingDirectory(folder).scan().rings]) == [str(path)]
    assert as_user(AGENT, lambda: steered(path)) is True
    assert as_user(AGENT, lambda: remove_ring(path)) is True, "its writer has ended"
    assert not path.exists()


def test_a_server_without_the_group_is_refused_and_a_stranger_cannot_write(folder: Path) -> None:
    assert as_user(ALICE, lambda: record(folder, group=None)) == "PermissionError"
    assert as_user(MALLORY, lambda: record(folder)) == "PermissionError"
    path = Path(as_user(ALICE, lambda: record(folder)))
    assert as_user(MALLORY, lambda: len(path.read_bytes())) == "PermissionError"


def test_a_server_cannot_take_away_anothers_ring_or_what_the_agent_keeps_there(folder: Path) -> None:
    assert as_user(AGENT, lambda: claim(folder) >= 0) is True
    path = Path(as_user(ALICE, lambda: record(folder)))
    assert as_user(BOB, path.unlink) == "PermissionError"
    assert as_user(BOB, (folder / LOCK_FILE).unlink) == "PermissionError"
    assert as_user(BOB, lambda: (folder / LOCK_FILE).write_text("mine")) == "PermissionError"
    assert path.exists()


def test_a_server_of_root_that_starts_before_the_agent_is_recorded(folder_of_root: Path) -> None:
    path = Path(as_user(ROOT, lambda: record(folder_of_root)))
    prepare(folder_of_root)
    found = as_user(AGENT, lambda: [str(ring) for ring in RingDirectory(folder_of_root).scan().rings])
    assert found == [str(path)]
    assert as_user(AGENT, lambda: steered(path)) is True
    assert as_user(AGENT, lambda: remove_ring(path)) is True, "its writer has ended"
    assert Path(as_user(ROOT, lambda: record(folder_of_root))).exists(), "the folder is the agent's now"


def test_a_server_of_another_user_is_recorded_from_its_first_start_after_the_agent(
    folder_of_root: Path,
) -> None:
    assert as_user(ALICE, lambda: record(folder_of_root)) == "PermissionError"
    prepare(folder_of_root)
    path = Path(as_user(ALICE, lambda: record(folder_of_root)))
    assert as_user(AGENT, lambda: steered(path)) is True
