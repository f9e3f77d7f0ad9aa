"""What the rings of a folder say, without following them: for `status` and `doctor`."""

import json
import os
import stat
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from vtprof_agent.follower import Progress
from vtprof_agent.inbox.discovery import Liveness, RingDirectory, process_alive
from vtprof_agent.inbox.ring_reader import RingReader
from vtprof_agent.progress_store import ProgressStore
from vtprof_schemas import names
from vtprof_schemas.engine_versions import TESTED, is_tested
from vtprof_schemas.errors import BackendError, ConfigError
from vtprof_schemas.printable import one_line

_HOOK_SET, _HOOK_WAITING = "set", "waiting"
"""States of a hook in ``names.PROBE_HOOKS``; any other text is why it was skipped."""


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
    recorded: bool = True
    """Whether there was a record yet: before the first a process does not know its part."""
    family: str | None = None
    """Names the server, whose processes share it."""
    engine_tested: bool | None = None
    """Whether the version lies in the range that the hooks were tested with."""
    hooks: dict[str, str] = field(default_factory=dict)
    """By hook ``set``, ``waiting`` (its module is not imported) or why it was skipped."""

    def text(self) -> str:
        """Return the ring in lines for people."""
        parts = ["detached" if self.process == Liveness.ALIVE.value else "closed"] * self.closed + [
            "read to the end"
        ] * self.read_to_end
        if self.records_read is not None:
            parts += [f"{self.records_read} read", f"{self.records_lost} lost"]
        elif not self.read_to_end:
            parts.append("not followed yet")
        engine = f"{self.engine or 'engine unknown'} {self.engine_version or ''}".rstrip()
        if self.engine_tested is False and self.engine is not None:
            since, until = TESTED[self.engine]
            engine += f" (untested: the hooks know {since} up to, without, {until})"
        part = f" {self.role} rank {self.rank}" if self.recorded or self.role != "all" else ""
        model = self.model or ("model unknown" if self.recorded else "nothing recorded yet")
        who = f"PID {self.pid} ({self.process}){part}: {engine}, {model}"
        counted = f"{self.records_dropped} not written, {self.hook_errors} hook errors"
        lines = [f"{who}; {', '.join(parts)}; {counted}"]
        if self.hooks:
            states = list(self.hooks.values())
            # The modules that the others wait for belong to other processes of the server.
            own = len(states) - states.count(_HOOK_WAITING)
            told = f"{states.count(_HOOK_SET)} of {own} hooks set" if own else "no hook set yet"
            lines.append(f"  {told}" + (f"; server {self.family}" if self.family else ""))
        lines += [
            f"  hook {name} is off: {state}"
            for name, state in self.hooks.items()
            if state not in (_HOOK_SET, _HOOK_WAITING)
        ]
        return "\n".join(map(one_line, lines))  # what a process says of itself may hold anything

    def document(self) -> dict[str, Any]:
        """Return the line as a JSON object."""
        return asdict(self)


def look(ring_dir: Path) -> tuple[list[RingLine], list[str]]:
    """Return the rings of a folder, the closed ones last, and the problems met, one line each; changes nothing.

    Raises ConfigError when the folder is none, BackendError when it may not be read.
    """
    _check(ring_dir)
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
            lines.append(_line(reader, store.get(reader.identity.ring_id)))
        except BackendError as error:
            problems.append(str(error))
        finally:
            reader.close()
    return sorted(_named(lines), key=lambda line: line.closed), problems


def _check(ring_dir: Path) -> None:
    try:
        status = ring_dir.stat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise BackendError(
            f"--ring-dir {ring_dir}: {error.strerror}: look as the user of the server or as root"
        ) from error
    if not stat.S_ISDIR(status.st_mode):
        raise ConfigError(
            f"--ring-dir {ring_dir}: not a folder; give the folder that the probes put their rings into"
        )
    if not os.access(ring_dir, os.R_OK | os.X_OK):
        raise BackendError(
            f"--ring-dir {ring_dir}: belongs to user {status.st_uid}, who alone may read it: look as that user or as root"
        )


def _named(lines: list[RingLine]) -> list[RingLine]:
    """Give each process the model of its server, which the engine's process alone knows."""
    models = {line.family: line.model for line in lines if line.family and line.model}
    return [replace(line, model=line.model or models.get(line.family or "")) for line in lines]


def _line(reader: RingReader, progress: Progress | None) -> RingLine:
    identity, state, info = reader.identity, reader.state(), reader.info()
    process = process_alive(identity)
    values = info.values if info is not None else {}

    def text(key: str) -> str | None:
        value = values.get(key)
        return value if isinstance(value, str) else None

    engine, version, rank = text(names.ENGINE_NAME), text(names.ENGINE_VERSION), values.get(names.RANK)
    return RingLine(
        file=str(reader.path),
        pid=identity.pid,
        process=process.value,
        role=text(names.ROLE) or identity.role,
        rank=rank if isinstance(rank, int) else identity.rank,
        engine=engine,
        engine_version=version,
        family=text(names.FAMILY),
        engine_tested=is_tested(engine, version) if engine and version else None,
        hooks=_hooks(text(names.PROBE_HOOKS)),
        model=text(names.REQUEST_MODEL),
        closed=state.closed,
        read_to_end=(state.closed or process is Liveness.DEAD) and _at_end(reader, progress),
        records_read=None if progress is None else progress.passed - progress.records_lost,
        records_lost=None if progress is None else progress.records_lost,
        records_dropped=state.dropped,
        hook_errors=state.hook_errors,
        recorded=reader.recorded_any(),
    )


def _hooks(text: str | None) -> dict[str, str]:
    """Read the states of the hooks; what another process wrote may be anything."""
    try:
        states = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return {str(name): str(state) for name, state in states.items()} if isinstance(states, dict) else {}


def _at_end(reader: RingReader, progress: Progress | None) -> bool:
    """Tell whether all that was written is read or counted as lost, of a ring that is written no more."""
    reader.seek(1 if progress is None else progress.passed + 1)
    return reader.read(1, writer_gone=True).passed == 0
