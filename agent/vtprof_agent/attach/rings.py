"""The open rings of a process: whether it is attached to already, and the quiet way to end a recording."""

from contextlib import suppress
from pathlib import Path

from vtprof_agent.attach.processes import Process
from vtprof_agent.inbox.discovery import RingDirectory, remove_ring
from vtprof_agent.inbox.ring_header import RingFile, RingIdentity
from vtprof_agent.inbox.ring_reader import RingReader
from vtprof_schemas import names, records
from vtprof_schemas.errors import BackendError


def open_rings(process: Process, ring_dir: Path) -> list[Path]:
    """Return the rings that this process has open."""
    found = []
    for path in RingDirectory(ring_dir).scan().rings:
        with suppress(BackendError, OSError):
            ring = RingFile(path)
            try:
                if _written_by(ring.identity, process) and not ring.state().closed:
                    found.append(path)
            finally:
                ring.close()
    return found


def family_of(paths: list[Path]) -> str | None:
    """Return the family that one of these rings names, or None."""
    for path in paths:
        with suppress(BackendError, OSError):
            ring = RingFile(path)
            try:
                info = ring.info()
                family = info.values.get(names.FAMILY) if info else None
                if isinstance(family, str):
                    return family
            finally:
                ring.close()
    return None


def ask_to_detach(paths: list[Path]) -> None:
    """Set the detach bit in the rings; the probe heeds it at its next step."""
    for path in paths:
        with suppress(BackendError, OSError):
            ring = RingFile(path)
            try:
                ring.set_control(records.DETAIL_DEFAULT, detach=True)
            finally:
                ring.close()


def remove_empty(paths: list[Path]) -> None:
    """Remove those of these rings that are closed and hold neither a record nor a fault: nobody need read them."""
    for path in paths:
        with suppress(BackendError, OSError):
            reader = RingReader.open(path)
            try:
                state = reader.state()
                told = state.dropped or state.hook_errors or reader.recorded_any()
                empty = state.closed and not told
            finally:
                reader.close()
            if empty:
                remove_ring(path)


def _written_by(identity: RingIdentity, process: Process) -> bool:
    return (identity.pid, identity.start_ticks) == (
        process.own_pid,
        process.start_ticks,
    ) and identity.pid_namespace in (
        0,
        process.pid_namespace,
    )
