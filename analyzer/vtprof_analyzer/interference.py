"""What image work costs text requests in the same steps: matching of steps, a regression of requests, block bootstrap.

Matching: the time of a step with visual work, less the mean time of like steps without it (same bins of decoding requests,
context and other prompt tokens; corrected linearly within a bin, and by how fast the process was in that part of the run).
Weighed by the text requests that each step held up, and divided by their number. After Abadie and Imbens, "Bias-corrected
matching estimators" (2011); intervals from resampled blocks of time (Kunsch 1989), widened for what blocks still share.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

BLOCKS: Final = 40
"""Parts of the run's time that are resampled, as in `interference_cells`."""
REPLICATES: Final = 400
SEED: Final = 20_11
MATCHED_STEPS: Final = "matched_steps"
REQUEST_REGRESSION: Final = "request_regression"

LEAST_REQUESTS: Final = 30
LEAST_STEPS: Final = 20
LEAST_BLOCKS: Final = 8
LEAST_MATCHED_SHARE: Final = 0.8
LEAST_CONTROLS: Final = 8.0
"""Iterations without visual work that a cell needs, from two blocks or more."""
_LEAST_FOR_DRIFT: Final = 30.0
"""Controls of a block [iterations] from which it tells how fast the process was in it."""
_BEYOND: Final = 0.25
"""Part of its own prediction by which the linear model may be off where no controls are near."""
_FORM: Final = 0.05
"""Part by which a cell's mean may be off where prompts run: within a factor of two, time is no straight line."""
_LAGS: Final = 3


@dataclass(frozen=True)
class Steps:
    """The steps of one process, summed by block b and cell k; a cell holds like steps.

    ``n``, ``y``, ``yy``, ``x``: of controls, their iterations, their time [ns], its square and what they held, summed.
    ``xx``, ``xy``: sums of products by block, for decode-only steps and for those with prompt tokens (axis 1).
    ``weight``, ``wy``, ``wx``: of steps with visual work, likewise, each weighed by the requests that it held up.
    """

    instance: str
    mixed: Integers
    """Of each cell: 0 decode only, 1 with prompt tokens."""
    n: Floats  # [b, k]
    y: Floats
    yy: Floats
    x: Floats  # [b, k, 3]
    xx: Floats  # [b, 2, 3, 3]
    xy: Floats  # [b, 2, 3]
    steps: Floats  # [b, k], of those with visual work
    weight: Floats
    wy: Floats
    wx: Floats
    ww: Floats
    """Sums of the squared weights."""
    alone: Floats
    """[b]: weighted time of steps that held visual work alone: without it there would have been no step."""
    alone_steps: Floats  # [b]

    def matched(self) -> NDArray[np.bool_]:
        """Tell of each cell whether it has controls enough."""
        enough: NDArray[np.bool_] = (self.n.sum(0) >= LEAST_CONTROLS) & ((self.n > 0).sum(0) >= 2)
        return enough


@dataclass(frozen=True)
class Requests:
    """The text requests of one process, summed by block: see `interference_requests`."""

    instance: str
    requests: Floats  # [b]
    time_ns: Floats
    known_ns: Floats
    """Of their time that part in which a step was recorded."""
    weight: Floats
    value_ms: Floats
    x: Floats  # [b, 6]; the last two are visual work
    xx: Floats  # [b, 6, 6]
    xy: Floats  # [b, 6]


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % interval."""

    effect: float
    low: float
    high: float

    def meets(self, other: "Interval") -> bool:
        """Tell whether the two have a value in common."""
        return bool(self.low <= other.high and other.low <= self.high)


@dataclass(frozen=True)
class Estimate:
    """The answer for one time [ms]; without one ``why_not`` says what is missing."""

    requests: int
    interval: Interval | None
    share: float | None
    method: str | None
    n_matched: int
    matched_share: float | None
    regression: Interval | None
    agrees: bool | None
    why_not: str | None


def estimate(steps: Sequence[Steps], requests: Sequence[Requests]) -> Estimate:
    """Return what visual work added to the mean time of text requests, over all processes."""
    count = int(sum(group.requests.sum() for group in requests))
    weight = np.sum([group.weight for group in requests], axis=0) if requests else np.zeros(BLOCKS)
    value_ms = sum(float(group.value_ms.sum()) for group in requests)
    n_matched, matched_share = _overlap(steps)
    why_not = _too_few(steps, count)
    if why_not is not None:
        return Estimate(count, None, None, None, n_matched, matched_share, None, None, why_not)
    draws = _draws()
    speeds = {group.instance: _without(group, draws[:1]).drift for group in steps}
    regression = _regression(requests, weight, draws, speeds)
    if matched_share is not None and matched_share >= LEAST_MATCHED_SHARE:
        found, method = _matching(steps, weight, draws, _lost(requests)), MATCHED_STEPS
    elif regression is not None:
        found, method, n_matched = regression, REQUEST_REGRESSION, count
    else:
        share = 0.0 if matched_share is None else matched_share
        why_not = (
            f"only {share:.0%} of the time that text requests spent in steps with image work has like steps without it:"
            f" at least {LEAST_MATCHED_SHARE:.0%} are needed"
        )
        return Estimate(count, None, None, None, n_matched, matched_share, None, None, why_not)
    agrees = found.meets(regression) if regression is not None and method == MATCHED_STEPS else None
    if agrees is False and regression is not None:
        found = Interval(found.effect, min(found.low, regression.low), max(found.high, regression.high))
    share_of_time = found.effect * float(weight.sum()) / value_ms if value_ms > 0 else None
    return Estimate(count, found, share_of_time, method, n_matched, matched_share, regression, agrees, None)


def _overlap(steps: Sequence[Steps]) -> tuple[int, float | None]:
    """Return how many steps with visual work have like steps without, and their share of the exposure."""
    count, inside, whole = 0.0, 0.0, 0.0
    for group in steps:
        matched = group.matched()
        count += group.steps[:, matched].sum() + group.alone_steps.sum()
        inside += group.wy[:, matched].sum() + group.alone.sum()
        whole += group.wy.sum() + group.alone.sum()
    return int(count), inside / whole if whole > 0 else None


def _too_few(steps: Sequence[Steps], requests: int) -> str | None:
    """Return why nothing can be said, or None."""
    if requests < LEAST_REQUESTS:
        return f"{requests} text-only requests have this time: at least {LEAST_REQUESTS} are needed"
    count = int(sum(group.steps.sum() + group.alone_steps.sum() for group in steps))
    if count == 0:
        return "no step with image work ran while a text-only request waited for it"
    if count < LEAST_STEPS:
        return f"{count} steps with image work held up text-only requests: at least {LEAST_STEPS} are needed"
    touched = np.sum([group.wy.sum(1) + group.alone for group in steps], axis=0) > 0
    if touched.sum() < LEAST_BLOCKS:
        return (
            f"image work beside text-only requests lies in {touched.sum()} of {BLOCKS} parts of the run:"
            f" at least {LEAST_BLOCKS} are needed for an interval"
        )
    return None


def _lost(requests: Sequence[Requests]) -> float:
    """Return how much more there may be where steps were not recorded, over what there is."""
    known = sum(float(group.known_ns.sum()) for group in requests)
    whole = sum(float(group.time_ns.sum()) for group in requests)
    return max(0.0, whole / known - 1) if known > 0 else 0.0


def _draws() -> Floats:
    """Return how often each block is drawn, a row a replicate; the first row is the run itself."""
    rng = np.random.default_rng(SEED)
    drawn = rng.multinomial(BLOCKS, np.full(BLOCKS, 1 / BLOCKS), REPLICATES)
    return np.vstack([np.ones(BLOCKS), drawn]).astype(np.float64)


def _matching(steps: Sequence[Steps], weight: Floats, draws: Floats, lost: float) -> Interval:
    """Return the effect in this run: its steps and requests are as they were, what is not known is their time without.

    Of that time three things are uncertain. Chance: which controls there were (their blocks are resampled), how they and
    the steps with visual work scatter. Form: a linear model of all controls stands beside the cells, and the interval holds
    what both say. Drift: how fast the process was when visual work ran, not just in that block of time. What ran in steps
    that were not recorded, ``lost`` in relation to the others, can only be more.
    """
    observed = sum(float(group.wy.sum() + group.alone.sum()) for group in steps)
    by_cells, by_line = np.zeros(len(draws)), np.zeros(len(draws))
    scatter = unsure = 0.0
    for group in steps:
        if group.wy.sum() > 0:
            found = _without(group, draws)
            by_cells += found.by_cells
            by_line += found.by_line
            scatter += found.scatter
            unsure += found.unsure
    blocks = max(LEAST_BLOCKS, min(int((group.n.sum(1) > 0).sum()) for group in steps))
    chance = student_975(blocks - 1) * np.sqrt(by_cells[1:].var(ddof=1) * blocks / (blocks - 1) + scatter)
    reach, per_request = float(chance) + unsure, 1e6 * float(weight.sum())
    effects = (observed - by_cells[0]) / per_request, (observed - by_line[0]) / per_request
    high = max(effects) + reach / per_request
    return Interval(effects[0], min(effects) - reach / per_request, high + max(0.0, high) * lost)


@dataclass(frozen=True)
class _Without:
    """What the steps of one process would have taken without their visual work, weighed [ns]."""

    by_cells: Floats
    """By replicate of the controls; the first are the run's own. Cells without controls by the line."""
    by_line: Floats
    """By the linear model alone."""
    scatter: float
    """Variance that comes from steps scattering about their mean [ns^2]."""
    unsure: float
    """What drift within blocks, the form, and the reach of the line beyond its controls, can come to [ns]."""
    drift: Floats
    """How much longer controls took in each block than like ones in the run; for the run's own controls."""


def _without(group: Steps, draws: Floats) -> _Without:
    matched = group.matched()
    n = draws @ group.n  # [r, k]
    filled = np.maximum(n, 1.0)
    mean_y, mean_x = draws @ group.y / filled, np.einsum("rb,bkj->rkj", draws, group.x) / filled[..., None]
    slopes = _slopes(group, draws, n, mean_y, mean_x)
    own = slopes[:, group.mixed]  # [r, k, 3]
    levels = mean_y - np.einsum("rkj,rkj->rk", own, mean_x)
    # A cell whose blocks were not drawn has the mean of the run.
    levels, own = np.where(n > 0, levels, levels[:1]), np.where((n > 0)[..., None], own, own[:1])
    line_levels, line_slopes = _line(group, draws)
    levels, own = np.where(matched, levels, line_levels), np.where(matched[:, None], own, line_slopes)
    drift = _drift(group, _summed(levels, own, group.n, group.x))
    line_drift = _drift(group, _summed(line_levels, line_slopes, group.n, group.x))
    by_block = drift * _summed(levels, own, group.weight, group.wx)
    by_line = line_drift * _summed(line_levels, line_slopes, group.weight, group.wx)
    relative = _relative_variance(group, n[0], mean_y[0], slopes[0], mean_x[0])
    controls = np.maximum(group.n.sum(1), 1)
    scatter = relative * float((group.ww * mean_y[0] ** 2).sum() + (by_block[0] ** 2 / controls).sum())
    moves = np.diff(drift[0])
    unsure = 0.5 * float(np.sqrt(np.mean(moves**2))) * float(by_block[0].sum())
    one_by_one = levels[0] * group.weight + np.einsum("kj,bkj->bk", own[0], group.wx)
    unsure += _BEYOND * float(one_by_one[:, ~matched].sum()) + _FORM * float(
        one_by_one[:, group.mixed == 1].sum()
    )
    return _Without(by_block.sum(1), by_line.sum(1), scatter, unsure, drift[0])


def _summed(levels: Floats, slopes: Floats, weight: Floats, x: Floats) -> Floats:
    """Return the expected time by replicate and block, of steps with such weights and weighed covariates by cell."""
    flat = slopes.reshape(len(slopes), -1) @ x.reshape(len(x), -1).T
    return np.asarray(levels @ weight.T + flat, np.float64)


def _drift(group: Steps, expected: Floats) -> Floats:
    """Return how much longer controls took in each block than like ones in the run, by replicate."""
    known = (group.n.sum(1) >= _LEAST_FOR_DRIFT) & (expected > 0)
    return np.where(known, group.y.sum(1) / np.where(expected > 0, expected, 1), 1.0)


def _line(group: Steps, draws: Floats) -> tuple[Floats, Floats]:
    """Return a level and slopes for each cell from one linear model for each kind of steps, by replicate."""
    cells = len(group.mixed)
    levels, slopes = np.zeros((len(draws), cells)), np.zeros((len(draws), cells, 3))
    for kind in (0, 1):
        of = group.mixed == kind
        # A kind without controls of its own goes by those of the other.
        like = of if group.n[:, of].sum() >= LEAST_CONTROLS else np.ones(cells, np.bool_)
        kinds = [kind] if like is of else [0, 1]
        n, y = draws @ group.n[:, like].sum(1), draws @ group.y[:, like].sum(1)
        x = draws @ group.x[:, like].sum(1)
        filled = np.maximum(n, 1.0)
        mean_x = x / filled[:, None]
        xx = np.einsum("rb,bij->rij", draws, group.xx[:, kinds].sum(1)) - np.einsum("ri,rj->rij", x, mean_x)
        xy = draws @ group.xy[:, kinds].sum(1) - mean_x * y[:, None]
        found = _solve(xx, xy)
        levels[:, of] = (y / filled - (found * mean_x).sum(1))[:, None]
        slopes[:, of] = found[:, None]
    return levels, slopes


def _relative_variance(group: Steps, n: Floats, mean_y: Floats, slopes: Floats, mean_x: Floats) -> float:
    """Return how one iteration scatters about what its cell and covariates say, over the square of its time."""
    inside = group.yy.sum(0) - n * mean_y**2
    explained = 0.0
    for kind in (0, 1):
        of = group.mixed == kind
        xy = group.xy[:, kind].sum(0) - np.einsum("k,ki,k->i", n[of], mean_x[of], mean_y[of])
        explained += float(slopes[kind] @ xy)
    whole = float((n * mean_y**2).sum())
    return max(0.0, float(inside.sum()) - explained) / whole if whole > 0 else 0.0


def _slopes(group: Steps, draws: Floats, n: Floats, mean_y: Floats, mean_x: Floats) -> Floats:
    """Return how time grows with each covariate within cells, by replicate, for both kinds of cells."""
    xx = np.einsum("rb,bgij->rgij", draws, group.xx)
    xy = np.einsum("rb,bgj->rgj", draws, group.xy)
    for kind in (0, 1):
        of = group.mixed == kind
        weighed = n[:, of, None] * mean_x[:, of]
        xx[:, kind] -= np.einsum("rki,rkj->rij", weighed, mean_x[:, of])
        xy[:, kind] -= np.einsum("rki,rk->ri", weighed, mean_y[:, of])
    return _solve(xx, xy)


def _solve(xx: Floats, xy: Floats) -> Floats:
    """Solve normal equations; a covariate that does not vary, or repeats another, gets no weight of its own."""
    scale = np.sqrt(np.maximum(np.einsum("...ii->...i", xx), 0))
    usable = scale > 1e-9 * np.max(scale, axis=-1, keepdims=True, initial=0)
    safe = np.where(usable, scale, 1.0)
    scaled = xx / safe[..., :, None] / safe[..., None, :]
    scaled = np.where(usable[..., :, None] & usable[..., None, :], scaled, 0)
    scaled = scaled + 1e-6 * np.eye(xx.shape[-1])
    solved = np.linalg.solve(scaled, np.where(usable, xy / safe, 0)[..., None])[..., 0] / safe
    return np.where(usable, solved, 0.0)


def _regression(
    requests: Sequence[Requests], weight: Floats, draws: Floats, speeds: Mapping[str, Floats]
) -> Interval | None:
    """Regress what text requests waited on the work that ran meanwhile; None where too few blocks hold visual work.

    ``speeds``: how much longer the same work took in each block, by process.
    """
    touched = np.sum([(group.x[:, 4:] > 0).any(1) for group in requests], axis=0) > 0
    if touched.sum() < LEAST_BLOCKS:
        return None
    added = np.zeros_like(draws)
    for group in requests:
        speed = speeds.get(group.instance, np.ones(BLOCKS))
        xx, xy = group.xx * speed[:, None, None] ** 2, group.xy * speed[:, None]
        slopes = _solve(np.einsum("rb,bij->rij", draws, xx), draws @ xy)
        added += slopes[:, 4:] @ (group.x[:, 4:] * speed[:, None]).T
    return _interval(added / 1e6, weight, draws)


def _interval(added: Floats, weight: Floats, draws: Floats) -> Interval:
    """Return the mean effect and its interval, from what each block added by replicate: the first is the run itself."""
    sizes = draws @ weight
    effects = (draws * added).sum(1) / np.where(sizes > 0, sizes, np.nan)
    effect, resampled = float(effects[0]), effects[1:][np.isfinite(effects[1:])]
    used = (weight > 0) | (added[0] != 0)
    blocks = max(LEAST_BLOCKS, int(used.sum()))
    residual = (added[0] - effect * weight)[used]
    error = float(resampled.std(ddof=1)) * np.sqrt(blocks / (blocks - 1) * _memory(residual))
    reach = student_975(blocks - 1) * error
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Interval(effect, min(float(low), effect - reach), max(float(high), effect + reach))


def _memory(residual: Floats) -> float:
    """Return by how much variance grows as neighbouring blocks are alike (Newey and West 1987); at least 1."""
    centred = residual - residual.mean()
    own = float(centred @ centred)
    if own <= 0:
        return 1.0
    lags = range(1, min(_LAGS, len(centred) - 1) + 1)
    return max(
        1.0, 1 + sum(2 * (1 - k / (_LAGS + 1)) * float(centred[k:] @ centred[:-k]) / own for k in lags)
    )


def student_975(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's t: Abramowitz and Stegun 26.7.5, within 0.2 % from 5 degrees on."""
    z = 1.959963984540054
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return float(z + sum(term / freedom**power for power, term in enumerate(terms, start=1)))
