"""Puts the probe, and a folder for the answer, where the target sees them: into its own file system, by /proc/PID/root."""

import hashlib
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from vtprof_agent.attach.processes import Process
from vtprof_agent.attach.refusal import Refused
from vtprof_agent.staging import stage
from vtprof_schemas.errors import BackendError

PLACES = (Path("/tmp"), Path("/dev/shm"), Path("/var/tmp"))
"""Tried in turn, as the target names them, when no folder is given."""


@dataclass(frozen=True)
class Folders:
    """Folders of one attach, as the target names them, and the second as seen from here."""

    probe: Path
    answers: Path
    answers_here: Path


@contextmanager
def shared_folders(process: Process, stage_dir: Path | None) -> Iterator[Folders]:
    """Give the folder with the probe, which stays, and one for the answer, which goes. Raises Refused."""
    reasons = []
    for place in (stage_dir,) if stage_dir else PLACES:
        here = process.path(place)
        try:
            probe = _staged(process, here)
            answers = Path(tempfile.mkdtemp(prefix="vtprof-answer-", dir=here))
            _give(answers, process)
        except (OSError, BackendError) as error:
            reasons.append(f"{place}: {getattr(error, 'strerror', None) or error}")
            continue
        try:
            yield Folders(place / probe.name, place / answers.name, answers)
        finally:
            shutil.rmtree(answers, ignore_errors=True)
        return
    raise Refused(
        f"the probe cannot be put where it sees it ({'; '.join(reasons)}): mount a writable volume into both and give"
        " it as --stage-dir"
    )


def check_ring_dir(process: Process, ring_dir: Path, group: str | None) -> None:
    """Raise Refused when the rings of this process would not come to where the agent looks, or could not be made.

    ``group`` is the target's ``VTPROF_RING_GROUP``.
    """
    if process.foreign_mounts:
        existing = next(path for path in (ring_dir, *ring_dir.parents) if process.path(path).exists())
        if not _same_file(process.path(existing), existing):
            raise Refused(
                f"it has file systems of its own, and its {existing} is not the one here: mount a shared volume at the"
                " same path in both and give a folder on it as --ring-dir"
            )
    try:
        status = process.path(ring_dir).stat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise Refused(f"--ring-dir {ring_dir}: {error.strerror}") from error
    if not stat.S_ISDIR(status.st_mode):
        raise Refused(f"--ring-dir {ring_dir}: not a folder; give the folder that rings are to go into")
    if status.st_uid != process.user and not group:
        raise Refused(
            f"--ring-dir {ring_dir} belongs to user {status.st_uid} and the process to user {process.user}, who"
            " could not write its ring: give a folder that does not exist yet, or one of that user"
        )


def _same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _staged(process: Process, place: Path) -> Path:
    """Return the folder with this version of the probe, made unless it is there, below ``place``."""
    trusted = {0, os.geteuid(), process.user}
    fresh = Path(tempfile.mkdtemp(prefix=".vtprof-", dir=place))
    try:
        stage(fresh)
        digest = hashlib.sha256()
        for path in sorted(fresh.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
            digest.update(str(path.relative_to(fresh)).encode())
            if path.is_file():
                digest.update(path.read_bytes())
        fresh.chmod(0o755)
        folder = place / f"vtprof-probe-{digest.hexdigest()[:16]}"
        if not _trusted(folder, trusted):
            try:
                fresh.rename(folder)
            except OSError:
                if not _trusted(folder, trusted):
                    # Somebody else holds the name: take one that nobody can foresee.
                    folder = folder.with_name(f"{folder.name}-{secrets.token_hex(8)}")
                    fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return folder


def _trusted(folder: Path, owners: set[int]) -> bool:
    """Tell whether a folder is there that none but its rightful owner could have filled."""
    with suppress(OSError):
        status = folder.lstat()
        others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        return stat.S_ISDIR(status.st_mode) and status.st_uid in owners and not others
    return False


def _give(folder: Path, process: Process) -> None:
    if os.geteuid() != process.user:
        os.chown(folder, process.user, -1)
