"""Tells a slower engine from bigger images and more load while requests come: blocks of requests held against BASE.

Of each phase (but the queue) and served model, what BASE's cost model does not explain goes, 60 requests to a block in
order of start, to two sequential detectors (`e_detector` has their assumptions): one of the mean, cut at the requests
that lie far from their block's median, and one of the share of those far beyond it. The average run length to a false
alarm is that of all phases, kinds and models together, in blocks: each phase and kind has a share of it, and a model
adds blocks, not alarms a block. Requests are not weighed: BASE is to be sampled as the stream is.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from vtprof_analyzer.regress.base_model import Compared, CostModel
from vtprof_analyzer.regress.requests import Flags, Integers, Requests, joined, no_requests
from vtprof_analyzer.watch.blocks import Tail, expected_times, recorded, tails_of
from vtprof_analyzer.watch.events import Alarm, Event, Level, Standing
from vtprof_analyzer.watch.requests_state import packed, unpacked
from vtprof_analyzer.watch.stream import Stream
from vtprof_analyzer.watch.two_way import Thresholds
from vtprof_schemas.units import NS_PER_S

AVERAGE_RUN_LENGTH: Final = 2e5
"""Blocks to a false alarm, in the mean."""
MIN_EFFECT: Final = 0.02
_LONGEST_S: Final = 60
"""A request is judged so long after its start at the latest: what starts beside a longer one is left out of its load."""
_MOST_BESIDE: Final = 50_000
"""Requests that are kept because they ran beside those that come."""
_LEFT_OUT: Final = ("queue",)
"""Phases that are not judged: near saturation a queue is what the last minutes were, which no request tells of.
Objectives show it."""
_MOST_UNKNOWN: Final = 20
"""Models that BASE has not, of which it is said."""
_STATE: Final = 2


class Detector:
    """Holds requests against BASE, block by block. Memory is bounded by the requests that are being served."""

    def __init__(
        self,
        base: CostModel,
        average_run_length: float = AVERAGE_RUN_LENGTH,
        runs: Sequence[Requests] = (),
        min_effect: float = MIN_EFFECT,
    ) -> None:
        """Watch against ``base``; ``runs`` are those that it was fitted to: without them tails are not watched.

        ``average_run_length`` is in blocks of 60 requests. A change of less than ``min_effect`` is none.
        """
        self._base = base
        self._thresholds = Thresholds.of(
            len(set(base.phases) - set(_LEFT_OUT)), average_run_length, min_effect, tails=bool(runs)
        )
        self._tails: Mapping[tuple[str, str], Tail] = tails_of(base, runs)
        self._streams: dict[tuple[str, str], Stream] = {}
        self._beside = no_requests()
        self._waiting = no_requests()
        self._judged_until_ns = 0
        self.counts: Counter[str] = Counter()
        """Of requests: "judged" (with a phase at least), "late", "not comparable", "unknown model"; and "blocks"."""
        self.unknown_models: Counter[str] = Counter()
        """Requests by model, of the first models that BASE has not."""

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
        chosen = np.arange(first, first + ready)
        compared = self._base.compared(table)
        events = self._judge(
            table.select(chosen),
            {phase: Compared(one.residual[chosen], one.at_least[chosen]) for phase, one in compared.items()},
            self._base.hits(table)[chosen],
        )
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

    def _judge(self, requests: Requests, compared: Mapping[str, Compared], hits: Flags) -> list[Event]:
        comparable = np.zeros(len(requests), np.bool_)
        events: list[Event] = []
        for place, model in enumerate(requests.models):
            of_model: Flags = requests.model == place
            if not of_model.any():
                continue
            if model not in self._base.models:
                count = int(np.count_nonzero(of_model))
                self.counts["unknown model"] += count
                if model in self.unknown_models or len(self.unknown_models) < _MOST_UNKNOWN:
                    self.unknown_models[model] += count
                continue
            for phase, values in compared.items():
                if phase in _LEFT_OUT:
                    continue
                known = np.isfinite(values.residual) & of_model
                comparable |= known
                unlike = _has(phase, requests, hits) & of_model & ~known
                rows = np.flatnonzero(known | unlike)
                if len(rows):
                    events += self._feed(model, phase, requests, values, rows)
        self.counts["judged"] += int(np.count_nonzero(comparable))
        known_model = np.isin(
            requests.model, [k for k, name in enumerate(requests.models) if name in self._base.models]
        )
        self.counts["not comparable"] += int(np.count_nonzero(known_model & ~comparable))
        return sorted(events, key=lambda event: event.time_unix_nano)

    def _feed(
        self, model: str, phase: str, requests: Requests, compared: Compared, rows: Integers
    ) -> list[Event]:
        stream = self._stream(model, phase)
        if stream is None:
            return []
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

    def _stream(self, model: str, phase: str) -> Stream | None:
        known = self._streams.get((model, phase))
        if known is None:
            noise = self._base.noise_of(phase, model)
            if noise is None:
                return None
            spread = self._base.spread(phase, model)
            tail, part = self._tails.get((phase, model)), self._base.part(phase, model)
            known = Stream(phase, model, noise, spread, tail, self._thresholds, part)
            self._streams[model, phase] = known
        return known

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
        self._streams = {}
        for one in state["streams"]:
            stream = self._stream(str(one["model"]), str(one["phase"]))
            if stream is not None:
                stream.restore(one)


def _ends_ns(requests: Requests) -> Integers:
    """Return when each request was over, as far as its times tell."""
    output = np.maximum(np.nan_to_num(requests.output_tokens) - 1, 0)
    times_ms = np.nan_to_num(requests.ttft_ms) + np.nan_to_num(requests.tpot_ms) * output
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
