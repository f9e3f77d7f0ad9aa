"""What a phase of one served model changed by, with its variance, before anything is decided."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np

from vtprof_analyzer.regress.contrast import Cells, bins, cells_of, winsorized
from vtprof_analyzer.regress.cost_model import WINSOR_SD, PhaseModel
from vtprof_analyzer.regress.load import Load
from vtprof_analyzer.regress.noise import default_run_noise, joined_freedom, run_variance
from vtprof_analyzer.regress.phases import Given, PhaseData, given_of, looks_like_hit, phase_data
from vtprof_analyzer.regress.requests import Floats, Integers, Requests

FEWEST: Final = 100
"""Requests of a phase and side, below which it is not judged."""
FEWEST_ALIKE: Final = 60
"""Requests with like ones on the other side, likewise."""
TAIL_SHARE: Final = 0.015
"""Of BASE's requests beyond the limit of its tail."""
_GROUPS: Final = ((20_000, (16, 8, 8)), (1_500, (8, 4, 5)), (400, (5, 3, 3)), (0, (3, 2, 2)))
"""By requests of a side: groups of work, visual tokens and load, so that a cell holds some requests of both sides."""
_LARGEST_EXCESS: Final = float(np.log(4))
_CACHE_RUN_NOISE: Final = 0.01
"""Hit rates differ by the items that a run happens to see: a point, from run to run."""
_EVIDENCE: Final = 5


@dataclass(frozen=True)
class Sides:
    """All runs, BASE's first, of one served model."""

    model: str
    tables: tuple[Requests, ...]
    loads: tuple[Load, ...]
    base_runs: int

    @property
    def base(self) -> slice:
        """Return the places of BASE's runs."""
        return slice(None, self.base_runs)

    @property
    def new(self) -> slice:
        """Return the places of NEW's runs."""
        return slice(self.base_runs, None)


@dataclass(frozen=True)
class Estimate:
    """A difference of NEW and BASE on the scale of ``kind``: of logarithms for shifts and tails, else of shares."""

    phase: str
    kind: Literal["shift", "tail", "cache"]
    model: str
    difference: float = 0.0
    block_variance: float = 0.0
    run_variance: float = 0.0
    freedom: float = 1.0
    between: float = 0.0
    """Variance from run to run, of one run."""
    told_by_replicas: bool = False
    requests: tuple[int, int] = (0, 0)
    overlap: float | None = None
    values: tuple[float | None, float | None] = (None, None)
    """Means of the sides, or shares."""
    tail: tuple[float, float] | None = None
    """tail: change of the 99th percentile's logarithm, and its standard deviation."""
    offset: float = 0.0
    """unexplained: in both values, and no time of its own."""
    what: str | None = None
    evidence: tuple[str, ...] = ()
    why_not: str | None = None

    @property
    def sd(self) -> float:
        """Return the difference's standard deviation."""
        return float(np.sqrt(self.block_variance + self.run_variance))


@dataclass(frozen=True)
class Fitted:
    """A phase's model on all runs: what else is asked of it (strata, decomposition, the tail)."""

    phase: str
    model: PhaseModel
    data: tuple[PhaseData, ...]
    rows: tuple[Integers, ...]
    """The valid requests of each run."""
    predicted: tuple[Floats, ...]
    workload: tuple[Floats, ...]
    """Predictions at one and the same load for all."""
    residual: tuple[Floats, ...]
    cells: Cells
    given: Given
    groups: tuple[tuple[Integers, ...], ...]
    """The same requests by size, by visual tokens, and by load, each into a few groups."""


@dataclass(frozen=True)
class Missing:
    """Why a phase cannot be judged."""

    why_not: str
    requests: tuple[int, int]
    """Of each side, that have the phase and its workload."""


def fit(phase: str, sides: Sides) -> Fitted | Missing:
    """Return the phase's model over both sides, or what is missing for one."""
    given = given_of(phase, sides.tables[sides.base], sides.tables[sides.new])
    data = tuple(phase_data(phase, *pair, given) for pair in zip(sides.tables, sides.loads, strict=True))
    rows = tuple(np.flatnonzero(one.valid) for one in data)
    counts = (sum(len(row) for row in rows[sides.base]), sum(len(row) for row in rows[sides.new]))
    if min(counts) < FEWEST:
        side = "BASE" if counts[0] <= counts[1] else "NEW"
        return Missing(
            f"{min(counts)} requests of {side} have it and their tokens: at least {FEWEST} are needed", counts
        )
    model = PhaseModel.fit(list(zip(data, rows, strict=True)), phase)
    if model is None:
        return Missing(f"{sum(counts)} requests have it", counts)
    predicted = tuple(model.predict(*pair) for pair in zip(data, rows, strict=True))
    level = _mean_load(sides.loads)
    alike = [phase_data(phase, table, _constant(level, len(table)), given) for table in sides.tables]
    workload = tuple(model.predict(*pair) for pair in zip(alike, rows, strict=True))
    residual = tuple(
        np.log(one.value[row]) - expected for one, row, expected in zip(data, rows, predicted, strict=True)
    )
    weights = [table.weight[row] for table, row in zip(sides.tables, rows, strict=True)]
    groups = _groups(sides, rows, predicted, workload)
    keys = [(100 * one + two) * 100 + three for one, two, three in zip(*groups, strict=True)]
    cells = cells_of(keys, weights, sides.base_runs)
    if cells.effective < FEWEST_ALIKE:
        share = f"{cells.overlap:.0%}" if cells.overlap else "none"
        why = (
            f"{share} of NEW's requests have like ones in BASE: too few to compare at like workload and load"
        )
        return Missing(why, counts)
    return Fitted(phase, model, data, rows, predicted, workload, residual, cells, given, groups)


def shift(fitted: Fitted, sides: Sides, *, moved: bool) -> Estimate:
    """Return the change of the phase at like work: mean winsorised log residual, NEW less BASE.

    ``moved``: the sides' workload or load differ, so that a change of some requests alone is in doubt.
    """
    values = winsorized(fitted.residual, base_runs=sides.base_runs, sd=WINSOR_SD)
    default = default_run_noise(fitted.phase)
    found = _estimate(fitted.phase, "shift", sides, fitted.cells, values, default)
    if moved:
        cells, groups = fitted.cells, fitted.groups
        if fitted.phase == "encode" and _images_unknown(sides):
            cells, groups, values = _of_one_image(fitted, sides, values)
            if cells.effective >= FEWEST_ALIKE:
                found = _estimate(fitted.phase, "shift", sides, cells, values, default)
        doubt = max(cells.doubt(values, group) for group in groups)
        found = replace(found, block_variance=found.block_variance + doubt)
    means = tuple(
        float(
            np.concatenate(
                [one.value[row] for one, row in zip(fitted.data[side], fitted.rows[side], strict=True)]
            ).mean()
        )
        for side in (sides.base, sides.new)
    )
    typical = _typical(fitted, sides, found.difference)
    return replace(
        found,
        values=(means[0] - fitted.given.offset_ms, means[1] - fitted.given.offset_ms),
        offset=fitted.given.offset_ms,
        evidence=typical,
    )


def _images_unknown(sides: Sides) -> bool:
    """Say whether the number of images was not recorded, of most requests with media of a side."""
    for side in (sides.base, sides.new):
        counts = np.concatenate([q.images[q.visual_tokens > 0] for q in sides.tables[side]])
        if len(counts) and np.isnan(counts).mean() > 0.5:
            return True
    return False


def _of_one_image(
    fitted: Fitted, sides: Sides, values: Sequence[Floats]
) -> tuple[Cells, tuple[tuple[Integers, ...], ...], list[Floats]]:
    """Return what is compared of the half with fewer visual tokens: mostly single images on both sides.

    As many tokens of several small images cost an encoder less than those of a big one. Where images became bigger and
    nobody counted them, the other half would tell a slower engine.
    """
    tokens = [table.visual_tokens[row] for table, row in zip(sides.tables, fitted.rows, strict=True)]
    middle = float(np.median(np.concatenate(tokens)))
    kept = [np.flatnonzero(one <= middle) for one in tokens]
    weights = [
        table.weight[row][one] for table, row, one in zip(sides.tables, fitted.rows, kept, strict=True)
    ]
    keys = [cell[one] for cell, one in zip(fitted.cells.cell, kept, strict=True)]
    groups = tuple(tuple(part[one] for part, one in zip(group, kept, strict=True)) for group in fitted.groups)
    return (
        cells_of(keys, weights, sides.base_runs),
        groups,
        [value[one] for value, one in zip(values, kept, strict=True)],
    )


def tail(fitted: Fitted, sides: Sides, change: float, *, moved: bool) -> Estimate:
    """Return how much more time NEW's requests take beyond the limit of BASE's tail, ``change`` of the shift taken out.

    Mean excess of the log residual over the limit that 1.5 % of BASE's requests pass, at most a factor of four: a
    hiccup of seconds counts no more than that.
    """
    raw = [residual - change * (place >= sides.base_runs) for place, residual in enumerate(fitted.residual)]
    scales = [fitted.model.scale(expected) for expected in fitted.predicted]
    standard = [one / scale for one, scale in zip(raw, scales, strict=True)]
    weights = [np.abs(share) for share in fitted.cells.shares]
    limit = _quantile(
        np.concatenate(standard[sides.base]), np.concatenate(weights[sides.base]), 1 - TAIL_SHARE
    )
    excess = [
        np.clip(one - limit * scale, 0, _LARGEST_EXCESS) for one, scale in zip(raw, scales, strict=True)
    ]
    found = _estimate(fitted.phase, "tail", sides, fitted.cells, excess, 0.0)
    percentile, sd = _percentile_change(raw, weights, sides)
    if moved:
        doubt = max(fitted.cells.doubt(excess, group) for group in fitted.groups)
        # The percentile is in doubt as much as the excess.
        sd *= (1 + doubt / max(found.block_variance, 1e-300)) ** 0.5
        found = replace(found, block_variance=found.block_variance + doubt)
    shares = [
        float(np.concatenate(weights[side]) @ (np.concatenate(excess[side]) > 0))
        for side in (sides.base, sides.new)
    ]
    worst = [
        (float(value[at]), str(table.ids[row[at]]))
        for value, table, row in zip(
            standard[sides.new], sides.tables[sides.new], fitted.rows[sides.new], strict=True
        )
        for at in np.argsort(-value, kind="stable")[:_EVIDENCE]
    ]
    evidence = tuple(name for _, name in sorted(worst, reverse=True)[:_EVIDENCE])
    return replace(found, values=(shares[0], shares[1]), evidence=evidence, tail=(percentile, sd))


def cache(sides: Sides, what: Literal["encoder cache", "prefix cache"], *, moved: bool) -> Estimate | None:
    """Return the change of a cache's hit rate at like requests; None where no cache shows."""
    given = given_of("encode", sides.tables[sides.base], sides.tables[sides.new])
    hits, chosen = zip(*(_hits(table, what, given) for table in sides.tables), strict=True)
    rows = tuple(np.flatnonzero(one) for one in chosen)
    counts = tuple(sum(len(row) for row in rows[side]) for side in (sides.base, sides.new))
    if not any(float(hit[row].sum()) > 0 for hit, row in zip(hits, rows, strict=True)):
        return None
    empty = Estimate("cache", "cache", sides.model, what=what, requests=(counts[0], counts[1]))
    if min(counts) < FEWEST:
        side = "BASE" if counts[0] <= counts[1] else "NEW"
        return replace(
            empty,
            why_not=f"{min(counts)} requests of {side} tell of the {what}: at least {FEWEST} are needed",
        )
    tables = [(table, row) for table, row in zip(sides.tables, rows, strict=True)]
    visual = bins([table.visual_tokens[row] for table, row in tables], 8)
    text = bins([table.text_tokens[row] for table, row in tables], 8)
    cells = cells_of(
        [8 * one + other for one, other in zip(text, visual, strict=True)],
        [table.weight[row] for table, row in tables], sides.base_runs,
    )  # fmt: skip
    if cells.effective < FEWEST_ALIKE:
        return replace(
            empty, why_not="too few of NEW's requests have like ones in BASE", overlap=cells.overlap
        )
    values = [hit[row] for hit, row in zip(hits, rows, strict=True)]
    # Of misses, so that more is worse.
    missing = [1 - value for value in values]
    found = _estimate("cache", "cache", sides, cells, missing, _CACHE_RUN_NOISE)
    if moved and what == "prefix cache":
        # As much of a longer prompt is a smaller share: it has to show in how many requests hit at all, too.
        none = [(value == 0).astype(np.float64) for value in values]
        other = _estimate("cache", "cache", sides, cells, none, _CACHE_RUN_NOISE)
        if abs(other.difference) < abs(found.difference) or other.difference * found.difference < 0:
            found, missing = other, none
    if moved:
        doubt = max(cells.doubt(missing, group) for group in (visual, text))
        found = replace(found, block_variance=found.block_variance + doubt)
    rates = [
        float(np.abs(np.concatenate(cells.shares[side])) @ np.concatenate(values[side]))
        for side in (sides.base, sides.new)
    ]
    missed = [
        str(table.ids[row[at]])
        for table, row, hit in zip(sides.tables[sides.new], rows[sides.new], values[sides.new], strict=True)
        for at in np.flatnonzero(hit == 0)[:_EVIDENCE]
    ]
    return replace(found, what=what, values=(rates[0], rates[1]), evidence=tuple(missed[:_EVIDENCE]))


def _hits(q: Requests, what: str, given: Given) -> tuple[Floats, np.ndarray]:
    """Return each request's hit share, and which requests could have hit."""
    if what == "prefix cache":
        prompt = np.nan_to_num(q.text_tokens) + np.nan_to_num(q.visual_tokens) + np.nan_to_num(q.audio_tokens)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.clip(q.cached_tokens / prompt, 0, 1)
        return np.nan_to_num(share), np.isfinite(share) & np.isfinite(q.visual_tokens + q.text_tokens)
    known = np.isfinite(q.encoder_hit)
    media = (q.visual_tokens > 0) & np.isfinite(q.text_tokens)
    if known.any():
        return np.nan_to_num(q.encoder_hit), media & known
    return looks_like_hit(q, given.hit_below).astype(np.float64), media & np.isfinite(q.encode_ms)


def _estimate(
    phase: str,
    kind: Literal["shift", "tail", "cache"],
    sides: Sides,
    cells: Cells,
    values: Sequence[Floats],
    default: float,
) -> Estimate:
    variance, freedom = cells.variance(values)
    levels = cells.levels(values)
    between, run_freedom, told = run_variance(levels, default)
    # Of few runs, each counts by what it holds of the side.
    run_part = 0.0
    for side in (sides.base, sides.new):
        parts = np.array([float(np.abs(share).sum()) for share in cells.shares[side]])
        run_part += between * float((parts**2).sum()) / float(parts.sum()) ** 2
    counts = tuple(sum(len(cell) for cell in cells.cell[side]) for side in (sides.base, sides.new))
    return Estimate(
        phase, kind, sides.model, cells.difference(values), variance, run_part,
        joined_freedom([(variance, freedom), (run_part, run_freedom)]), between, told, (counts[0], counts[1]), cells.overlap,
    )  # fmt: skip


def _groups(
    sides: Sides, rows: Sequence[Integers], predicted: Sequence[Floats], workload: Sequence[Floats]
) -> tuple[tuple[Integers, ...], ...]:
    """Return how requests are alike: in their own work, in their visual tokens and in the load that they met."""
    count = min(sum(len(row) for row in rows[side]) for side in (sides.base, sides.new))
    sizes = next(sizes for least, sizes in _GROUPS if count >= least)
    visual = [np.nan_to_num(table.visual_tokens[row]) for table, row in zip(sides.tables, rows, strict=True)]
    load = [one - other for one, other in zip(predicted, workload, strict=True)]
    columns = (workload, visual, load)
    return tuple(tuple(bins(column, size)) for column, size in zip(columns, sizes, strict=True))


def _mean_load(loads: Sequence[Load]) -> dict[str, float]:
    found = {}
    for name in Load.__dataclass_fields__:
        column = np.concatenate([getattr(load, name) for load in loads])
        known = column[np.isfinite(column)]
        found[name] = float(known.mean()) if len(known) else 0.0
    return found


def _constant(level: dict[str, float], count: int) -> Load:
    return Load(**{name: np.full(count, value) for name, value in level.items()})


def _typical(fitted: Fitted, sides: Sides, change: float) -> tuple[str, ...]:
    """Return ids of NEW's requests that show the change: those that took longest of those that are typical."""
    found: list[tuple[float, str]] = []
    for table, row, residual, data, share in zip(
        sides.tables[sides.new], fitted.rows[sides.new], fitted.residual[sides.new], fitted.data[sides.new],
        fitted.cells.shares[sides.new], strict=True,
    ):  # fmt: skip
        near = np.flatnonzero((np.abs(residual - change) < 0.5 * max(abs(change), 0.02)) & (share > 0))
        largest = near[np.argsort(-data.value[row[near]], kind="stable")[:_EVIDENCE]]
        found += [(float(data.value[row[at]]), str(table.ids[row[at]])) for at in largest]
    return tuple(name for _, name in sorted(found, reverse=True)[:_EVIDENCE])


def _percentile_change(
    values: Sequence[Floats], weights: Sequence[Floats], sides: Sides
) -> tuple[float, float]:
    """Return the change of the 99th percentile, and its standard deviation by resampled blocks of time."""
    rng = np.random.default_rng(0)
    found, drawn = [], []
    for side in (sides.base, sides.new):
        value, weight = np.concatenate(list(values[side])), np.concatenate(list(weights[side]))
        found.append(_quantile(value, weight, 0.99))
        kept = value >= _quantile(value, weight, 0.95)
        block = np.concatenate(
            [
                np.linspace(0, 39.999, len(one)).astype(np.int64) + 40 * at
                for at, one in enumerate(values[side])
            ]
        )
        blocks = int(block.max()) + 1
        order = np.argsort(value[kept], kind="stable")
        top, top_weight, top_block = value[kept][order], weight[kept][order], block[kept][order]
        whole = np.bincount(block, weight, blocks)
        replicas = []
        for _ in range(200):
            times = np.bincount(rng.integers(0, blocks, blocks), minlength=blocks).astype(np.float64)
            above = np.cumsum((top_weight * times[top_block])[::-1])[::-1]
            at = int(np.searchsorted(-above, -0.01 * float(whole @ times), side="left"))
            replicas.append(top[min(at, len(top) - 1)])
        drawn.append(float(np.var(replicas)))
    return float(found[1] - found[0]), float(np.sqrt(sum(drawn)))


def _quantile(values: Floats, weights: Floats, level: float) -> float:
    order = np.argsort(values, kind="stable")
    below = np.cumsum(weights[order])
    return float(values[order][min(int(np.searchsorted(below, level * below[-1])), len(values) - 1)])
