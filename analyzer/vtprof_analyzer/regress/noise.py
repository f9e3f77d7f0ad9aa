"""How sure a mean is: variance of blocks of time, noise from run to run, and the quantiles that go with them."""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Final

import numpy as np

from vtprof_analyzer.regress.requests import Floats

RUN_NOISE: Final = 0.0075
"""Standard deviation from run to run that is assumed where nothing tells it: another placement in memory, another
clock, other neighbours. Relative."""
_RUN_NOISE_OF: Final = {"kv": 0.001, "queue": 0.3, "preprocess": 0.012}
"""KV bytes per token are counted, not measured; a queue multiplies every small difference; CPUs have neighbours."""
PRIOR_RUNS: Final = 8
"""Runs that the default counts for where replicas tell another value."""
BLOCK_REQUESTS: Final = 50
_BLOCKS: Final = (8, 60)
_LARGEST_T: Final = 1e6
_NORMAL: Final = NormalDist()


def default_run_noise(phase: str) -> float:
    """Return the standard deviation from run to run that is assumed of a phase where nothing tells it."""
    return _RUN_NOISE_OF.get(phase, RUN_NOISE)


def block_variance(parts: Sequence[Floats]) -> tuple[float, float]:
    """Return the variance of the sum of the parts' sum, and its degrees of freedom.

    ``parts`` holds for each run what each request adds to an estimate, less what it is expected to, in order of time.
    Noise of neighbours is alike: sums over blocks of time keep it, and the correlation of a block with the next is added.
    """
    variance, freedom, alone = 0.0, 0.0, 0.0
    for part in parts:
        if len(part) < 2 * _BLOCKS[0]:
            # Too few for blocks: of a run that hardly has the model, beside others that have.
            variance += float(part @ part) * (len(part) / max(len(part) - 1, 1))
            freedom += max(len(part) - 1, 0)
            continue
        count = min(max(len(part) // BLOCK_REQUESTS, _BLOCKS[0]), _BLOCKS[1])
        edges = np.linspace(0, len(part), count + 1).astype(np.int64)[:-1]
        sums = np.add.reduceat(part, edges)
        sums = sums - sums.mean()
        spread = float(sums @ sums) * count / (count - 1)
        next_to = float(sums[:-1] @ sums[1:]) * count / (count - 1)
        # Below its own standard error the correlation of neighbours is none.
        variance += spread + (2 * next_to if next_to * count**0.5 > spread else 0.0)
        alone += float(np.square(part - part.mean()).sum())
        freedom += count - 1
    # Blocks that happen to cancel out are no proof of a steadiness that single requests lack.
    return max(variance, alone / 2), max(freedom, 1.0)


def run_variance(
    levels: Sequence[Sequence[tuple[float, float]]], default: float
) -> tuple[float, float, bool]:
    """Return variance from run to run, its degrees of freedom, and whether replicas told of it.

    ``levels`` holds for each side its runs' estimates, with the variance that each has by its own requests. What the
    runs of a side differ by beyond that is noise from run to run. The default counts for a few runs. Without replicas
    it is taken as known.
    """
    squares, freedom = 0.0, 0
    # A run of a few requests tells of its own noise alone. (Of shares no default is known: all are heard.)
    most = (2 * default) ** 2 if default else math.inf
    for every in levels:
        side = [(level, own) for level, own in every if own <= most]
        if len(side) < 2:
            continue
        values = np.array([level for level, _ in side])
        own = float(np.mean([variance for _, variance in side]))
        squares += max(0.0, float(values.var(ddof=1)) - own) * (len(side) - 1)
        freedom += len(side) - 1
    if not freedom:
        return default**2, math.inf, False
    whole = PRIOR_RUNS + freedom
    return (PRIOR_RUNS * default**2 + squares) / whole, float(whole), True


def critical(level: float, freedom: float) -> float:
    """Return the quantile of Student's t that is exceeded with probability ``level`` (Wallace 1959).

    Within 0.6 % from eight degrees of freedom on, some per cent too high at three: on the safe side.
    """
    z = _NORMAL.inv_cdf(1 - level)
    if freedom > 1e6:
        return z
    scaled = z * (8 * freedom + 3) / (8 * freedom + 1)
    return math.sqrt(freedom * math.expm1(min(scaled**2 / freedom, 700)))


def exceedance(t: float, freedom: float) -> float:
    """Return the probability that Student's t is above ``t``; the inverse of `critical`."""
    t = max(-_LARGEST_T, min(t, _LARGEST_T))
    if freedom <= 1e6:
        size = math.sqrt(freedom * math.log1p(t**2 / freedom)) * (8 * freedom + 1) / (8 * freedom + 3)
        t = math.copysign(size, t)
    return _NORMAL.cdf(-t)


def joined_freedom(parts: Sequence[tuple[float, float]]) -> float:
    """Return the degrees of freedom of a sum of variances, each with its own (Welch, Satterthwaite)."""
    whole = sum(variance for variance, _ in parts)
    if not 0 < whole < math.inf:
        return 1.0 if whole else math.inf
    told = sum((variance / whole) ** 2 / freedom for variance, freedom in parts)
    return 1 / told if told > 0 else math.inf
