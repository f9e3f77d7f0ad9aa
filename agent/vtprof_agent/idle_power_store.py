"""Keeps what was seen of each GPU's idle power for the next agent, beside the rings: one JSON file, replaced as a whole.

On a GPU that never rests while an agent watches, nothing else tells it.
"""

import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, TypeGuard

from vtprof_agent.counters.idle_power import IdleSeen
from vtprof_agent.regular_file import open_regular
from vtprof_schemas.printable import one_line
from vtprof_schemas.units import NS_PER_S

logger = logging.getLogger(__name__)
IDLE_POWER_FILE: Final = "agent.idle_power.json"
KEPT_S: Final = 30 * 86400.0
"""Idle power hardly changes, but the driver, or what else runs on the node, may."""
LOOK_S: Final = 15.0
_FORMAT_VERSION: Final = 1
_MOST_GPUS: Final = 256
_MOST_BYTES: Final = 256 << 10
_LONGEST_ID: Final = 128
_HUGE: Final = 1e15
_SKEW_S: Final = 60.0
"""A clock that is set right while the node starts may go back so far."""
_POSSIBLE_MW: Final = (100.0, 10_000_000.0)
_SAME: Final = 1e-6
"""Relative difference below which a value is the one that was told, not one seen anew."""
_WORTH: Final = 0.02
"""Relative difference below which a file is not worth writing while the agent runs."""
_FRESH_S: Final = 86400.0
"""And the age of what it holds."""
_WHAT: Final = ("least_mw", "rest_mw")


class Meter(Protocol):
    """Who is told, and knows (see ``RollingMeter``)."""

    def tell_idle(self, hw_id: str, seen: IdleSeen) -> None:
        """Learn what an earlier agent saw."""

    def idle_seen(self) -> Mapping[str, IdleSeen]:
        """Return what the next agent is to be told."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A power, and when it was last seen."""

    mw: float
    unix_s: float


Kept = dict[str, dict[str, Stored]]
"""By GPU and ``_WHAT``."""


class Parsed(NamedTuple):
    """What is in a file."""

    kept: Kept
    refused: list[str]
    """GPUs whose entry cannot be used."""
    old: list[str]
    """GPUs of which something is older than ``KEPT_S``, and left out."""
    ahead: list[str]
    """GPUs of which something is of a time to come, and counts as of now."""


class IdlePowerStore:
    """Tells the meter at the start what is stored, and stores what it knows every now and then, and at the end."""

    def __init__(self, ring_dir: Path, meter: Meter, clock_s: Callable[[], float] = time.time) -> None:
        """Load what an earlier agent left in this folder, and tell the meter; what cannot be used is one line."""
        self._path = ring_dir / IDLE_POWER_FILE
        self._meter, self._clock_s = meter, clock_s
        self._next_ns: int | None = None
        self._failed = False
        found = self._load()
        self._kept = found.kept
        # A time to come is written anew as of now: else it were as of now at each start.
        self._written = {} if found.ahead else self._kept
        for uuid, of_gpu in self._kept.items():
            meter.tell_idle(uuid, IdleSeen(**{what: one.mw for what, one in of_gpu.items()}))

    def look(self, now_ns: int) -> None:
        """Store what is worth it, each ``LOOK_S``. Cheap in between."""
        if self._next_ns is None or now_ns >= self._next_ns:
            first, self._next_ns = self._next_ns is None, now_ns + int(LOOK_S * NS_PER_S)
            if not first:
                self._store(worth=_WORTH, fresh_s=_FRESH_S)

    def close(self) -> None:
        """Store what is known."""
        self._store(worth=_SAME, fresh_s=0.0)

    def _store(self, *, worth: float, fresh_s: float) -> None:
        now_s = self._clock_s()
        self._kept = merged(self._kept, self._meter.idle_seen(), now_s)
        recent = _recent(self._kept, now_s)
        if not _differ(recent, self._written, worth, fresh_s):
            return
        try:
            _write(self._path, recent)
            self._written, self._failed = recent, False
        except OSError as error:
            if not self._failed:
                logger.warning("%s: idle power cannot be stored: %s", self._path, error.strerror or error)
            self._failed = True

    def _load(self) -> Parsed:
        try:
            with os.fdopen(open_regular(self._path, os.O_RDONLY), "rb") as file:
                text = file.read(_MOST_BYTES + 1)
            found = parse(text, self._clock_s())
        except FileNotFoundError:
            return _nothing()
        except (OSError, ValueError, RecursionError) as error:
            logger.warning("%s: stored idle power cannot be used: %s", self._path, one_line(str(error)))
            return _nothing()
        for gpus, say, what in (
            (found.refused, logger.warning, "cannot be used and are left out"),
            (found.old, logger.info, f"are older than {KEPT_S / 86400:g} days and are left out"),
            (
                found.ahead,
                logger.warning,
                "are of a time to come and count as of now: was the clock set back?",
            ),
        ):
            if gpus:
                said = "%s: %d stored idle powers " + what + " (%s%s)"
                say(said, self._path, len(gpus), gpus[0], ", ..." if len(gpus) > 1 else "")
        return found


def merged(kept: Kept, seen: Mapping[str, IdleSeen], now_s: float) -> Kept:
    """Return what is to be kept: of GPUs that are here what holds now, of others what was kept; the newest only.

    What an earlier agent saw stays as old as it is.
    """
    found = {uuid: of_gpu for uuid, of_gpu in kept.items() if uuid not in seen}
    for uuid, one in seen.items():
        before = kept.get(uuid, {})
        of_gpu = {}
        for what in _WHAT:
            mw, old = getattr(one, what), before.get(what)
            if mw is not None and _possible(mw):
                told = old is not None and abs(mw - old.mw) <= _SAME * old.mw
                of_gpu[what] = old if old is not None and told else Stored(mw, now_s)
        if of_gpu and len(uuid) <= _LONGEST_ID:
            found[uuid] = of_gpu
    newest = sorted(found, key=lambda uuid: max(one.unix_s for one in found[uuid].values()))[-_MOST_GPUS:]
    return {uuid: found[uuid] for uuid in sorted(newest)}


def parse(text: bytes, now_s: float) -> Parsed:
    """Return what can be used of a file, and what of it cannot or is doubtful. Raises ValueError or RecursionError."""
    if len(text) > _MOST_BYTES:
        raise ValueError(f"it has more than {_MOST_BYTES} bytes")
    document = json.loads(text)
    if not isinstance(document, dict) or document.get("version") != _FORMAT_VERSION:
        raise ValueError(f"not a file of idle power of version {_FORMAT_VERSION}")
    gpus = document.get("gpus")
    if not isinstance(gpus, dict):
        raise ValueError("it holds no GPUs")
    found = _nothing()
    for uuid, of_gpu in gpus.items():
        good = _good(of_gpu) if len(uuid) <= _LONGEST_ID and len(found.kept) < _MOST_GPUS else None
        name = one_line(uuid, _LONGEST_ID)
        if good is None:
            found.refused.append(name)
            continue
        if any(now_s - one.unix_s > KEPT_S for one in good.values()):
            found.old.append(name)
        if any(one.unix_s - now_s > _SKEW_S for one in good.values()):
            found.ahead.append(name)
        # A clock that was set back makes it new.
        here = {what: replace(one, unix_s=min(one.unix_s, now_s)) for what, one in good.items()}
        found.kept.update(_recent({uuid: here}, now_s))
    return found


def _nothing() -> Parsed:
    return Parsed({}, [], [], [])


def _good(of_gpu: Any) -> dict[str, Stored] | None:
    """Return what is told of a GPU; None when anything of it cannot be."""
    if not isinstance(of_gpu, dict) or not of_gpu.keys() <= set(_WHAT):
        return None
    good = {}
    for what, one in of_gpu.items():
        mw, unix_s = (one.get("mw"), one.get("unix_s")) if isinstance(one, dict) else (None, None)
        if not _is_number(mw) or not _is_number(unix_s) or not _possible(mw) or unix_s < 0:
            return None
        good[what] = Stored(float(mw), float(unix_s))
    return good


def _is_number(value: Any) -> TypeGuard[float]:
    return type(value) in (int, float) and -_HUGE < value < _HUGE


def _possible(mw: float) -> bool:
    least, most = _POSSIBLE_MW
    return least <= mw <= most


def _recent(kept: Kept, now_s: float) -> Kept:
    recent = {
        uuid: {what: one for what, one in of_gpu.items() if now_s - one.unix_s <= KEPT_S}
        for uuid, of_gpu in kept.items()
    }
    return {uuid: of_gpu for uuid, of_gpu in recent.items() if of_gpu}


def _differ(one: Kept, other: Kept, worth: float, fresh_s: float) -> bool:
    if {uuid: of_gpu.keys() for uuid, of_gpu in one.items()} != {
        uuid: of_gpu.keys() for uuid, of_gpu in other.items()
    }:
        return True
    pairs = [(one[uuid][what], other[uuid][what]) for uuid in one for what in one[uuid]]
    return any(abs(a.mw - b.mw) > worth * b.mw or a.unix_s - b.unix_s > fresh_s for a, b in pairs)


def _write(path: Path, kept: Kept) -> None:
    """Replace the file, which is its owner's alone; raises OSError."""
    gpus = {
        uuid: {what: {"mw": one.mw, "unix_s": one.unix_s} for what, one in of_gpu.items()}
        for uuid, of_gpu in kept.items()
    }
    temporary = ""
    try:
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=path.name + ".", delete=False) as file:
            temporary = file.name
            json.dump({"version": _FORMAT_VERSION, "gpus": gpus}, file)
        Path(temporary).replace(path)
    except OSError:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise
