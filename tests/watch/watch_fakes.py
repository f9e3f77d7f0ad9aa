"""What the tests of `vtprof watch` hand in instead of the world: requests, a follower, a detector and a clock."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vtprof_analyzer.regress.requests import Requests, no_requests
from vtprof_analyzer.watch.events import (
    Alarm,
    Batch,
    Event,
    Gap,
    KvSample,
    LeftOut,
    Level,
    LoadUnknown,
    Over,
    Standing,
)
from vtprof_analyzer.watch.judging import Judge, Limits
from vtprof_analyzer.watch.wording import Labels

MINUTE_NS = 60_000_000_000
DAY0_NS = 1_800_000_000 * 1_000_000_000
"""A full minute and hour: 1.8e9 s is a multiple of 3600."""
UNKNOWN = (
    "text_tokens", "visual_tokens", "audio_tokens", "cached_tokens", "images", "encoder_hit", "in_flight",
    "preprocess_ms", "queue_ms", "encode_ms", "transfer_ms", "prefill_ms", "unexplained_ms", "kv_bytes",
)  # fmt: skip


def requests_at(
    start_ns: Sequence[int] | np.ndarray[Any, Any],
    ttft_ms: float | Sequence[float] | np.ndarray[Any, Any] = 100.0,
    tpot_ms: float = 10.0,
    weight: float | Sequence[float] = 1.0,
    output_tokens: float = 1.0,
) -> Requests:
    starts = np.asarray(start_ns, dtype=np.int64)
    count = len(starts)

    def filled(value: Any) -> Any:
        return np.broadcast_to(np.asarray(value, dtype=float), (count,)).copy()

    unknown = {name: np.full(count, np.nan) for name in UNKNOWN}
    return Requests(
        ids=np.array([f"r{number}" for number in range(count)], dtype=str),
        start_ns=starts,
        model=np.zeros(count, np.int64),
        models=("m",),
        output_tokens=filled(output_tokens),
        ttft_ms=filled(ttft_ms),
        tpot_ms=filled(tpot_ms),
        weight=filled(weight),
        **unknown,
    )


def alarm(phase: str = "encode", model: str = "m", effect: float = 0.08, at_ns: int = DAY0_NS) -> Alarm:
    return Alarm(
        phase=phase,
        kind="shift",
        model=model,
        began_unix_nano=at_ns - 10 * MINUTE_NS,
        time_unix_nano=at_ns,
        effect_ratio=effect,
        ci_low=effect - 0.02,
        ci_high=effect + 0.02,
        requests=900,
        evidence=("a1", "b2"),
        statistic=13.0,
        threshold=12.2,
    )


def over(phase: str = "encode", model: str = "m", at_ns: int = DAY0_NS + 60 * MINUTE_NS) -> Over:
    return Over(phase, "shift", model, at_ns, at_ns - 5 * MINUTE_NS, 600)


class FakeDetector:
    """Says what it is told to: a list of events for each poll."""

    def __init__(self, script: Sequence[Sequence[Event]] = ()) -> None:
        self.script = list(script)
        self.polls = 0
        self.unknown_models: Counter[str] = Counter()
        self.lacks: dict[str, tuple[str, ...]] = {}
        self.left_out: list[LeftOut] = []
        self.gaps: list[Gap] = []
        self.load_unknown: list[LoadUnknown] = []
        self.fires: list[Alarm] = []
        self.counts: Counter[str] = Counter({"judged": 7, "late": 1, "not comparable": 2, "blocks": 3})

    def add(self, requests: Requests, settled_until_ns: int) -> list[Event]:
        self.polls += 1
        return list(self.script.pop(0)) if self.script else []

    def base_lacks(self, model: str) -> tuple[str, ...] | None:
        return self.lacks.get(model)

    def levels(self) -> list[Level]:
        return [Level("encode", "shift", "m", 3.5, 12.2, 0.01)]

    def firing(self) -> list[Alarm]:
        return self.fires

    def standings(self) -> list[Standing]:
        return [Standing("encode", "m", 3, 1, 0.01, -0.02, 0.04), Standing("kv", "m", 0, 1, None, None, None)]

    def state(self) -> dict[str, Any]:
        return {"polls": self.polls}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.polls = int(state["polls"])


class FakeFollower:
    """Hands out batches; an exception among them is raised."""

    def __init__(self, batches: Sequence[Batch | Exception] = ()) -> None:
        self.batches = list(batches)
        self.at = 0

    def poll(self) -> Batch:
        if self.at >= len(self.batches):
            return Batch(no_requests())
        self.at += 1
        batch = self.batches[self.at - 1]
        if isinstance(batch, Exception):
            raise batch
        return batch

    def finish(self) -> Batch:
        return Batch(no_requests())

    def state(self) -> dict[str, Any]:
        return {"at": self.at}


class Clock:
    """A clock that stands until somebody moves it."""

    def __init__(self, now_s: float = DAY0_NS / 1e9) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


def judge(
    script: Sequence[Sequence[Event]] = (), limits: Limits | None = None, begun_s: float = DAY0_NS / 1e9
) -> Judge:
    return Judge(FakeDetector(script), Labels("chat", {}), limits or Limits(), begun_s)


def batch(*start_ns: int, kv: Sequence[KvSample] = (), settled_ns: int | None = None) -> Batch:
    settled = settled_ns if settled_ns is not None else max(start_ns, default=0)
    table = requests_at(list(start_ns)) if start_ns else no_requests()
    return Batch(table, tuple(kv), settled)
