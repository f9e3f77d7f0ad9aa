"""Streams of requests whose engine, users or load change at a known request, and what the detector says of them."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from regress_days.engine import slower
from regress_days.noise import USUAL
from regress_days.services import Served, service, stream
from regress_days.traffic import Traffic

from vtprof_analyzer.regress.base_model import CostModel
from vtprof_analyzer.regress.requests import Requests
from vtprof_analyzer.watch.detector import Detector
from vtprof_analyzer.watch.events import FOREVER_NS, Alarm

Label = Literal["no change", "mix", "load", "mix and load", "encode", "prefill", "decode"]
COUNTS: Final[dict[Label, int]] = {
    "no change": 48,
    "mix": 32,
    "load": 24,
    "mix and load": 16,
    "encode": 30,
    "prefill": 30,
    "decode": 20,
}
SLOWER: Final[dict[str, float]] = {"encode": 0.08, "prefill": 0.05, "decode": 0.06}
BASE_REQUESTS = 20_000
STREAM_REQUESTS = 22_000
EARLIEST, LATEST = 3_000, 8_000
"""The change comes at a request between these."""
BATCH_REQUESTS = 240
SEEDS_EACH = 1_000
SEED_OFFSET = 80_000_000


MIXES: Final[tuple[Callable[[Traffic, np.random.Generator], Traffic], ...]] = (
    lambda traffic, rng: replace(traffic, image_tokens=traffic.image_tokens * rng.uniform(1.2, 1.6)),
    lambda traffic, rng: replace(traffic, image_tokens=traffic.image_tokens * rng.uniform(0.6, 0.8)),
    lambda traffic, rng: replace(traffic, more_images_ratio=rng.uniform(0.4, 0.5)),
    lambda traffic, rng: replace(traffic, chat_text_tokens=traffic.chat_text_tokens * rng.uniform(1.5, 2.2)),
    lambda traffic, rng: replace(
        traffic, vision_share=min(0.9, traffic.vision_share + rng.uniform(0.15, 0.25))
    ),
)


@dataclass(frozen=True)
class Watched:
    """One stream to be watched."""

    label: Label
    number: int
    seed: int

    def made(self) -> tuple[Requests, Requests, int]:
        """Simulate BASE and the stream; return both, and the request that the change begins with."""
        rng = np.random.default_rng([self.seed, 0])
        (before,) = service(rng).values()
        first = int(rng.integers(EARLIEST, LATEST))
        after = _changed(before, self.label, self.number, rng)
        base = stream(before, self.seed, 0, BASE_REQUESTS, USUAL, None, 0)
        run = stream(before, self.seed, 1, STREAM_REQUESTS, USUAL, after, first if after else 0)
        return base.requests, run.requests, first


@dataclass(frozen=True)
class Heard:
    """What the detector said of a stream."""

    label: Label
    number: int
    seed: int
    first: int
    alarms: tuple[tuple[str, str, int, int, float], ...]
    """Phase, kind, requests seen when it fired, request with which it says that the change began, effect."""
    judge_s: float

    @property
    def slower(self) -> bool:
        """Tell whether the engine became slower."""
        return self.label in SLOWER

    @property
    def false(self) -> bool:
        """Tell whether it fired without a change, or before it."""
        return any(not self.slower or seen < self.first for _, _, seen, _, _ in self.alarms)

    @property
    def delay(self) -> int | None:
        """Return how many requests after the change the phase's alarm came; None without one."""
        late = [seen - self.first for phase, _, seen, _, _ in self.alarms if phase == self.label]
        return min((each for each in late if each >= 0), default=None)

    @property
    def other_phases(self) -> bool:
        """Tell whether another phase fired after the change."""
        return any(phase != self.label and seen >= self.first for phase, _, seen, _, _ in self.alarms)


def _changed(before: Served, label: Label, number: int, rng: np.random.Generator) -> Served | None:
    if label in SLOWER:
        return replace(before, engine=slower(before.engine, label, SLOWER[label]))
    traffic = before.traffic
    if label in ("mix", "mix and load"):
        traffic = MIXES[number % len(MIXES)](traffic, rng)
    if label in ("load", "mix and load"):
        traffic = replace(traffic, rate_per_s=traffic.rate_per_s * rng.uniform(1.2, 1.5))
    return None if label == "no change" else replace(before, traffic=traffic)


def streams(first_seed: int, share: float = 1.0) -> list[Watched]:
    """Return the streams of these seeds, the first ``share`` of each label."""
    return [
        Watched(label, number, SEED_OFFSET + SEEDS_EACH * (first_seed * len(COUNTS) + place) + number)
        for place, (label, count) in enumerate(COUNTS.items())
        for number in range(max(1, round(count * share)))
    ]


def batches(requests: Requests, size: int = BATCH_REQUESTS) -> Iterator[tuple[Requests, int]]:
    """Yield a stream as a follower hands it on: what came, and until when nothing more is expected."""
    for begin in range(0, len(requests), size):
        end = min(begin + size, len(requests))
        settled = int(requests.start_ns[end]) if end < len(requests) else FOREVER_NS
        yield requests.select(slice(begin, end)), settled


def listen(watched: Watched) -> Heard:
    """Simulate a stream and watch it."""
    base, requests, first = watched.made()
    detector = Detector(CostModel.fit([base]), runs=[base])
    alarms: list[Alarm] = []
    begin = time.process_time()
    for batch, settled in batches(requests):
        alarms += [event for event in detector.add(batch, settled) if isinstance(event, Alarm)]
    judge_s = time.process_time() - begin

    def place(time_ns: int) -> int:
        return int(np.searchsorted(requests.start_ns, time_ns, side="right"))

    told = tuple(
        (
            alarm.phase,
            alarm.kind,
            place(alarm.time_unix_nano),
            place(alarm.began_unix_nano),
            alarm.effect_ratio,
        )
        for alarm in alarms
    )
    return Heard(watched.label, watched.number, watched.seed, first, told, judge_s)
