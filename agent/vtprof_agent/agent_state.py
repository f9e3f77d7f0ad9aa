"""What a running agent tells of itself: a small file beside the rings, written by it and read by `status`."""

import fcntl
import json
import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vtprof_agent.config import without_secrets
from vtprof_agent.progress_store import LOCK_FILE
from vtprof_agent.regular_file import open_regular
from vtprof_agent.samplers.health import GpuState, SamplerState
from vtprof_agent.status_lines import ago, lines, problems
from vtprof_schemas.printable import one_line
from vtprof_schemas.units import NS_PER_S

if TYPE_CHECKING:
    from vtprof_agent.counters.rolling import CounterState

STATE_FILE: Final = "agent.state.json"
PERIOD_S: Final = 2.0
STALE_S: Final = 15.0
"""An agent that runs and wrote nothing for so long hangs, or is stopped."""
_FORMAT_VERSION: Final = 1
_MOST_BYTES: Final = 4 << 20
_MALFORMED: Final = (
    KeyError, TypeError, ValueError, AttributeError, OverflowError, OSError, RecursionError,
)  # fmt: skip
"""What comes of a state that another version, or no agent, has written; OSError of times that no calendar has."""


@dataclass(frozen=True)
class DestinationState:
    """Where spans go and how far they came."""

    target: str
    spans_delivered: int
    spans_dropped: int
    metrics_dropped: int = 0
    """Batches of metric points."""
    spooled_bytes: int | None = None
    """What waits on disk; None: it has no spool."""
    last_error: str | None = None


@dataclass(frozen=True)
class Loss:
    """Something that did not arrive, or went wrong and was survived: a running total."""

    what: str
    count: int
    last_unix_ns: int | None = None
    """When it last grew under this agent; None: not since it started."""
    before: int = 0
    """Of ``count``, what was there before this agent started."""


@dataclass(frozen=True)
class AgentState:
    """The agent at one moment."""

    pid: int
    version: str
    started_unix_ns: int
    cpu_ratio: float
    """Cores, mean over about a minute."""
    rss_bytes: int
    probe_ratio: float
    """Of a process's time, where it is most."""
    detail: int
    detail_reason: str | None = None
    """Why it is not the highest."""
    detail_seconds: dict[int, float] = field(default_factory=dict)
    destinations: tuple[DestinationState, ...] = ()
    samplers: tuple[SamplerState, ...] = ()
    gpus: tuple[GpuState, ...] = ()
    attribution: "tuple[CounterState, ...]" = ()
    rings: int = 0
    records_read: int = 0
    """By all agents."""
    records_lost: int = 0
    open_requests: int = 0
    """That have not ended."""
    keep_ratio: float = 1.0
    requests_sampled_out: int = 0
    faults: int = 0
    losses: tuple[Loss, ...] = ()
    detail_refused: tuple[int, ...] = ()
    """PIDs of processes that cannot be told their level of detail, and record at their own."""
    records_read_before: int = 0
    """Of ``records_read``, what agents before this one read."""
    held_requests: int = 0
    """That have ended and wait for their counters."""

    def document(self, unix_ns: int) -> dict[str, Any]:
        """Return the state as JSON, as of a time."""
        values = asdict(self)
        for destination in values["destinations"]:
            destination["target"] = without_secrets(destination["target"])
        return {"version": _FORMAT_VERSION, "written_unix_ns": unix_ns, "agent": _finite(values)}


class StateWriter:
    """Writes the state, at most every ``PERIOD_S``; removes it at the end."""

    def __init__(
        self,
        ring_dir: Path,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        unix_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """Write to a folder whose lock this agent holds."""
        self._path = ring_dir / STATE_FILE
        # What an agent that was killed left would be taken for ours until we write, which a full disk prevents for long.
        with suppress(OSError):
            self._path.unlink(missing_ok=True)
        self._clock_ns, self._unix_ns = clock_ns, unix_ns
        self._next_ns: int | None = None

    def write(self, state: Callable[[], AgentState]) -> bool:
        """Write the state if it is time, and tell whether it was; it is not asked for otherwise. Raises OSError."""
        now_ns = self._clock_ns()
        if self._next_ns is not None and now_ns < self._next_ns:
            return False
        self._next_ns = now_ns + int(PERIOD_S * NS_PER_S)
        text = json.dumps(state().document(self._unix_ns()), allow_nan=False)
        fresh = self._path.with_suffix(".new")
        fresh.unlink(missing_ok=True)  # of an agent that was killed just then
        file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(file, "w") as out:
            out.write(text)
        fresh.replace(self._path)
        return True

    def close(self) -> None:
        """Remove the file: no agent runs here any more. Raises OSError."""
        self._path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Seen:
    """What a folder tells of its agent."""

    ring_dir: Path
    alive: bool | None
    """Whether an agent holds the folder's lock; None: this user may not ask."""
    age_s: float | None = None
    """Since it last wrote its state; None: there is no state."""
    agent: dict[str, Any] | None = None
    problem: str | None = None
    """Why its state cannot be told."""
    unix_ns: int = 0
    """When it was looked at."""

    @property
    def known(self) -> bool:
        """Tell whether there is an agent, or traces of one."""
        return self.alive is not False or self.agent is not None or self.problem is not None

    @property
    def sound(self) -> bool:
        """Tell whether an agent runs and nothing is wrong with it; one that has only just started is."""
        runs = self.alive or (self.alive is None and self.agent is not None)
        return runs and self.problem is None and not self.problems()

    def document(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        told = {**vars(self), "ring_dir": str(self.ring_dir), "problems": self.problems()}
        del told["unix_ns"]
        return told

    def problems(self) -> list[str] | None:
        """Return what is wrong with a live agent at present, one line each; None: there is none that tells."""
        if self.agent is None or self.alive is False:
            return None
        found = [f"it told nothing for {ago(self.age_s)}: it hangs or is stopped"] if self._late else []
        try:
            found += problems(self.agent, self.unix_ns)
            lines(self.agent)
        except _MALFORMED:
            found.append("what it tells cannot be read: it is of another version than this command")
        return [one_line(line) for line in found]

    def lines(self, *, verbose: bool = False) -> list[str]:
        """Return it for people: whether all is well, what was lost and what it costs come first."""
        found = self.problems()
        told = [f"agent of {self.ring_dir}: {self._headline(found)}"]
        if found is not None and self.agent is not None:
            told += [f"  problem: {line}" for line in found]
            with suppress(*_MALFORMED):  # which is among the problems
                told += ["  " + line for line in lines(self.agent, verbose=verbose)]
        return [one_line(line) for line in told]

    @property
    def _late(self) -> bool:
        return self.age_s is not None and self.age_s > STALE_S

    def _headline(self, found: list[str] | None) -> str:
        if self.problem is not None:
            return self.problem
        if self.agent is None or self.age_s is None:
            return {True: "runs, and has told nothing of itself yet", False: "none runs", None: "unknown"}[
                self.alive
            ]
        pid = self.agent.get("pid")
        if found is None:
            return f"none runs; PID {pid} ended without a stop, its last word is {ago(self.age_s)} old"
        sure = "runs" if self.alive else "may run (its lock cannot be asked as this user)"
        long = ""
        with suppress(*_MALFORMED):
            long = f" for {ago((self.unix_ns - self.agent['started_unix_ns']) / NS_PER_S)}"
        state = "healthy" if not found else "1 problem" if len(found) == 1 else f"{len(found)} problems"
        return f"PID {pid} {sure}{long}, {state}"


def look(ring_dir: Path, unix_ns: int) -> Seen:
    """Read what the agent of a folder told last; raises nothing and changes nothing."""
    alive = _locked(ring_dir / LOCK_FILE)
    path = ring_dir / STATE_FILE
    try:
        file = open_regular(path, os.O_RDONLY)
        with os.fdopen(file, "rb") as opened:
            document = json.loads(opened.read(_MOST_BYTES))
        if document["version"] != _FORMAT_VERSION or not isinstance(document["agent"], dict):
            raise ValueError("of another version")
        age_s = max(0.0, (unix_ns - int(document["written_unix_ns"])) / NS_PER_S)
        told = _finite(document["agent"])
    except FileNotFoundError:
        return Seen(ring_dir, alive)
    except OSError as error:
        return Seen(ring_dir, alive, problem=f"{path.name} cannot be read: {error.strerror}")
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        return Seen(ring_dir, alive, problem=f"{path.name} cannot be used: {one_line(str(error), 200)}")
    return Seen(ring_dir, alive, age_s, told, unix_ns=unix_ns)


def _locked(path: Path) -> bool | None:
    """Tell whether somebody holds the lock, by trying it: for that instant an agent that starts would be refused."""
    try:
        file = open_regular(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(file)
    return False


def _finite(value: Any) -> Any:
    """Return a value as JSON has it: null for numbers that it lacks, as the condition number of a singular fit."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    if hasattr(value, "item"):
        return _finite(value.item())  # a number of numpy's
    return None if isinstance(value, float) and not math.isfinite(value) else value
