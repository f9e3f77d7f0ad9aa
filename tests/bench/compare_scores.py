"""Judge labelled cases with `compare` and the usual rules, and count by label what was said."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from compare_rules import RULES, ttft_ms
from regress_days.cases import UNCHANGED, Case

from vtprof_analyzer.regress.compare import compare

FALSE_ALARMS: Final = (4, 144)
"""At most so many in so many pairs without a slower engine."""


@dataclass(frozen=True)
class Judged:
    """What was said of one case."""

    case: str
    seed: int
    label: str
    kind: str
    phase: str | None
    verdict: str
    causes: tuple[tuple[str, str, float], ...]
    """Phase, kind and effect, in the order of the result."""
    workload_shift: bool
    load_increase: bool
    masked: bool
    rules: tuple[bool, ...]
    """Whether the usual rules call it a regression."""
    wall_s: float
    """Of `compare` alone."""

    @property
    def flagged(self) -> bool:
        """Tell whether it was called a regression."""
        return self.verdict == "regression"

    def _is_cause(self, cause: tuple[str, str, float]) -> bool:
        return cause[0] == self.phase and (cause[1] == "tail") == (self.label == "tail")

    @property
    def first(self) -> bool:
        """Tell whether the first cause is the true one; of a tail also its kind."""
        return self.flagged and bool(self.causes) and self._is_cause(self.causes[0])

    @property
    def named(self) -> bool:
        """Tell whether the true cause is among the causes."""
        return self.flagged and any(map(self._is_cause, self.causes))


def judge(case: Case) -> Judged:
    """Simulate and compare a case."""
    base, new = case.runs()
    begin = time.perf_counter()
    found = compare(base, new)
    wall_s = time.perf_counter() - begin
    times = ttft_ms(base), ttft_ms(new)
    return Judged(
        case.name,
        case.seed,
        case.label,
        case.kind,
        case.phase,
        found.verdict,
        tuple((each.phase, each.kind, each.effect_ratio or float("nan")) for each in found.causes),
        found.workload_shift,
        found.load_increase,
        found.masked,
        tuple(rule(*times) for rule in RULES.values()),
        wall_s,
    )


def share(judged: Sequence[Judged], tells: Callable[[Judged], bool]) -> float:
    """Return the share of cases that it tells of."""
    return float(np.mean([tells(each) for each in judged])) if judged else float("nan")


@dataclass(frozen=True)
class Bar:
    """A share that must be reached among some of the cases."""

    title: str
    chosen: Callable[[Judged], bool]
    tells: Callable[[Judged], bool]
    least: float


def _labelled(label: str, *kinds: str) -> Callable[[Judged], bool]:
    return lambda each: each.label == label and (not kinds or each.kind in kinds)


BARS: Final = (
    *(
        Bar(f"{title}: cause named first", _labelled(label, *kinds), lambda each: each.first, least)
        for title, label, kinds, least in (
            ("encode +8 %", "encode slower", (), 0.95),
            ("prefill +5 %", "prefill slower", (), 0.85),
            ("decode +6 %", "decode slower", (), 0.95),
            ("preprocess +20 %", "preprocess slower", (), 0.95),
            ("p99-only tails", "tail", (), 0.85),
            ("KV bytes per token doubled", "kv", ("doubled",), 1.0),
            ("encode +12 %, hidden by smaller images", "masked", (), 1.0),
            ("encoder cache hits drop", "cache", (), 0.80),
        )
    ),
    Bar(
        "bigger or more images, longer text, model mix: workload shift",
        _labelled("mix only", "bigger images", "more images", "longer text", "another model mix"),
        lambda each: each.workload_shift,
        0.95,
    ),
    Bar("load x 1.2 to 1.8: load increase", _labelled("load only"), lambda each: each.load_increase, 0.95),
)


def false_alarms(judged: Sequence[Judged]) -> tuple[int, int, int]:
    """Return the pairs without a slower engine that were called a regression, how many may be, and the pairs."""
    quiet = [each for each in judged if each.label in UNCHANGED]
    allowed, among = FALSE_ALARMS
    return sum(each.flagged for each in quiet), max(1, len(quiet) * allowed // among), len(quiet)


def is_right(judged: Judged) -> bool:
    """Tell whether what was said is what a user should hear."""
    if judged.label in UNCHANGED:
        shown = judged.load_increase if judged.label == "load only" else True
        return not judged.flagged and shown
    if judged.label == "improvement":
        return judged.verdict == "improvement"
    return judged.first
