"""Sequential detectors of a change, after Shin, Ramdas and Rinaldo, "E-detectors" (2024): Shiryaev and Roberts' sum over
every block at which the change may have come, of a mixture over its sizes.

The sum after n blocks, M(n), of products of e-values grows without a change by at most 1 a block in the mean, so that
E[M(n)] <= n, and the first n with M(n) >= c is in the mean at least c: that is the average run length to a false alarm.

`MeanDetector` rests on this: given the past, a block's value (the correlation with the one before taken out) is
sub-Gaussian, with a standard deviation no larger than the given one, about a mean that exceeds the stream's own by at
most ``allowance``; the stream's own mean is drawn once, from a normal distribution about BASE's, as one run differs from
another, and is learned from the blocks before each candidate. Where the values are normal that is exact. For what is
not: values are cut at four standard deviations, the standard deviation is BASE's, enlarged by what it may be wrong by,
and where the stream itself is seen to be less steady, the stream's. `ShareDetector` rests on requests that are
independent given the past and exceed a limit with at most a given probability; its evidence is divided by the
dispersion that BASE's blocks have beyond that.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np

from vtprof_analyzer.regress.requests import Floats

_SIZES: Final = np.geomspace(0.25, 4.0, 8)
"""Of changes, beyond the allowance, in standard deviations of a block: weighed alike. Larger ones are cut to the largest."""
_CUT_SD: Final = 4.0
_SLACK: Final = 1.0
_SLACK_FIRST: Final = 2.0
"""Standard deviations of the stream's own mean that the allowance is lessened by. A lasting change by the whole
allowance then adds half of their square to the logarithm of the sum, and no more: for the first block 2."""
_OFFSET_SD: Final = 3.0
"""How far the stream's own mean may lie from BASE's: what is beyond is a change, however slowly it came."""
_MEMORY_BLOCKS: Final = 1000
"""Blocks that the stream's own mean is learned from, about: older ones fade."""
_HOPELESS: Final = 0.01
"""A candidate whose product fell below this is left out; leaving out only lowers the sum."""
_MOST_CANDIDATES: Final = 256
_GROUP: Final = 4
"""Blocks whose mean is compared with that of the next so many, to see how steady the stream is."""
_GROUPS: Final = 32
_OUTLIERS: Final = 2
"""Such differences that are left out, largest first: a change makes two."""
_LARGEST_EXPONENT: Final = 600.0


@dataclass(frozen=True)
class Spread:
    """What blocks vary by without a change, all on the scale of their values."""

    block_sd: float
    """Standard deviation of a block's value."""
    lag1: float
    """Correlation with the next one, 0 to below 1."""
    offset_sd: float
    """Standard deviation of a stream's mean about BASE's."""
    blocks: float
    """Blocks that ``block_sd`` is known from."""

    @property
    def long_run_sd(self) -> float:
        """Return the standard deviation of a block's value with its correlation taken out, enlarged for its own error."""
        whitened = self.block_sd * math.sqrt((1 + self.lag1) / (1 - self.lag1))
        return whitened * math.sqrt(1 + 2 / math.sqrt(max(self.blocks, 1.0)))


class Found(NamedTuple):
    """What a detector that fired says of the change."""

    began: int
    """Number of the first block since, counted from 0."""
    blocks: int
    effect: float
    """Mean since, less the mean before."""
    statistic: float
    """Logarithm of the sum."""


class MeanDetector:
    """Detects that the mean of a stream of blocks rose by more than an allowance."""

    def __init__(self, spread: Spread, allowance: float, threshold: float, head_start: float = 0.0) -> None:
        """Fire at a logarithm of ``threshold``. The sum begins with ``head_start``, for a change before the first block."""
        self._spread = spread
        self._allowance = allowance
        self.threshold = threshold
        self._head_start = head_start
        self._sd = spread.long_run_sd
        self.blocks = 0
        self._last: float | None = None
        self._mean = self._centre = 0.0
        self._precision = 1 / max(spread.offset_sd, 1e-9) ** 2
        self._group: list[float] = []
        self._group_mean: float | None = None
        self._differences: list[float] = []
        self._candidates = _no_candidates()
        self.statistic = -math.inf

    @property
    def mean(self) -> float:
        """Return the stream's own mean, as far as it is known."""
        return self._mean

    def add(self, value: float) -> Found | None:
        """Take in the value of the next block; return what was found when the detector fires."""
        before = value if self._last is None else self._last
        self._last = value
        whitened = (value - self._spread.lag1 * before) / (1 - self._spread.lag1)
        sd = self._sd
        reach = self._allowance + _CUT_SD * sd
        cut = min(max(whitened, self._mean - reach), self._mean + reach)

        old = self._candidates
        weight = 1.0 + self._head_start * (self.blocks == 0)
        allowed = self._allowed()
        new = np.array(
            [[0.0], [0.0], [self._mean], [1 / self._precision], [weight], [self.blocks], [0.0], [allowed]]
        )
        candidates = np.concatenate([old, new], axis=1)
        candidates[_SUM] += cut - candidates[_MEAN] - candidates[_ALLOWED]
        candidates[_COUNT] += 1
        candidates[_RAW] += value
        products = candidates[_WEIGHT] * self._products(candidates, sd)
        whole = float(products.sum())
        self.statistic = math.log(whole) if whole > 0 else -math.inf
        found = None
        if self.statistic >= self.threshold:
            found = self._found(candidates[:, int(np.argmax(products))])
        kept = products > _HOPELESS
        kept[-1] = True
        self._candidates = candidates[:, kept][:, -_MOST_CANDIDATES:]
        self.blocks += 1
        self._learn(min(max(whitened, self._mean - _CUT_SD * sd), self._mean + _CUT_SD * sd))
        self._watch_steadiness(whitened)
        return found

    def _allowed(self) -> float:
        """Return a candidate's allowance: less where the stream's own mean is known less well, which allows for as much."""
        sure = _SLACK_FIRST if self._head_start and not self.blocks else _SLACK
        return max(0.0, self._allowance - sure / math.sqrt(self._precision))

    def _products(self, candidates: Floats, sd: float) -> Floats:
        """Return each candidate's product of e-values: the ratio of likelihoods with its change and without any, the
        stream's own mean being known as well as the blocks before the candidate tell it, mixed over sizes."""
        size = _SIZES[:, None] * sd
        count = candidates[_COUNT]
        exponent = (size * candidates[_SUM] - size**2 * count / 2) / (sd**2 + count * candidates[_VARIANCE])
        mixed: Floats = np.exp(np.minimum(exponent, _LARGEST_EXPONENT)).mean(axis=0)
        return mixed

    def _found(self, candidate: Floats) -> Found:
        count = float(candidate[_COUNT])
        effect = float(candidate[_RAW]) / count - float(candidate[_MEAN])
        return Found(int(candidate[_BLOCK]), int(count), effect, self.statistic)

    def _learn(self, value: float) -> None:
        gained = 1 / self._sd**2
        self._precision = min(self._precision + gained, _MEMORY_BLOCKS * gained)
        limit = _OFFSET_SD * self._spread.offset_sd
        learned = self._mean + (value - self._mean) * gained / self._precision
        self._mean = min(max(learned, self._centre - limit), self._centre + limit)

    def _watch_steadiness(self, value: float) -> None:
        """Enlarge the standard deviation where the stream's own blocks, by differences of neighbours, vary by more."""
        self._group.append(value)
        if len(self._group) < _GROUP:
            return
        mean = sum(self._group) / _GROUP
        self._group = []
        if self._group_mean is not None:
            self._differences = [*self._differences, _GROUP * (mean - self._group_mean) ** 2 / 2][-_GROUPS:]
        self._group_mean = mean
        inner = sorted(self._differences)[:-_OUTLIERS]
        known = self._spread.long_run_sd
        prior = min(max(self._spread.blocks, 8.0), _GROUPS)
        pooled = (prior * known**2 + sum(inner)) / (prior + len(inner))
        self._sd = max(known, math.sqrt(pooled))

    def restarted(self, mean: float, variance: float, *, centre: float = 0.0) -> None:
        """Forget all candidates, and take ``mean`` and ``variance`` for what is known of the stream's own mean.

        ``centre`` is what that mean keeps near to: BASE's, 0, or what is left of a change whose end is looked for.
        """
        self._centre = centre
        self._candidates = _no_candidates()
        self._mean, self._precision = mean, 1 / max(variance, 1e-18)
        self._head_start = 0.0
        self.statistic = -math.inf

    def before(self, block: int) -> tuple[float, float]:
        """Return the stream's own mean, and its variance, as they were before a candidate's block."""
        at = np.flatnonzero(self._candidates[_BLOCK] == block)
        if not len(at):
            return self._mean, 1 / self._precision
        candidate = self._candidates[:, at[0]]
        return float(candidate[_MEAN]), float(candidate[_VARIANCE])

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs, as plain JSON."""
        return {
            "blocks": self.blocks, "last": self._last, "mean": self._mean, "precision": self._precision,
            "sd": self._sd, "group": list(self._group), "group_mean": self._group_mean,
            "differences": list(self._differences), "candidates": self._candidates.tolist(),
            "head_start": self._head_start,
            "statistic": None if math.isinf(self.statistic) else self.statistic,
        }  # fmt: skip

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where the detector was that `state` was taken of."""
        self.blocks = int(state["blocks"])
        self._last = state["last"]
        self._mean, self._precision = float(state["mean"]), float(state["precision"])
        self._sd = float(state["sd"])
        self._group, self._group_mean = [float(one) for one in state["group"]], state["group_mean"]
        self._differences = [float(one) for one in state["differences"]]
        self._candidates = np.array(state["candidates"], dtype=np.float64).reshape(_ROWS, -1)
        self._head_start = float(state["head_start"])
        self.statistic = -math.inf if state["statistic"] is None else float(state["statistic"])


_SUM, _COUNT, _MEAN, _VARIANCE, _WEIGHT, _BLOCK, _RAW, _ALLOWED = range(8)
"""Rows of the candidates: sum of values less mean and allowance, blocks, mean before and its variance, weight, number of
the first block, sum of the values as they are, allowance."""
_ROWS: Final = 8


def _no_candidates() -> Floats:
    return np.empty((_ROWS, 0))


class ShareDetector:
    """Detects that the share of requests beyond a limit rose above ``allowed``, or with ``falling`` fell below it."""

    _TIMES: Final = (1.5, 2.0, 3.0, 5.0, 10.0)

    def __init__(self, allowed: float, dispersion: float, threshold: float, *, falling: bool = False) -> None:
        """Fire at a logarithm of ``threshold``; ``dispersion`` is the variance of counts over that of independent ones."""
        times = np.array(self._TIMES)
        others = (
            allowed / times if falling else 1 - (1 - allowed) * np.exp(-(times - 1) * allowed / (1 - allowed))
        )
        self._hit = np.log(others / allowed) / max(dispersion, 1.0)
        self._miss = np.log((1 - others) / (1 - allowed)) / max(dispersion, 1.0)
        self.threshold = threshold
        self.blocks = 0
        self.statistic = -math.inf
        self._sums = np.zeros(len(times))
        self._walk = np.zeros(len(times))
        """Largest evidence of a change since any block, by size: tells when it began."""
        self._since = np.zeros(len(times), dtype=np.int64)
        self._counts = np.zeros((len(times), 2))

    def add(self, beyond: float, requests: float) -> Found | None:
        """Take in how many of a block's requests were beyond; return what was found when the detector fires."""
        evidence = beyond * self._hit + (requests - beyond) * self._miss
        self._sums = np.minimum((self._sums + 1) * np.exp(np.minimum(evidence, _LARGEST_EXPONENT)), 1e250)
        anew = self._walk <= 0
        self._walk = np.where(anew, 0.0, self._walk) + evidence
        self._since = np.where(anew, self.blocks, self._since)
        self._counts = np.where(anew[:, None], 0.0, self._counts) + np.array([beyond, requests])
        self.blocks += 1
        self.statistic = math.log(float(self._sums.mean())) if self._sums.any() else -math.inf
        if self.statistic < self.threshold:
            return None
        at = int(np.argmax(self._walk))
        share = (self._counts[at, 0] + 0.5) / (self._counts[at, 1] + 1)
        began = int(self._since[at])
        return Found(began, self.blocks - began, float(share), self.statistic)

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs, as plain JSON."""
        return {
            "blocks": self.blocks, "sums": self._sums.tolist(), "walk": self._walk.tolist(),
            "since": self._since.tolist(), "counts": self._counts.tolist(),
        }  # fmt: skip

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where the detector was that `state` was taken of."""
        self.blocks = int(state["blocks"])
        self._sums = np.array(state["sums"], dtype=np.float64)
        self._walk = np.array(state["walk"], dtype=np.float64)
        self._since = np.array(state["since"], dtype=np.int64)
        self._counts = np.array(state["counts"], dtype=np.float64)
