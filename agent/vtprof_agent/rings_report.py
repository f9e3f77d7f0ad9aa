"""What the rings of a folder say, without following them: for `status` and `doctor`."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vtprof_agent.follower import Progress
from vtprof_agent.inbox.discovery import Liveness, RingDirectory, process_alive
from vtprof_agent.inbox.ring_reader import RingReader
from vtprof_agent.progress_store import ProgressStore
from vtprof_schemas import names
from vtprof_schemas.errors import BackendError, ConfigError


@dataclass(frozen=True)
class RingLine:
    """One ring, for people and scripts; None is unknown."""

    file: str
    pid: int
    process: str
    """alive, dead or unknown."""
    role: str
    rank: int
    engine: str | None
    engine_version: str | None
    model: str | None
    closed: bool
    """The process has ended its recording; it may run on."""
    read_to_end: bool
    """Closed, or its process dead, and no record waits to be read."""
    records_read: int | None
    """By the agents that followed it, None before the first."""
    records_lost: int | None
    records_dropped: int
    """Records that the probe itself could not write."""
    hook_errors: int

    def document(self) -> dict[str, Any]:
        """Return the line as a JSON object."""
        return asdict(self)


def look(ring_dir: Path) -> tuple[list[RingLine], list[str]]:
    """Return the rings of a folder and the problems met, one line each; changes nothing.

    Raises ConfigError when the folder is none.
    """
    if ring_dir.exists() and not ring_dir.is_dir():
        raise ConfigError(
            f"--ring-dir {ring_dir}: not a folder; give the folder that the probes put their rings into"
        )
    found = RingDirectory(ring_dir).scan()
    problems = list(found.problems)
    store = ProgressStore(ring_dir)
    if store.problem:
        problems.append(store.problem)
    lines = []
    for path in found.rings:
        try:
            reader = RingReader.open(path)
        except (BackendError, OSError) as error:
            problems.append(str(error))
            continue
        try:
            lines.append(_line(reader, store.get(reader.identity.instance_id)))
        except BackendError as error:
            problems.append(str(error))
        finally:
            reader.close()
    return lines, problems


def _line(reader: RingReader, progress: Progress | None) -> RingLine:
    identity, state, info = reader.identity, reader.state(), reader.info()
    process = process_alive(identity)
    values = info.values if info is not None else {}

    def text(key: str) -> str | None:
        value = values.get(key)
        return value if isinstance(value, str) else None

    return RingLine(
        file=str(reader.path),
        pid=identity.pid,
        process=process.value,
        role=identity.role,
        rank=identity.rank,
        engine=text(names.ENGINE_NAME),
        engine_version=text(names.ENGINE_VERSION),
        model=text(names.REQUEST_MODEL),
        closed=state.closed,
        read_to_end=(state.closed or process is Liveness.DEAD) and _at_end(reader, progress),
        records_read=None if progress is None else progress.passed - progress.records_lost,
        records_lost=None if progress is None else progress.records_lost,
        records_dropped=state.dropped,
        hook_errors=state.hook_errors,
    )


def _at_end(reader: RingReader, progress: Progress | None) -> bool:
    """Tell whether all that was written is read or counted as lost, of a ring that is written no more."""
    reader.seek(1 if progress is None else progress.passed + 1)
    return reader.read(1, writer_gone=True).passed == 0
