"""What came since the last poll becomes notifications: the detector, the objectives, the forecast and the book of alerts.

Nothing here reads a file, a clock or a socket: who calls it says what time it is.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, Protocol

import numpy as np

from vtprof_analyzer.regress.requests import Requests
from vtprof_analyzer.watch import wording
from vtprof_analyzer.watch.alerts import Alert, AlertBook, Notification, fingerprint
from vtprof_analyzer.watch.events import Alarm, Batch, Event, Gap, LeftOut, Level, LoadUnknown, Standing
from vtprof_analyzer.watch.figures import Figures
from vtprof_analyzer.watch.kv_forecast import HORIZON_S, Exhaustion, KvForecast
from vtprof_analyzer.watch.slo import Burn, Objective
from vtprof_schemas.units import NS_PER_S

AHEAD_S: Final = 600.0
"""A request that starts later than that from now has a wrong clock, and is left out."""
SETTLES_S: Final = 120.0
"""Where nothing arrives, time goes on without requests so far behind the clock on the wall."""
LAST_S: Final = 60
"""A request that was read once counts for objectives until so long after its start."""
AHEAD: Final = "start lies in the future"
_MINUTE_NS: Final = 60 * NS_PER_S
_NOTED_NS: Final = 10 * _MINUTE_NS
_MANY_TIMES: Final = 100
"""A silence of so many times the mean time between two requests is noted, from that length on."""


class Detector(Protocol):
    """What is asked of the sequential detector."""

    @property
    def counts(self) -> Counter[str]:
        """Return counts of requests: "judged", "late", "not comparable", "unknown model"; and "blocks"."""
        ...

    def add(self, requests: Requests, settled_until_ns: int) -> Sequence[Event]:
        """Take requests; return what changed."""
        ...

    @property
    def unknown_models(self) -> Mapping[str, int]:
        """Return requests by model, of models that BASE has not."""
        ...

    def base_lacks(self, model: str) -> tuple[str, ...] | None:
        """Return the columns that BASE lacks of such a model, if it has requests of it; else None."""
        ...

    @property
    def left_out(self) -> Sequence[LeftOut]:
        """Return what requests or BASE do not carry, and what is not judged for that reason."""
        ...

    @property
    def gaps(self) -> Sequence[Gap]:
        """Return what was left out for a while, and is compared again."""
        ...

    @property
    def load_unknown(self) -> Sequence[LoadUnknown]:
        """Return the models of which phases are judged though BASE does not tell their load."""
        ...

    def levels(self) -> Sequence[Level]:
        """Return how each test stands."""
        ...

    def firing(self) -> Sequence[Alarm]:
        """Return the alarms that are not over, as they are known now."""
        ...

    def standings(self) -> Sequence[Standing]:
        """Return what is known of each phase of each model."""
        ...

    def state(self) -> dict[str, Any]:
        """Return all as plain JSON."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; raises ValueError, KeyError or TypeError where it is none."""
        ...


@dataclass(frozen=True)
class Limits:
    """What alerts, beside regressions. Only what is given is watched; the KV cache is where it is recorded."""

    slo_ttft_ms: float | None = None
    slo_tpot_ms: float | None = None
    slo_target_ratio: float = 0.99
    kv_horizon_s: float = HORIZON_S
    no_data_s: float | None = None


@dataclass
class Judge:
    """Holds all that is known of the service."""

    detector: Detector
    labels: wording.Labels
    limits: Limits
    begun_s: float
    """When the watch began, Unix time [s]."""
    book: AlertBook = field(default_factory=AlertBook)
    skipped: Counter[str] = field(default_factory=Counter)
    seen: int = 0
    newest_ns: int = 0
    """Start of the newest request; 0: none."""

    def __post_init__(self) -> None:
        """Set up what the limits ask for."""
        limits = self.limits
        given = (("ttft", limits.slo_ttft_ms), ("tpot", limits.slo_tpot_ms))
        self.objectives = {
            name: Objective(name, limit, limits.slo_target_ratio)  # type: ignore[arg-type]
            for name, limit in given
            if limit is not None
        }
        self.kv = KvForecast(limits.kv_horizon_s)
        self._arrived_s = self.begun_s
        self._minutes: dict[int, tuple[int, int]] = {}
        """Of what is read once: start of the first and of the last request of each minute that has any."""
        self._fired: Counter[str] = Counter()

    def take(self, batch: Batch, now_s: float, *, follows: bool) -> list[Notification]:
        """Judge a batch; return whom to tell what. ``follows``: time goes on by the clock where nothing arrives."""
        latest_ns = int((now_s + AHEAD_S) * 1e9)
        requests = self._sound(batch.requests, latest_ns)
        self.skipped.update(batch.skipped)
        settled_ns = min(batch.settled_until_ns, latest_ns)
        self.seen += len(requests)
        if len(requests):
            self.newest_ns = max(self.newest_ns, int(requests.start_ns.max()))
        elif follows and batch.caught_up:
            settled_ns = max(settled_ns, int((now_s - SETTLES_S) * 1e9))
        if not follows:
            # What is read once ends with its newest request, however long ago that was.
            settled_ns = min(settled_ns, self.newest_ns + LAST_S * NS_PER_S)
            self._note_minutes(requests)
        told = [
            *self._regressions(requests, min(batch.settled_until_ns, latest_ns + LAST_S * NS_PER_S), now_s),
            *self._objectives(requests, settled_ns, now_s),
            *self._caches(batch, settled_ns, latest_ns, now_s),
            *(self._silence(bool(len(requests)), now_s) if follows else []),
        ]
        self._fired.update(one.alert.kind for one in told if one.status == "firing")
        return told

    def notes(self) -> list[str]:
        """Return what the operator should know of what is not judged."""
        return [
            *(
                wording.unknown_model(model, self.detector.base_lacks(model))
                for model in self.detector.unknown_models
            ),
            *(wording.left_out(one) for one in self.detector.left_out),
            *(wording.gap(one) for one in self.detector.gaps),
            *(wording.load_unknown(one) for one in self.detector.load_unknown),
        ]

    @property
    def insufficient(self) -> bool:
        """Say whether too little was judged to tell that nothing is wrong."""
        counts = self.detector.counts
        judged = counts.get("judged", 0)
        return not counts.get("blocks", 0) or 2 * judged < judged + _not_comparable(counts)

    def insufficient_notes(self) -> list[str]:
        """Return what to say of a look that no alarm tells nothing of."""
        if not self.seen or not self.insufficient:
            return []
        counts = self.detector.counts
        return [wording.insufficient(self.seen, counts.get("judged", 0), counts.get("blocks", 0))]

    def figures(self) -> Figures:
        """Return the numbers for Prometheus; who polls adds his own."""
        counts = self.detector.counts
        firing: Counter[tuple[str, str]] = Counter()
        for entry in self.book.firing():
            firing[entry.alert.kind, str(entry.alert.detail.get("phase", ""))] += 1
        instances = self.kv.instances
        return Figures(
            seen=self.seen,
            judged=counts.get("judged", 0),
            late=counts.get("late", 0),
            not_comparable=_not_comparable(counts),
            blocks=counts.get("blocks", 0),
            skipped=self.skipped.total(),
            refused_alerts=self.book.refused,
            newest_request_s=self.newest_ns / 1e9 if self.newest_ns else None,
            firing=dict(firing),
            fired=dict(self._fired),
            levels=tuple(self.detector.levels()),
            burn_rates={
                (name, window): rate
                for name, objective in self.objectives.items()
                for window, rate in objective.burn_rates().items()
            },
            budget_left={name: one.budget_left() for name, one in self.objectives.items()},
            kv_used={one.name: one.used_ratio for one in instances},
            kv_seconds={one.name: one.forecast.seconds for one in instances if one.forecast is not None},
        )

    def state(self) -> dict[str, Any]:
        """Return all as plain JSON."""
        return {
            "detector": self.detector.state(),
            "objectives": {name: objective.state() for name, objective in self.objectives.items()},
            "kv": self.kv.state(),
            "book": self.book.state(),
            "newest_ns": self.newest_ns,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; raises ValueError, KeyError or TypeError where it is none."""
        self.detector.restore(state["detector"])
        for name, objective in self.objectives.items():
            if name in state["objectives"]:
                objective.restore(state["objectives"][name])
        self.kv.restore(state["kv"])
        self.book.restore(state["book"])
        self.newest_ns = int(state["newest_ns"])
        if self.newest_ns:
            self._minutes[self.newest_ns // _MINUTE_NS] = (self.newest_ns, self.newest_ns)

    def end_orphans(self, now_s: float) -> list[Notification]:
        """End alerts of objectives that are watched no longer, or with another limit: nothing else would."""
        held = set()
        for name, objective in self.objectives.items():
            for severity in objective.firing():
                held.add(fingerprint(dict(self.labels.slo_burn(name, severity))))  # type: ignore[arg-type]
        orphans = [
            entry.alert
            for entry in self.book.firing()
            if (entry.alert.kind == "slo_burn" and entry.alert.fingerprint not in held)
            or (entry.alert.kind == "no_data" and self.limits.no_data_s is None)
        ]
        ended = (
            self.book.end(
                alert.fingerprint, alert.time_unix_nano, now_s, "no_longer_watched", wording.NO_LONGER_WATCHED
            )
            for alert in orphans
        )
        return [told for told in ended if told is not None]

    def _sound(self, requests: Requests, latest_ns: int) -> Requests:
        ahead = requests.start_ns > latest_ns
        count = int(np.count_nonzero(ahead))
        if not count:
            return requests
        self.skipped[AHEAD] += count
        return requests.select(~ahead)

    def _regressions(self, requests: Requests, settled_ns: int, now_s: float) -> list[Notification]:
        told: list[Notification | None] = []
        for event in self.detector.add(requests, settled_ns):
            if isinstance(event, Alarm):
                told.append(self.book.fire(wording.regression(self.labels, event), now_s))
            else:
                key = fingerprint(dict(self.labels.regression(event.phase, event.kind, event.model)))
                if event.last is not None:
                    self._update(event.last, now_s)
                because = wording.because(event)
                told.append(self.book.end(key, event.ended_unix_nano, now_s, event.why, because))
        for alarm in self.detector.firing():
            self._update(alarm, now_s)
        return [one for one in told if one is not None]

    def _update(self, alarm: Alarm, now_s: float) -> None:
        """Keep the newest numbers of an alert that fires."""
        alert = wording.regression(self.labels, alarm)
        if any(entry.alert.fingerprint == alert.fingerprint for entry in self.book.firing()):
            self.book.fire(alert, now_s)

    def _objectives(self, requests: Requests, settled_ns: int, now_s: float) -> list[Notification]:
        told: list[Notification | None] = []
        for objective in self.objectives.values():
            for event in objective.add(requests, settled_ns):
                if isinstance(event, Burn):
                    told.append(self.book.fire(wording.slo_burn(self.labels, event), now_s))
                else:
                    key = fingerprint(dict(self.labels.slo_burn(event.metric, event.severity)))
                    told.append(self.book.end(key, event.time_unix_nano, now_s))
        return [one for one in told if one is not None]

    def _caches(self, batch: Batch, settled_ns: int, latest_ns: int, now_s: float) -> list[Notification]:
        samples = [sample for sample in batch.kv if sample.time_ns <= latest_ns]
        self.skipped[AHEAD] += len(batch.kv) - len(samples)
        told: list[Notification | None] = []
        for event in [*self.kv.add(samples), *self.kv.settle(settled_ns)]:
            if isinstance(event, Exhaustion):
                told.append(self.book.fire(wording.kv_exhaustion(self.labels, event), now_s))
            else:
                key = fingerprint(dict(self.labels.kv_exhaustion(event.instance)))
                because = wording.INSTANCE_SILENT if event.why == "no_longer_judged" else ""
                told.append(self.book.end(key, event.time_unix_nano, now_s, event.why, because))
        return [one for one in told if one is not None]

    def silences(self, now_s: float) -> list[Notification]:
        """Return what to tell of silence once all is read: of each that was too long, and of the one until now.

        There is no arrival to see: the requests' own times stand for it.
        """
        limit = self.limits.no_data_s
        told: list[Notification | None] = []
        for last_ns, first_ns in self._gaps():
            if limit is not None and first_ns - last_ns >= limit * NS_PER_S:
                alert = wording.no_data(self.labels, last_ns, last_ns + int(limit * NS_PER_S), limit)
                told.append(self.book.fire(alert, now_s))
                told.append(self.book.end(alert.fingerprint, first_ns, now_s))
        return [*(one for one in told if one is not None), *self._silent(now_s, self.newest_ns / 1e9)]

    def silence_notes(self) -> list[str]:
        """Return what to say of the longest silence in what was read, where nobody said how long is too long."""
        last_ns, first_ns = max(self._gaps(), key=lambda gap: gap[1] - gap[0], default=(0, 0))
        usual_ns = (self.newest_ns - min(self._minutes.values(), default=(0, 0))[0]) / max(self.seen, 1)
        noted = first_ns - last_ns >= max(_NOTED_NS, _MANY_TIMES * usual_ns)
        return [wording.silence(last_ns, first_ns)] if noted and self.limits.no_data_s is None else []

    def _note_minutes(self, requests: Requests) -> None:
        minutes, begin = np.unique(requests.start_ns // _MINUTE_NS, return_index=True)
        firsts, lasts = requests.start_ns[begin], requests.start_ns[[*(begin[1:] - 1), -1][: len(begin)]]
        for minute, first, last in zip(minutes.tolist(), firsts.tolist(), lasts.tolist(), strict=True):
            known = self._minutes.get(minute, (first, last))
            self._minutes[minute] = (min(first, known[0]), max(last, known[1]))

    def _gaps(self) -> list[tuple[int, int]]:
        """Return the start of the last request of each minute with one, and of the first one after it."""
        spells = sorted(self._minutes.values())
        return [(last, first) for (_, last), (first, _) in pairwise(spells)]

    def _silence(self, arrived: bool, now_s: float) -> list[Notification]:
        if arrived:
            self._arrived_s = now_s
        return self._silent(now_s, self._arrived_s)

    def _silent(self, now_s: float, since_s: float) -> list[Notification]:
        limit = self.limits.no_data_s
        if limit is None:
            return []
        now_ns = int(now_s * 1e9)
        alert: Alert = wording.no_data(self.labels, self.newest_ns, now_ns, limit)
        told = (
            self.book.fire(alert, now_s)
            if now_s - since_s >= limit
            else self.book.end(alert.fingerprint, now_ns, now_s)
        )
        return [] if told is None else [told]


def _not_comparable(counts: Mapping[str, int]) -> int:
    return counts.get("not comparable", 0) + counts.get("unknown model", 0)
