"""Blocks of requests: their values, robust means and how many lie far beyond; and what BASE's blocks have of these."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from vtprof_analyzer.regress.base_model import BLOCK_REQUESTS, CostModel
from vtprof_analyzer.regress.cost_model import WINSOR_SD
from vtprof_analyzer.regress.requests import Flags, Floats, Requests

TAIL_SHARE: Final = 0.015
"""Of BASE's requests beyond the limit of its tail."""
_TIMES: Final = {"decode": "tpot_ms", "kv": "kv_bytes"}
"""Where a phase shows, unless under its own name."""
TAILED: Final = ("preprocess", "encode", "transfer", "prefill")
"""Phases with a tail of their own: a queue is all tail, a slow step hits all that decode, and bytes per token have none."""
_FEWEST_BLOCKS: Final = 8
_GROUP_REQUESTS: Final = 400
_MOST_GROUPS: Final = 8
_LEAST_LIMIT: Final = math.log(2)
"""Less than twice what is expected is no tail, however steady BASE was."""
MOST_BEYOND: Final = 5
"""Requests of a block that count as beyond: more at once have one cause."""
_LEAST_SHARE: Final = 0.005
"""Of requests beyond the limit: what BASE has fewer of than these, a few thousand requests cannot tell."""
_MOST_DISPERSION: Final = 4.0


@dataclass(frozen=True)
class Tail:
    """What BASE's tail is."""

    limit: tuple[Floats, Floats]
    """Log residual beyond the median of the request's block, over the logarithm of the time that is expected of it:
    large requests scatter otherwise than small ones, and a mix of more of them is no tail."""
    share: float
    """Of BASE's requests beyond it."""
    dispersion: float
    """Variance of a block's count over that of independent requests, 1 or more."""

    def beyond(self, excess: Floats, expected: Floats) -> Flags:
        """Say which requests of a block are beyond the limit."""
        return excess > np.interp(expected, *self.limit)


class Shape(NamedTuple):
    """What a block's values come to."""

    median: float
    mean: float
    """With values cut at so many of BASE's standard deviations from the block's median as BASE's own were."""


def shape_of(values: Floats, spread: float) -> Shape:
    """Return the shape of a block whose requests have ``spread`` as standard deviation in BASE."""
    median = float(np.median(values))
    reach = WINSOR_SD * spread
    return Shape(median, median + float(np.clip(values - median, -reach, reach).mean()))


def recorded(phase: str, requests: Requests) -> Floats:
    """Return what was recorded of a phase."""
    column: Floats = getattr(requests, _TIMES.get(phase, f"{phase}_ms"))
    return column


def expected_times(phase: str, requests: Requests, residuals: Floats) -> Floats:
    """Return the logarithm of the time that is expected of each request; any constant may be added."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logged = np.log(recorded(phase, requests)) - residuals
    return np.where(np.isfinite(logged), logged, 0.0)


def tails_of(base: CostModel, runs: Sequence[Requests]) -> Mapping[tuple[str, str], Tail]:
    """Return the tails of the phases of the models of BASE, by both; without those that it has too few blocks of."""
    found: dict[tuple[str, str], list[tuple[Floats, Floats]]] = {}
    for run in runs:
        for phase, residuals in base.residuals(run).items():
            if phase not in TAILED:
                continue
            expected = expected_times(phase, run, residuals)
            for place, model in enumerate(run.models):
                rows = np.flatnonzero((run.model == place) & np.isfinite(residuals))
                blocks = rows[: len(rows) // BLOCK_REQUESTS * BLOCK_REQUESTS].reshape(-1, BLOCK_REQUESTS)
                if len(blocks):
                    values = residuals[blocks]
                    excess = values - np.median(values, axis=1, keepdims=True)
                    found.setdefault((phase, model), []).append((excess, expected[blocks]))
    joined = {
        key: (np.concatenate([one for one, _ in parts]), np.concatenate([one for _, one in parts]))
        for key, parts in found.items()
    }
    return {key: _tail(*pair) for key, pair in joined.items() if len(pair[0]) >= _FEWEST_BLOCKS}


def _tail(excess: Floats, expected: Floats) -> Tail:
    order = np.argsort(expected, axis=None, kind="stable")
    groups = np.array_split(order, min(_MOST_GROUPS, max(1, excess.size // _GROUP_REQUESTS)))
    places = np.array([float(expected.flat[group].mean()) for group in groups])
    limits = np.array([float(np.quantile(excess.flat[group], 1 - TAIL_SHARE)) for group in groups])
    limit = (places, np.maximum(limits, _LEAST_LIMIT))
    counts = np.minimum((excess > np.interp(expected, *limit)).sum(axis=1), MOST_BEYOND)
    share = max(float(counts.mean()) / BLOCK_REQUESTS, _LEAST_SHARE)
    dispersion = float(counts.var(ddof=1)) / (BLOCK_REQUESTS * share * (1 - share))
    return Tail(limit, share, min(max(dispersion, 1.0), _MOST_DISPERSION))
