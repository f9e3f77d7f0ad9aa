"""Puts files where the target sees them, into its own file system by /proc/PID/root, and takes them away again."""

import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from vtprof_agent.attach.processes import Process
from vtprof_agent.attach.refusal import Refused

PLACES = (Path("/tmp"), Path("/dev/shm"), Path("/var/tmp"))
"""Tried in turn, as the target names them, when no folder is given."""


@dataclass(frozen=True)
class SharedFolder:
    """A folder as the target names it, and as it is seen from here."""

    there: Path
    here: Path


@contextmanager
def shared_folder(
    process: Process, stage_dir: Path | None, files: Mapping[str, str]
) -> Iterator[SharedFolder]:
    """Give a folder of the target's user with these files, for the time of one order. Raises Refused."""
    reasons = []
    for place in (stage_dir,) if stage_dir else PLACES:
        with ExitStack() as kept:
            try:
                made = tempfile.TemporaryDirectory(
                    prefix="vtprof-attach-", dir=process.path(place), ignore_cleanup_errors=True
                )
                folder = Path(kept.enter_context(made))
                for name, content in files.items():
                    (folder / name).write_text(content, encoding="utf-8")
                    (folder / name).chmod(0o644)
                if os.geteuid() != process.user:
                    os.chown(folder, process.user, -1)
            except OSError as error:
                reasons.append(f"{place}: {error.strerror}")
                continue
            yield SharedFolder(place / folder.name, folder)
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
