"""The usual rules that look at TTFT alone, for comparison: each says whether NEW is a regression."""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from vtprof_analyzer.regress.requests import Floats, Run

BLOCK_REQUESTS = 60
RESAMPLES = 300
LEVEL = 0.01
Z_TWO_SIDED = 2.5758
"""Of the normal distribution at a level of 1 %."""


def ttft_ms(runs: Sequence[Run]) -> Floats:
    """Return the TTFT of all requests of a side."""
    return np.concatenate([run.requests.ttft_ms for run in runs])


def p95_grew(base: Floats, new: Floats) -> bool:
    """Tell whether the 95th percentile grew by 10 %."""
    return bool(np.percentile(new, 95) > 1.1 * np.percentile(base, 95))


def mann_whitney(base: Floats, new: Floats) -> bool:
    """Tell whether NEW's ranks are higher, two-sided p < 1 % (normal approximation; ties have the mean rank)."""
    _, place, counts = np.unique(np.concatenate([base, new]), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    n, m = len(base), len(new)
    total = n + m
    u = ranks[n:].sum() - m * (m + 1) / 2
    ties = (counts**3 - counts).sum() / (total * (total - 1))
    sd = np.sqrt(n * m / 12 * (total + 1 - ties))
    return bool((u - n * m / 2) / sd > Z_TWO_SIDED)


def bootstrapped_p95(base: Floats, new: Floats) -> bool:
    """Tell whether the 99 % interval of the ratio of 95th percentiles lies above 1, from resampled blocks of requests."""
    rng = np.random.default_rng(1)
    ratios = _resampled_p95(new, rng) / _resampled_p95(base, rng)
    return bool(np.quantile(ratios, LEVEL / 2) > 1)


def _resampled_p95(values: Floats, rng: np.random.Generator) -> Floats:
    blocks = values[: len(values) // BLOCK_REQUESTS * BLOCK_REQUESTS].reshape(-1, BLOCK_REQUESTS)
    chosen = rng.integers(0, len(blocks), (RESAMPLES, len(blocks)))
    return np.array([np.percentile(blocks[rows], 95) for rows in chosen])


RULES: Final[dict[str, Callable[[Floats, Floats], bool]]] = {
    "p95 +10 %": p95_grew,
    "Mann–Whitney p<.01": mann_whitney,
    "block bootstrap p95": bootstrapped_p95,
}
