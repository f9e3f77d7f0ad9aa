"""A detector of a change for the worse and, once that fired, one of its end: an alarm is told once, and so is its end."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Self

from vtprof_analyzer.regress.base_model import Noise
from vtprof_analyzer.watch.blocks import Tail
from vtprof_analyzer.watch.e_detector import Found, MeanDetector, ShareDetector, Spread

HEAD_START_RATIO: Final = 0.002
"""Of the average run length, what a test of the mean begins with: that a stream differs from BASE from its first block
on is asked but once, and so may be believed sooner."""
_TAIL_RATIO: Final = 0.25
"""Of all false alarms, what tails may have."""
_END_RUN_LENGTH: Final = 1e4
"""Blocks to a false end of an alarm that goes on, in the mean."""
_STILL_THERE: Final = 0.5
"""An alarm is over when less than this part of its effect is left."""
_LEAST_SD: Final = 0.002
"""Of a block: bytes per token hardly vary at all."""
_LEAST_EFFECTS: Final = {"unexplained": 0.10}
"""What is left over has no cause that a model could know."""
_LARGEST_LAG1: Final = 0.9
ALLOWED_TAIL: Final = 2.0
"""By how many times the share beyond BASE's limit may rise: runs and mixes differ in tails by more than in means."""


@dataclass(frozen=True)
class Thresholds:
    """How an average run length is shared out over phases and kinds, and what is allowed."""

    shift: float
    """Logarithms of the sums at which a test fires."""
    tail: float
    head_start: float
    allowance: float
    """Of logarithms of times."""

    @classmethod
    def of(cls, phases: int, average_run_length: float, min_effect: float, *, tails: bool) -> Self:
        """Share ``average_run_length`` out. Raises ValueError where it is no length."""
        if not 1 < average_run_length < math.inf or not 0 <= min_effect < math.inf:
            raise ValueError("an average run length is above 1 block, and an effect not negative")
        length = average_run_length / (1 - HEAD_START_RATIO)
        tail = _TAIL_RATIO if tails else 0.0
        shares = max(phases, 1)
        return cls(
            math.log(length * shares / (1 - tail)),
            math.log(length * shares / tail) if tails else math.inf,
            HEAD_START_RATIO * length,
            math.log1p(min_effect),
        )


class Turn(NamedTuple):
    """A change of what is told."""

    raised: bool
    """False: an alarm is over."""
    found: Found


class ShiftWatch:
    """Watches the mean of blocks."""

    def __init__(self, phase: str, noise: Noise, thresholds: Thresholds) -> None:
        """Allow for what runs differ by, and for what BASE's own mean is not known by."""
        block_sd = max(noise.block_sd, _LEAST_SD)
        blocks = max(noise.blocks, 1)
        # Of few blocks the correlation comes out too low.
        lag1 = min(noise.lag1 + (1 + 3 * noise.lag1) / max(blocks, 4), _LARGEST_LAG1)
        offset = 2 * noise.run_sd**2 + block_sd**2 * (1 + lag1) / (1 - lag1) / blocks
        self._spread = Spread(block_sd, lag1, math.sqrt(offset), blocks)
        least = math.log1p(_LEAST_EFFECTS.get(phase, 0.0))
        self._allowance = max(thresholds.allowance, least, math.sqrt(2) * noise.run_sd)
        self._rise = MeanDetector(self._spread, self._allowance, thresholds.shift, thresholds.head_start)
        self._end: MeanDetector | None = None
        self._before = (0.0, 0.0)
        """The stream's own mean before the alarm, and its variance."""
        self._effect: float | None = None

    @property
    def effect(self) -> float | None:
        """Return what the alarm told that is not over; None without one."""
        return self._effect

    @property
    def before(self) -> tuple[float, float]:
        """Return the stream's own mean before the alarm, and its variance."""
        return self._before

    @property
    def spread(self) -> Spread:
        """Return what blocks vary by without a change."""
        return self._spread

    @property
    def level(self) -> tuple[float, float]:
        """Return the statistic and its threshold."""
        return self._rise.statistic, self._rise.threshold

    def add(self, mean: float) -> Turn | None:
        """Take in the next block."""
        if self._end is None:
            found = self._rise.add(mean)
            if found is None:
                return None
            self._before = self._rise.before(found.began)
            self._effect = found.effect
            self._end = self._new_end(found.effect)
            return Turn(True, found)
        # The other way round: less than a part of the effect is left.
        found = self._end.add(-mean)
        if found is None:
            return None
        self._end = self._effect = None
        self._rise.restarted(*self._before)
        return Turn(False, found)

    def _new_end(self, effect: float) -> MeanDetector:
        left = max(self._allowance, _STILL_THERE * effect)
        end = MeanDetector(self._spread, 0.0, math.log(_END_RUN_LENGTH))
        start = -(self._before[0] + left)
        end.restarted(start, 0.0, centre=start)
        return end

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs, as plain JSON."""
        return {
            "rise": self._rise.state(),
            "end": self._end.state() if self._end else None,
            "before": list(self._before),
            "effect": self._effect,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where the watch was that `state` was taken of."""
        self._rise.restore(state["rise"])
        mean, variance = state["before"]
        self._before = (float(mean), float(variance))
        self._effect, self._end = None, None
        if state["end"] is not None:
            self._effect = float(state["effect"])
            self._end = self._new_end(self._effect)
            self._end.restore(state["end"])


class TailWatch:
    """Watches the share of requests beyond BASE's limit."""

    def __init__(self, tail: Tail, thresholds: Thresholds) -> None:
        """Allow for twice BASE's share."""
        self._tail = tail
        self._threshold = thresholds.tail
        self._rise = self._new_rise()
        self._end: ShareDetector | None = None
        self._effect: float | None = None

    @property
    def effect(self) -> float | None:
        """Return the share that the alarm told that is not over; None without one."""
        return self._effect

    @property
    def level(self) -> tuple[float, float]:
        """Return the statistic and its threshold."""
        return self._rise.statistic, self._rise.threshold

    def add(self, beyond: int, requests: int) -> Turn | None:
        """Take in how many of the next block's requests are beyond the limit."""
        if self._end is None:
            found = self._rise.add(beyond, requests)
            if found is None:
                return None
            self._effect = found.effect
            self._end = self._new_end(found.effect)
            return Turn(True, found)
        found = self._end.add(beyond, requests)
        if found is None:
            return None
        self._end = self._effect = None
        self._rise = self._new_rise()
        return Turn(False, found)

    def start_again(self) -> None:
        """Forget what was seen so far."""
        self._rise = self._new_rise()

    def _new_rise(self) -> ShareDetector:
        return ShareDetector(
            min(ALLOWED_TAIL * self._tail.share, 0.5), self._tail.dispersion, self._threshold
        )

    def _new_end(self, share: float) -> ShareDetector:
        base = self._tail.share
        left = max(ALLOWED_TAIL * base, base + _STILL_THERE * (share - base))
        return ShareDetector(min(left, 0.5), self._tail.dispersion, math.log(_END_RUN_LENGTH), falling=True)

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs, as plain JSON."""
        return {
            "rise": self._rise.state(),
            "end": self._end.state() if self._end else None,
            "effect": self._effect,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where the watch was that `state` was taken of."""
        self._rise = self._new_rise()
        self._rise.restore(state["rise"])
        self._effect, self._end = None, None
        if state["end"] is not None:
            self._effect = float(state["effect"])
            self._end = self._new_end(self._effect)
            self._end.restore(state["end"])
