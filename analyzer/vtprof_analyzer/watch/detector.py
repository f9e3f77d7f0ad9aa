"""Tells a slower engine from bigger images and more load while requests come: blocks of requests held against BASE.

Of each phase (but the queue) and served model, what BASE's cost model does not explain goes, 60 requests to a block in
order of start, to two sequential detectors (`e_detector` has their assumptions): one of the mean, cut at the requests
that lie far from their block's median, and one of the share of those far beyond it. The average run length to a false
alarm is that of all phases, kinds and models together, in blocks: each phase and kind has a share of it, and a model
adds blocks, not alarms a block. Requests are not weighed: BASE is to be sampled as the stream is.

What BASE's requests carry and those of the stream do not (or the other way round, or in another unit) is left out of both
(`columns`, `yardsticks`); where that changes what a phase is held against, its blocks begin anew, and its alarm is over.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import numpy as np

from vtprof_analyzer.regress.base_model import Compared, CostModel
from vtprof_analyzer.regress.common import PARTS, without
from vtprof_analyzer.regress.requests import Flags, Integers, Requests, joined, no_requests
from vtprof_analyzer.watch.blocks import expected_times, recorded
from vtprof_analyzer.watch.columns import FLIGHTS, Columns
from vtprof_analyzer.watch.events import (
    Alarm,
    Event,
    Gap,
    LeftOut,
    Level,
    LoadUnknown,
    Over,
    Standing,
    Unlike,
    Why,
)
from vtprof_analyzer.watch.requests_state import packed, unpacked
from vtprof_analyzer.watch.stream import Stream
from vtprof_analyzer.watch.two_way import Thresholds
from vtprof_analyzer.watch.yardsticks import LEFT_OUT, Yardstick, Yardsticks, by_flights, load_columns
from vtprof_schemas.units import NS_PER_S

AVERAGE_RUN_LENGTH: Final = 2e5
"""Blocks to a false alarm, in the mean."""
MIN_EFFECT: Final = 0.02
_LONGEST_S: Final = 60
"""A request is judged so long after its start at the latest: what starts beside a longer one is left out of its load."""
_MOST_BESIDE: Final = 50_000
"""Requests that are kept because they ran beside those that come."""
_MOST_GAPS: Final = 1000
_MOST_UNKNOWN: Final = 20
"""Models that BASE has not, of which it is said."""
_STATE: Final = 3


class Detector:
    """Holds requests against BASE, block by block. Memory is bounded by BASE and the requests that are being served."""

    def __init__(
        self,
        base: CostModel,
        average_run_length: float = AVERAGE_RUN_LENGTH,
        runs: Sequence[Requests] = (),
        min_effect: float = MIN_EFFECT,
    ) -> None:
        """Watch against ``base``; ``runs`` are those that it was fitted to: without them neither tails are watched, nor
        is seen which columns are missing.

        ``average_run_length`` is in blocks of 60 requests. A change of less than ``min_effect`` is none.
        """
        self._base = base
        self._thresholds = Thresholds.of(
            len(set(base.phases) - set(LEFT_OUT)), average_run_length, min_effect, tails=bool(runs)
        )
        self._columns = Columns(runs)
        self._yardsticks = Yardsticks(base, runs)
        self._streams: dict[tuple[str, str], Stream] = {}
        self._beside = no_requests()
        self._waiting = no_requests()
        self._judged_until_ns = 0
        self.counts: Counter[str] = Counter()
        """Of requests: "judged" (with a phase at least), "late", "not comparable", "unknown model"; and "blocks"."""
        self.unknown_models: Counter[str] = Counter()
        """Requests by model, of the first models that BASE has not."""
        self.gaps: list[Gap] = []
        """What was left out for a while since the watch was begun or gone on with, the first of them."""
        self._since: dict[str, dict[str, tuple[int, str]]] = {}
        """By model and column that is left out: since when, and the field of `Unlike` that it is in."""

    def add(self, requests: Requests, settled_until_ns: int) -> list[Event]:
        """Take new requests and judge those that are settled, in order of start; return what changed, in order of time.

        No request that starts before ``settled_until_ns`` may come any more; one that does is counted as late, and
        not judged.
        """
        if len(requests):
            late = requests.start_ns < self._judged_until_ns
            self.counts["late"] += int(np.count_nonzero(late))
            self._waiting = joined([self._waiting, requests.select(~late)])
        ready = self._ready(settled_until_ns)
        if not ready:
            return []
        table = joined([self._beside, self._waiting])
        # Requests that ran beside may start at the same time as the first that waits: they stand before it.
        first = len(self._beside)
        events: list[Event] = []
        begin, end = first, first + ready
        while begin < end:
            left_out = {model: self._columns.left_out(model) for model in table.models}
            until = begin + self._columns.take(table.select(slice(begin, end)))
            events += self._judge(table, begin, until, left_out)
            events += self._begun_anew(left_out, int(table.start_ns[until - 1]))
            begin = until
        self._judged_until_ns = int(self._waiting.start_ns[ready - 1]) + 1
        self._waiting = self._waiting.select(slice(ready, None))
        next_ns = int(self._waiting.start_ns[0]) if len(self._waiting) else self._judged_until_ns
        done = table.select(slice(0, first + ready))
        self._beside = done.select(_ends_ns(done) > min(next_ns, settled_until_ns)).select(
            slice(-_MOST_BESIDE, None)
        )
        return events

    def _ready(self, settled_until_ns: int) -> int:
        """Return how many of those that wait, in order of start, can be judged: all that ran beside them is known."""
        waiting = self._waiting
        if not len(waiting):
            return 0
        needed = np.minimum(_ends_ns(waiting), waiting.start_ns + _LONGEST_S * NS_PER_S)
        return bisect_left(np.maximum.accumulate(needed), settled_until_ns)

    def _judge(
        self, table: Requests, begin: int, end: int, left_out: Mapping[str, frozenset[str]]
    ) -> list[Event]:
        """Judge the requests from ``begin`` on to before ``end``; all others of the table are their load."""
        comparable = np.zeros(len(table), np.bool_)
        events: list[Event] = []
        for (lost, blank), models in self._alike(left_out).items():
            rows = np.flatnonzero(
                np.isin(table.model, [k for k, m in enumerate(table.models) if m in models])
            )
            chosen = slice(*np.searchsorted(rows, (begin, end)).tolist())
            given = without(table.select(rows), blank)
            requests = given.select(chosen)
            yardstick = self._yardsticks.without(lost)
            hits = yardstick.model.hits(given)[chosen]
            compared = {
                phase: Compared(one.residual[chosen], one.at_least[chosen])
                for phase, one in yardstick.model.compared(given).items()
            }
            for place, model in enumerate(requests.models):
                of_model: Flags = requests.model == place
                count = int(np.count_nonzero(of_model))
                if not count:
                    continue
                if model not in self._base.models:
                    self.counts["unknown model"] += count
                    if model in self.unknown_models or len(self.unknown_models) < _MOST_UNKNOWN:
                        self.unknown_models[model] += count
                    continue
                for phase in self._phases(model, left_out[model]):
                    values = compared[phase]
                    if by_flights(phase, left_out[model]):
                        values.residual[of_model & ~np.isfinite(requests.in_flight)] = np.nan
                    known = np.isfinite(values.residual) & of_model
                    comparable[rows[chosen]] |= known
                    unlike = _has(phase, requests, hits) & of_model & ~known
                    judged = np.flatnonzero(known | unlike)
                    if len(judged):
                        stream = self._stream(model, phase, yardstick)
                        events += self._feed(stream, phase, requests, values, judged)
        self.counts["judged"] += int(np.count_nonzero(comparable))
        known_model = np.isin(
            table.model[begin:end], [k for k, name in enumerate(table.models) if name in self._base.models]
        )
        self.counts["not comparable"] += int(np.count_nonzero(known_model & ~comparable[begin:end]))
        return sorted(events, key=lambda event: event.time_unix_nano)

    def _alike(
        self, left_out: Mapping[str, frozenset[str]]
    ) -> dict[tuple[frozenset[str], frozenset[str]], list[str]]:
        """Return the models by what is left out of BASE and of their requests."""
        found: dict[tuple[frozenset[str], frozenset[str]], list[str]] = {}
        for model, columns in left_out.items():
            lost = self._columns.of_base(model, columns)
            found.setdefault((lost, columns | self._columns.foreign(model)), []).append(model)
        return found

    def _feed(
        self, stream: Stream, phase: str, requests: Requests, compared: Compared, rows: Integers
    ) -> list[Event]:
        events = []
        values, at_least = compared
        expected = expected_times(phase, requests, values)
        blocks = stream.fill(
            requests.ids[rows], requests.start_ns[rows], values[rows], expected[rows], at_least[rows]
        )
        for block in blocks:
            self.counts["blocks" if block.judged else "blocks not comparable"] += 1
            if block.judged:
                events += stream.judge(block)
        return events

    def _yardstick(self, model: str, left_out: frozenset[str]) -> Yardstick:
        return self._yardsticks.without(self._columns.of_base(model, left_out))

    def _phases(self, model: str, left_out: frozenset[str]) -> list[str]:
        """Return the phases of a model that are judged where some columns are left out."""
        flights = bool(self._columns.of_base(model, {FLIGHTS}))
        return self._yardstick(model, left_out).phases(model, left_out, flights=flights)

    def _stream(self, model: str, phase: str, yardstick: Yardstick) -> Stream:
        known = self._streams.get((model, phase))
        if known is None:
            known = self._streams[model, phase] = yardstick.stream(model, phase, self._thresholds)
        return known

    def _begun_anew(self, before: Mapping[str, frozenset[str]], time_ns: int) -> list[Event]:
        """Drop the streams that are held against something else from now on; return the alarms that end with them."""
        events: list[Event] = []
        for model, columns in before.items():
            now = self._columns.left_out(model)
            if now == columns:
                continue
            old, new = (self._yardstick(model, one).model for one in (columns, now))
            judged = self._phases(model, now)
            kept = [phase for phase in judged if new.alike(old, phase, model)]
            unlike = self._columns.unlike(model, now - columns)
            again = [phase for phase in judged if phase not in self._phases(model, columns)]
            self._note_gap(model, unlike, now, again, time_ns)
            for phase in [phase for name, phase in self._streams if name == model and phase not in kept]:
                stream = self._streams.pop((model, phase))
                why: Why = "judged_anew" if phase in judged else "no_longer_judged"
                events += [
                    Over(phase, alarm.kind, model, time_ns, time_ns, 0, alarm, why, unlike)
                    for alarm in stream.firing()
                ]
        return events

    def _note_gap(
        self, model: str, gone: Unlike, left_out: Collection[str], phases: Sequence[str], time_ns: int
    ) -> None:
        """Note since when columns have gone, and the gap of those that are back; ``phases`` are judged again with them."""
        since = self._since.setdefault(model, {})
        for why, names in gone._asdict().items():
            since.update((name, (time_ns, why)) for name in names)
        back = {name: since.pop(name) for name in [*since] if name not in left_out}
        if back and len(self.gaps) < _MOST_GAPS:
            unlike = Unlike(
                **{why: tuple(name for name in back if back[name][1] == why) for why in Unlike._fields}
            )
            begin_ns = min(begin_ns for begin_ns, _ in back.values())
            self.gaps.append(Gap(model, unlike, tuple(phases), begin_ns, time_ns))

    def base_lacks(self, model: str) -> tuple[str, ...] | None:
        """Return what BASE lacks of a model of which it tells no phase, if it has requests of it; else None."""
        return self._columns.lacks(model) if self._columns.knows(model) else None

    @property
    def left_out(self) -> list[LeftOut]:
        """Return what is left out of the models whose requests and BASE carry not the same, as it is now."""
        found = []
        for model in self._base.models:
            columns = self._columns.left_out(model)
            if columns:
                found.append(self._left_out(model, columns))
        return found

    def _left_out(self, model: str, columns: frozenset[str]) -> LeftOut:
        judged = self._phases(model, columns)
        lost = [phase for phase in self._phases(model, frozenset()) if phase not in judged]
        since = tuple((name, begin_ns) for name, (begin_ns, _) in self._since.get(model, {}).items())
        return LeftOut(model, self._columns.unlike(model, columns), tuple(lost), tuple(judged), since)

    @property
    def load_unknown(self) -> list[LoadUnknown]:
        """Return the models of which phases are judged though BASE does not tell their load."""
        found = []
        for model in filter(self._columns.knows, self._base.models):
            flights = bool(self._columns.of_base(model, {FLIGHTS}))
            lacks = {
                phase: needed - self._columns.of_base(model, needed)
                for phase in self._phases(model, self._columns.left_out(model))
                if (needed := load_columns(phase, flights=flights))
            }
            if columns := frozenset().union(*lacks.values()):
                phases = tuple(phase for phase, lacking in lacks.items() if lacking)
                found.append(LoadUnknown(model, tuple(sorted(columns)), phases))
        return found

    def levels(self) -> list[Level]:
        """Return how each test stands."""
        return [level for stream in self._streams.values() for level in stream.levels()]

    def firing(self) -> list[Alarm]:
        """Return the alarms that are not over, with all that was seen since they began."""
        return [alarm for stream in self._streams.values() for alarm in stream.firing()]

    def standings(self) -> list[Standing]:
        """Return what is known of each phase of each model so far."""
        return [stream.standing() for stream in self._streams.values()]

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs, as plain JSON."""
        return {
            "version": _STATE,
            "judged_until_ns": self._judged_until_ns,
            "counts": dict(self.counts),
            "unknown_models": dict(self.unknown_models),
            "beside": packed(self._beside),
            "waiting": packed(self._waiting),
            "columns": self._columns.state(),
            "since": {
                model: {name: list(one) for name, one in names.items()}
                for model, names in self._since.items()
            },
            "streams": [
                {"model": model, "phase": phase, **stream.state()}
                for (model, phase), stream in self._streams.items()
            ],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; raises ValueError, KeyError or TypeError where it is none of this version."""
        if state["version"] != _STATE:
            raise ValueError(f"state of version {state['version']}")
        self._judged_until_ns = int(state["judged_until_ns"])
        self.counts = Counter({str(name): int(count) for name, count in state["counts"].items()})
        self.unknown_models = Counter(
            {str(one): int(count) for one, count in state["unknown_models"].items()}
        )
        self._beside, self._waiting = unpacked(state["beside"]), unpacked(state["waiting"])
        self._columns.restore(state["columns"])
        self._since = {
            str(model): {str(name): (int(begin_ns), _reason(why)) for name, (begin_ns, why) in names.items()}
            # A state of an older version has none.
            for model, names in state.get("since", {}).items()
        }
        self._streams = {}
        for one in state["streams"]:
            model, phase = str(one["model"]), str(one["phase"])
            self._stream(model, phase, self._yardstick(model, self._columns.left_out(model))).restore(one)


def _reason(text: Any) -> str:
    if text not in Unlike._fields:
        raise ValueError(f"{text!r} is no reason")
    return str(text)


def _ends_ns(requests: Requests) -> Integers:
    """Return when each request was over, as far as its times tell."""
    output = np.maximum(np.nan_to_num(requests.output_tokens) - 1, 0)
    parts_ms = sum(np.nan_to_num(getattr(requests, name)) for name in PARTS)
    first_ms = np.where(np.isfinite(requests.ttft_ms), requests.ttft_ms, parts_ms)
    times_ms = first_ms + np.nan_to_num(requests.tpot_ms) * output
    ends: Integers = requests.start_ns + np.minimum(times_ms * 1e6, 1e18).astype(np.int64)
    return ends


def _has(phase: str, requests: Requests, hits: Flags) -> Flags:
    """Say which requests have a phase that can be held against BASE."""
    with np.errstate(invalid="ignore"):
        has: Flags = recorded(phase, requests) > 0
        if phase == "encode":
            # What the encoder's cache held hardly encodes.
            has &= ~hits & ~(requests.encoder_hit > 0)
    return has
