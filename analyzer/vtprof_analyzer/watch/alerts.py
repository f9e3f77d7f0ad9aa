"""Alerts and their lives: one fires once, is repeated while it lasts, and is resolved once, whatever restarts between.

The book of alerts is plain: who calls it says what fires and what is over; it says what others have to be told.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, cast, get_args

from vtprof_analyzer.watch.events import Why
from vtprof_schemas.printable import one_line

Kind = Literal["regression", "slo_burn", "kv_exhaustion", "no_data"]
Severity = Literal["critical", "warning"]
"""critical: wake somebody; warning: look at it in working hours."""
Status = Literal["firing", "resolved"]

NAMES: Final[dict[Kind, str]] = {
    "regression": "VtprofRegression",
    "slo_burn": "VtprofSloBurn",
    "kv_exhaustion": "VtprofKvExhaustion",
    "no_data": "VtprofNoData",
}
"""The label ``alertname``."""
MOST_ALERTS: Final = 1000
"""Kept at a time. There are fewer phases, models and instances than that; more are counted, and not told of."""
KEPT_S: Final = 15 * 60.0
"""A resolved alert is repeated as resolved so long, for receivers that missed it; Prometheus does the same."""
_LABEL: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_LONGEST_LABEL: Final = 128
_LONGEST_TEXT: Final = 1000
_DIGEST: Final = 8


@dataclass(frozen=True)
class Alert:
    """Something that is wrong with the service, as others are told of it."""

    kind: Kind
    severity: Severity
    labels: tuple[tuple[str, str], ...]
    """What tells it from other alerts, ``alertname`` and ``severity`` among it; in order of name, clean."""
    began_unix_nano: int
    """When what it tells of began, as far as is known."""
    time_unix_nano: int
    """Time in the data at which it was clear."""
    summary: str
    description: str
    detail: Mapping[str, Any] = field(default_factory=dict)
    """What is particular to its kind, as plain JSON; None: not known."""

    @property
    def fingerprint(self) -> str:
        """Return what stands for its labels."""
        return fingerprint(dict(self.labels))


@dataclass(frozen=True)
class Notification:
    """What others have to be told: an alert fires, or is over."""

    status: Status
    alert: Alert
    time_unix_nano: int
    """Time in the data."""
    number: int
    """Of this alert's firings; a firing and its end have the same."""
    why: Why | None = None
    """Why it is over; None: it is not."""
    because: str = ""
    """In words, where that is not because it recovered."""

    @property
    def id(self) -> str:
        """Return what is the same whenever this firing is told of, for receivers that were told twice."""
        # With a state that was begun anew the numbers begin anew, too.
        return f"{self.alert.fingerprint}-{self.alert.time_unix_nano:x}-{self.number}"


@dataclass(frozen=True)
class Entry:
    """An alert in the book."""

    alert: Alert
    number: int
    fired_s: float
    """By the clock on the wall, Unix time [s]."""
    ended_s: float | None = None
    ended_unix_nano: int = 0
    why: Why | None = None
    because: str = ""


class AlertBook:
    """Which alerts fire, and which were over a moment ago."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._firings = 0
        self.refused = 0
        """Alerts beyond `MOST_ALERTS`."""

    def fire(self, alert: Alert, now_s: float) -> Notification | None:
        """Note that an alert fires; return what to tell, None where that is known. Its newest numbers are kept."""
        known = self._entries.get(alert.fingerprint)
        if known is not None and known.ended_s is None:
            began = min(alert.began_unix_nano, known.alert.began_unix_nano)
            kept = replace(alert, began_unix_nano=began, time_unix_nano=known.alert.time_unix_nano)
            self._entries[alert.fingerprint] = replace(known, alert=kept)
            return None
        if known is None and len(self._entries) >= MOST_ALERTS and not self._make_room():
            self.refused += 1
            return None
        self._firings += 1
        self._entries[alert.fingerprint] = Entry(alert, self._firings, now_s)
        return Notification("firing", alert, alert.time_unix_nano, self._firings)

    def end(
        self, key: str, time_unix_nano: int, now_s: float, why: Why = "recovered", because: str = ""
    ) -> Notification | None:
        """Note that the alert of a fingerprint is over, and why; return what to tell, None where it did not fire."""
        known = self._entries.get(key)
        if known is None or known.ended_s is not None:
            return None
        ended = max(time_unix_nano, known.alert.began_unix_nano)
        because = clean_text(because)
        self._entries[key] = replace(known, ended_s=now_s, ended_unix_nano=ended, why=why, because=because)
        return Notification("resolved", known.alert, ended, known.number, why, because)

    def firing(self) -> tuple[Entry, ...]:
        """Return what fires."""
        return tuple(entry for entry in self._entries.values() if entry.ended_s is None)

    def entries(self, now_s: float) -> tuple[Entry, ...]:
        """Return what fires and what was over a moment ago; forget what was over before."""
        self._entries = {
            key: entry
            for key, entry in self._entries.items()
            # A clock that was set back must not keep an entry for ever.
            if entry.ended_s is None or abs(now_s - entry.ended_s) <= KEPT_S
        }
        return tuple(self._entries.values())

    def state(self) -> dict[str, Any]:
        """Return all as plain JSON."""
        return {
            "firings": self._firings,
            "entries": [
                {
                    "kind": entry.alert.kind,
                    "severity": entry.alert.severity,
                    "labels": dict(entry.alert.labels),
                    "began_unix_nano": entry.alert.began_unix_nano,
                    "time_unix_nano": entry.alert.time_unix_nano,
                    "summary": entry.alert.summary,
                    "description": entry.alert.description,
                    "detail": dict(entry.alert.detail),
                    "number": entry.number,
                    "fired_s": entry.fired_s,
                    "ended_s": entry.ended_s,
                    "ended_unix_nano": entry.ended_unix_nano,
                    "why": entry.why,
                    "because": entry.because,
                }
                for entry in self._entries.values()
            ],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; raises ValueError, KeyError or TypeError where it is none."""
        entries = {}
        for one in state["entries"]:
            alert = Alert(
                kind=cast(Kind, _one_of(one["kind"], get_args(Kind))),
                severity=cast(Severity, _one_of(one["severity"], get_args(Severity))),
                labels=clean_labels(one["labels"]),
                began_unix_nano=int(one["began_unix_nano"]),
                time_unix_nano=int(one["time_unix_nano"]),
                summary=clean_text(one["summary"]),
                description=clean_text(one["description"]),
                detail=dict(one["detail"]),
            )
            ended = None if one["ended_s"] is None else float(one["ended_s"])
            number, fired = int(one["number"]), float(one["fired_s"])
            why: Why | None = None
            if ended is not None:
                # A state of an older version does not tell.
                why = cast(Why, _one_of(one.get("why", "recovered"), get_args(Why)))
            because = clean_text(str(one.get("because", "")))
            ended_ns = int(one["ended_unix_nano"])
            entries[alert.fingerprint] = Entry(alert, number, fired, ended, ended_ns, why, because)
        self._firings = int(state["firings"])
        self._entries = entries

    def _make_room(self) -> bool:
        """Forget the alert that has been over for longest; return whether there was one."""
        over = [(entry.ended_s, key) for key, entry in self._entries.items() if entry.ended_s is not None]
        if not over:
            return False
        del self._entries[min(over)[1]]
        return True


def clean_labels(labels: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return labels as Alertmanager takes them, in order of name; raises ValueError for a name that is none.

    Values come from traces: what is not printable is spelled out, long ones are cut and keep a digest of the whole, so
    that two long names stay two. One that is empty is no label.
    """
    cleaned = []
    for name, value in sorted(labels.items()):
        if not _LABEL.fullmatch(name) or name.startswith("__"):
            raise ValueError(f"{name!r} is no label name")
        if not isinstance(value, str):
            raise TypeError(f"label {name}: {value!r} is no text")
        if value:
            cleaned.append((name, _bounded(value)))
    return tuple(cleaned)


def clean_text(text: str) -> str:
    """Return a text of one line, of bounded length."""
    return one_line(text, _LONGEST_TEXT)


def fingerprint(labels: Mapping[str, str]) -> str:
    """Return what stands for a set of labels: the same wherever and whenever it is made."""
    whole = "\0".join(f"{name}\0{value}" for name, value in sorted(labels.items()))
    return hashlib.sha256(whole.encode("utf-8", "backslashreplace")).hexdigest()[:16]


def _bounded(value: str) -> str:
    spelled = one_line(value)
    if len(spelled) <= _LONGEST_LABEL:
        return spelled
    digest = hashlib.sha256(value.encode("utf-8", "backslashreplace")).hexdigest()[:_DIGEST]
    return f"{spelled[: _LONGEST_LABEL - _DIGEST - 1]}…{digest}"


def _one_of(value: Any, known: tuple[str, ...]) -> str:
    if value not in known:
        raise ValueError(f"{value!r} is none of {', '.join(known)}")
    return str(value)
