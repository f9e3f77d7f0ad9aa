"""Burn-rate alerts on objectives for TTFT and TPOT, by the multi-window rules of the Google SRE workbook, chapter 5.

The burn rate is the share of slow requests over the share that the objective allows: at 1 the budget of 30 days lasts for
30 days. A rule needs it in a long window (it matters) and in a short one (it still goes on). Requests are counted by
minute of the event that the objective is about, a sampled one as often as it stands for others.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from vtprof_analyzer.regress.requests import Flags, Floats, Integers, Requests
from vtprof_analyzer.watch.alerts import Severity

Metric = Literal["ttft", "tpot"]


@dataclass(frozen=True)
class Rule:
    """One line of the workbook's table."""

    severity: Severity
    burn_rate: float
    long_minutes: int
    short_minutes: int


RULES: Final = (
    Rule("critical", 14.4, 60, 5),
    Rule("critical", 6.0, 6 * 60, 30),
    Rule("warning", 1.0, 3 * 24 * 60, 6 * 60),
)
"""A burn rate of b over w hours spends b * w / 720 of the budget of 30 days: 2 %, 5 % and 10 %."""
BUDGET_DAYS: Final = 30
LEAST_BAD: Final = 10
"""Slow requests in the long window below which no rule fires, so that 1 of 3 requests at night wakes nobody."""
ENDS_AFTER_MINUTES: Final = 5
"""An alert ends when its rules have not held for so long, so that a rate about the limit does not flap."""
MOST_OF_ALL: Final = 0.9
"""Share of slow requests at which a rule fires whose burn rate the objective cannot reach: 14.4 x 10 % is more than all."""
_MINUTE_NS: Final = 60_000_000_000
_WINDOW: Final = max(rule.long_minutes for rule in RULES)
_SHORTEST: Final = min(rule.short_minutes for rule in RULES)
_CHUNK: Final = 24 * 60
"""Minutes that are counted before they are judged, at most."""
_RING: Final = _WINDOW + _CHUNK
_HOURS: Final = BUDGET_DAYS * 24
_NEVER: Final = -1


@dataclass(frozen=True)
class Burn:
    """An objective's budget is being spent too fast."""

    metric: Metric
    limit_ms: float
    target_ratio: float
    severity: Severity
    rule: Rule
    burn_long: float
    burn_short: float
    bad_requests: int
    """Slow ones of the long window, as they were kept."""
    bad_ratio: float
    """Of the long window's requests."""
    budget_left_ratio: float
    """Of the budget of 30 days, were the rest of them as busy as what was seen; below 0: overspent."""
    burn_seen: float
    """Burn rate over all that was seen of these 30 days."""
    seen_minutes: int
    began_unix_nano: int
    time_unix_nano: int


@dataclass(frozen=True)
class BurnOver:
    """It is spent slowly enough again."""

    metric: Metric
    severity: Severity
    time_unix_nano: int


class Objective:
    """The requests of one objective by minute, and whether its rules hold."""

    def __init__(
        self, metric: Metric, limit_ms: float, target_ratio: float, least_bad: int = LEAST_BAD
    ) -> None:
        self.metric: Metric = metric
        self.limit_ms = limit_ms
        self.target_ratio = target_ratio
        self.late = 0
        """Requests that came when their minute was no longer kept, or a day before it."""
        self._least_bad = least_bad
        self._allowed = 1 - target_ratio
        # All, slow ones, slow ones unweighted: a column each minute of a ring.
        self._minutes: Floats = np.zeros((3, _RING))
        self._hours: Floats = np.zeros((2, _HOURS))
        self._first = self._newest = self._judged = self._newest_hour = _NEVER
        self._fires: dict[Severity, bool] = {"critical": False, "warning": False}
        self._calm: dict[Severity, int] = {"critical": 0, "warning": 0}

    def add(self, requests: Requests, until_ns: int) -> list[Burn | BurnOver]:
        """Count requests, and judge every minute that ends until then."""
        at, bad, weight = self._events(requests)
        # A clock that runs ahead must not push out what is kept.
        sound = at <= until_ns // _MINUTE_NS + _CHUNK
        self.late += int(np.count_nonzero(~sound))
        at, bad, weight = at[sound], bad[sound], weight[sound]
        order = np.argsort(at, kind="stable")
        at, bad, weight = at[order], bad[order], weight[order]
        told: list[Burn | BurnOver] = []
        while len(at):
            # The ring holds what is judged next to what is counted: a batch of many days goes in by the day.
            upto = int(at[0]) + _CHUNK
            if self._judged != _NEVER:
                upto = max(upto, self._judged + _CHUNK)
            now = int(np.searchsorted(at, upto))
            self._count(at[:now], bad[:now], weight[:now])
            at, bad, weight = at[now:], bad[now:], weight[now:]
            if len(at):
                told += self._judge(min(upto, int(until_ns // _MINUTE_NS)) - 1)
        return told + self._judge(int(until_ns // _MINUTE_NS) - 1)

    def firing(self) -> tuple[Severity, ...]:
        """Return of which severities its alerts fire."""
        return tuple(severity for severity, fires in self._fires.items() if fires)

    def burn_rates(self) -> dict[str, float]:
        """Return the burn rate of every window up to the newest judged minute, by its length as Prometheus writes it."""
        minutes = sorted({minute for rule in RULES for minute in (rule.long_minutes, rule.short_minutes)})
        if self._judged == _NEVER:
            return {}
        sums = {minute: self._sums(self._judged, minute) for minute in minutes}
        return {_spelled(minute): self._burn(total, bad) for minute, (total, bad, _) in sums.items()}

    def budget_left(self) -> float:
        """Return what is left of the budget, by the last 30 days: burn rate x time seen / 30 days is spent."""
        return 1.0 if self._judged == _NEVER else self._budget(self._judged)[0]

    def state(self) -> dict[str, Any]:
        """Return all as plain JSON."""
        return {
            "limit_ms": self.limit_ms,
            "target_ratio": self.target_ratio,
            "first": self._first,
            "newest": self._newest,
            "judged": self._judged,
            "newest_hour": self._newest_hour,
            "late": self.late,
            "minutes": _sparse(self._minutes),
            "hours": _sparse(self._hours),
            "fires": dict(self._fires),
            "calm": dict(self._calm),
        }

    def restore(self, state: Mapping[str, Any]) -> bool:
        """Go on from a state; return False, and begin anew, where that is of another limit or target.

        Raises ValueError, KeyError or TypeError where it is none.
        """
        if (float(state["limit_ms"]), float(state["target_ratio"])) != (self.limit_ms, self.target_ratio):
            return False
        self._minutes, self._hours = _dense(state["minutes"], 3, _RING), _dense(state["hours"], 2, _HOURS)
        self._first, self._newest, self._judged, self._newest_hour = (
            int(state[name]) for name in ("first", "newest", "judged", "newest_hour")
        )
        self.late = int(state["late"])
        for severity in self._fires:
            self._fires[severity] = bool(state["fires"][severity])
            self._calm[severity] = int(state["calm"][severity])
        return True

    def _events(self, q: Requests) -> tuple[Integers, Flags, Floats]:
        """Return minute, slowness and weight of those that the objective is about."""
        with np.errstate(invalid="ignore"):
            first = q.start_ns + np.nan_to_num(q.ttft_ms) * 1e6
            if self.metric == "ttft":
                value, at = q.ttft_ms, first
            else:
                value = np.where(q.output_tokens >= 2, q.tpot_ms, np.nan)
                at = first + np.nan_to_num(q.tpot_ms * (q.output_tokens - 1)) * 1e6
            known = np.isfinite(value) & (q.weight > 0)
        minutes: Integers = (at[known] // _MINUTE_NS).astype(np.int64)
        return minutes, value[known] > self.limit_ms, q.weight[known]

    def _count(self, at: Integers, bad: Flags, weight: Floats) -> None:
        if not len(at):
            return
        newest = int(at[-1])
        self._roll(newest)
        kept = at > self._newest - _RING
        self.late += int(np.count_nonzero(~kept))
        at, bad, weight = at[kept], bad[kept], weight[kept]
        if not len(at):
            return
        self._first = int(at[0]) if self._first == _NEVER else min(self._first, int(at[0]))
        slots = at % _RING
        np.add.at(self._minutes[0], slots, weight)
        np.add.at(self._minutes[1], slots, weight * bad)
        np.add.at(self._minutes[2], slots, bad.astype(float))
        hours = at // 60
        recent = hours > self._newest_hour - _HOURS
        np.add.at(self._hours[0], hours[recent] % _HOURS, weight[recent])
        np.add.at(self._hours[1], hours[recent] % _HOURS, (weight * bad)[recent])

    def _roll(self, minute: int) -> None:
        """Make room for the minutes up to one, and for its hour."""
        self._newest = _clear(self._minutes, self._newest, minute)
        self._newest_hour = _clear(self._hours, self._newest_hour, minute // 60)

    def _judge(self, minute: int) -> list[Burn | BurnOver]:
        """Judge every minute up to one."""
        if self._first == _NEVER or minute <= self._judged:
            return []
        begin = max(self._first, minute - _CHUNK + 1, self._judged + 1 if self._judged != _NEVER else 0)
        self._roll(minute)
        if begin > minute:
            return []
        judged = np.arange(begin, minute + 1)
        span = np.arange(begin - _WINDOW, minute + 1)
        columns = np.where(span > self._newest - _RING, self._minutes[:, span % _RING], 0.0)
        sums = np.concatenate([np.zeros((3, 1)), np.cumsum(columns, axis=1)], axis=1)
        ends = judged - span[0] + 1
        holds = np.array([self._holds(rule, sums, ends, judged) for rule in RULES])
        fresh = sums[2, ends] - sums[2, ends - _SHORTEST] > 0.5
        told = []
        for at, now in enumerate(judged.tolist()):
            for severity in self._fires:
                rules = [i for i, rule in enumerate(RULES) if rule.severity == severity and holds[i, at]]
                event = self._step(severity, RULES[rules[0]] if rules else None, now, bool(fresh[at]))
                if event is not None:
                    told.append(event)
        self._judged = minute
        return told

    def _holds(self, rule: Rule, sums: Floats, ends: Integers, judged: Integers) -> Flags:
        limit = min(rule.burn_rate, MOST_OF_ALL / self._allowed) * (1 - 1e-9)
        windows = [sums[:, ends] - sums[:, ends - size] for size in (rule.long_minutes, rule.short_minutes)]
        # A window that mostly lies before the first request says nothing yet.
        holds = judged - self._first + 1 >= rule.short_minutes
        for total, bad, _ in windows:
            holds &= (total > 0) & (bad >= limit * self._allowed * total)
        enough: Flags = windows[0][2] >= self._least_bad - 0.5
        return holds & enough

    def _step(
        self, severity: Severity, rule: Rule | None, minute: int, fresh: bool
    ) -> Burn | BurnOver | None:
        """``fresh``: requests were slow a moment ago; what only lies in the past fires nothing new."""
        if rule is not None:
            self._calm[severity] = 0
            if self._fires[severity] or not fresh:
                return None
            self._fires[severity] = True
            return self._told(rule, minute)
        self._calm[severity] += 1
        if not self._fires[severity] or self._calm[severity] < ENDS_AFTER_MINUTES:
            return None
        self._fires[severity] = False
        return BurnOver(self.metric, severity, (minute + 1) * _MINUTE_NS)

    def _told(self, rule: Rule, minute: int) -> Burn:
        total, bad, count = self._sums(minute, rule.long_minutes)
        short_total, short_bad, _ = self._sums(minute, rule.short_minutes)
        left, burn_seen, seen_minutes = self._budget(minute)
        return Burn(
            metric=self.metric,
            limit_ms=self.limit_ms,
            target_ratio=self.target_ratio,
            severity=rule.severity,
            rule=rule,
            burn_long=self._burn(total, bad),
            burn_short=self._burn(short_total, short_bad),
            bad_requests=round(count),
            bad_ratio=bad / total,
            budget_left_ratio=left,
            burn_seen=burn_seen,
            seen_minutes=seen_minutes,
            began_unix_nano=(minute + 1 - rule.short_minutes) * _MINUTE_NS,
            time_unix_nano=(minute + 1) * _MINUTE_NS,
        )

    def _sums(self, minute: int, size: int) -> tuple[float, float, float]:
        """Return the requests of a window that ends with a minute: all, slow ones, slow ones unweighted."""
        span = np.arange(minute - size + 1, minute + 1)
        columns = np.where(span > self._newest - _RING, self._minutes[:, span % _RING], 0.0)
        total, bad, count = columns.sum(axis=1).tolist()
        return total, bad, count

    def _budget(self, minute: int) -> tuple[float, float, int]:
        """Return what is left, the burn rate and the minutes that were seen, as of a judged minute.

        By whole hours before its own, and the minutes of that.
        """
        hour = minute // 60
        hours = np.arange(hour - _HOURS + 1, hour)
        total, bad = self._hours[:, hours[hours > self._newest_hour - _HOURS] % _HOURS].sum(axis=1)
        more, more_bad, _ = self._sums(minute, minute - hour * 60 + 1)
        total, bad = total + more, bad + more_bad
        whole = BUDGET_DAYS * 24 * 60
        seen = min(minute - self._first + 1, whole)
        burn = float(self._burn(total, bad))
        return 1 - burn * seen / whole, burn, seen

    def _burn(self, total: float, bad: float) -> float:
        return bad / total / self._allowed if total > 0 else 0.0


def _clear(ring: Floats, newest: int, upto: int) -> int:
    """Empty the columns that come after the newest, up to another; return which is the newest then."""
    if newest == _NEVER:
        ring[:] = 0
        return upto
    size = ring.shape[1]
    ring[:, np.arange(max(newest + 1, upto - size + 1), upto + 1) % size] = 0
    return max(newest, upto)


def _sparse(ring: Floats) -> list[list[float]]:
    """Return the columns that are not empty, each behind its place."""
    places = np.flatnonzero(ring.any(axis=0))
    return [[int(place), *ring[:, place].tolist()] for place in places]


def _dense(columns: list[list[float]], rows: int, size: int) -> Floats:
    ring = np.zeros((rows, size))
    for place, *values in columns:
        if not (isinstance(place, int) and 0 <= place < size and len(values) == rows):
            raise ValueError("a minute that cannot be")
        ring[:, place] = [float(value) for value in values]
    if not (np.isfinite(ring).all() and (ring >= 0).all()):
        raise ValueError("a count that cannot be")
    return ring


def _spelled(minutes: int) -> str:
    if minutes % 1440 == 0:
        return f"{minutes // 1440}d"
    return f"{minutes // 60}h" if minutes % 60 == 0 else f"{minutes}m"
