"""BASE as a yardstick: what its phases cost at any workload and load that it saw, and how much they scatter by themselves.

`watch` holds requests against it one block after the other. (`compare` has both sides at once, and needs none.)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from vtprof_analyzer.regress.cost_model import WINSOR_SD, PhaseModel
from vtprof_analyzer.regress.load import Load, load_of, no_flights, with_known_flights
from vtprof_analyzer.regress.noise import default_run_noise, run_variance
from vtprof_analyzer.regress.phases import COMPARED, Given, given_of, looks_like_hit, phase_data
from vtprof_analyzer.regress.requests import Flags, Floats, Integers, Requests
from vtprof_analyzer.regress.thin import of_model

BLOCK_REQUESTS: Final = 60
_FEWEST_BLOCKS: Final = 6
_FEWEST_ALIKE: Final = 3
_MAD: Final = 1.4826
_BEYOND: Final = 0.1
"""How far a prediction may lie beyond those of BASE, of its logarithm."""


@dataclass(frozen=True)
class Noise:
    """How BASE's log residuals scatter."""

    request_sd: float
    block_sd: float
    """Of means of ``BLOCK_REQUESTS`` consecutive requests of one model that have the phase."""
    lag1: float
    """Correlation of a block with the next; 0 where it would be negative."""
    run_sd: float
    """From run to run: of several runs of BASE, else the default."""
    blocks: int
    """Of which this was told."""


@dataclass(frozen=True)
class _Known:
    """One phase of one served model in BASE."""

    model: PhaseModel
    noise: Noise
    spread: float
    """Standard deviation of residuals, by their median size."""
    level: float
    """BASE's mean residual, winsorised."""
    cells: frozenset[int]
    """Workloads that BASE has."""
    range: tuple[float, float]
    """Of predictions, logarithms."""
    most_load: Mapping[str, float]
    """The largest load of each kind that BASE met."""
    given: Given

    def residual(self, phase: str, q: Requests, load: Load) -> Floats:
        """Return log residuals; NaN where the phase is not there, or is like nothing in BASE."""
        found = np.full(len(q), np.nan)
        data = phase_data(phase, q, load, self.given)
        rows = np.flatnonzero(data.valid)
        if not len(rows):
            return found
        predicted = self.model.predict(data, rows)
        residual = np.log(data.value[rows]) - predicted - self.level
        # Wide enough to show a shift of any size that matters.
        limit = WINSOR_SD * self.spread + 1
        # Beyond what BASE knows a prediction is a guess.
        alike = np.isin(_cell(q, rows), list(self.cells)) & _within(predicted, self.range)
        for name, most in self.most_load.items():
            alike &= data.load[name][rows] <= most
        found[rows] = np.where(alike, np.clip(residual, -limit, limit), np.nan)
        return found


@dataclass(frozen=True)
class CostModel:
    """BASE's phases, by phase and served model."""

    known: Mapping[tuple[str, str], _Known]
    without_flights: Mapping[tuple[str, str], _Known]
    """The same for requests beside which nobody recorded how many were in flight; empty where BASE did not either."""

    @property
    def phases(self) -> tuple[str, ...]:
        """Return the phases that BASE tells, of any model."""
        return tuple(phase for phase in COMPARED if any(phase == one for one, _ in self.known))

    @property
    def models(self) -> tuple[str, ...]:
        """Return the served models of which BASE tells a phase."""
        return tuple(sorted({model for _, model in self.known}))

    @property
    def noise(self) -> dict[str, Noise]:
        """Return each phase's noise, of the model of which it is largest."""
        found: dict[str, Noise] = {}
        for (phase, _), one in self.known.items():
            if phase not in found or one.noise.block_sd > found[phase].block_sd:
                found[phase] = one.noise
        return found

    def noise_of(self, phase: str, model: str) -> Noise | None:
        """Return the noise of one model's phase; None where BASE does not tell it."""
        one = self.known.get((phase, model))
        return one.noise if one else None

    @classmethod
    def fit(cls, runs: Sequence[Requests]) -> Self:
        """Fit to BASE's runs. Phases of which it has too few requests are left out."""
        known, without = {}, {}
        for name in sorted({name for q in runs for name in q.models}):
            tables = [q.select(np.flatnonzero(of_model(q, name))) for q in runs]
            loads = with_known_flights([load_of(table) for table in tables])
            for phase in COMPARED:
                one = _fit(phase, tables, loads)
                if one is not None:
                    known[phase, name] = one
                if one is not None and any(load.in_flight.any() for load in loads):
                    other = _fit(phase, tables, [no_flights(load) for load in loads])
                    if other is not None:
                        without[phase, name] = other
        return cls(known, without)

    def residuals(self, requests: Requests) -> dict[str, Floats]:
        """Return per phase log(time / what BASE's model says of this workload and load), winsorised; about 0 in BASE.

        NaN: the request has not the phase, or BASE nothing like it. Load comes from the other requests of the table:
        hand in those beside it in time.
        """
        found = {phase: np.full(len(requests), np.nan) for phase in self.phases}
        for name in self.models:
            mine = np.flatnonzero(of_model(requests, name))
            if len(mine):
                for phase, values in self._residuals(requests.select(mine), name).items():
                    found[phase][mine] = values
        return found

    def hits(self, requests: Requests) -> Flags:
        """Say which requests look like hits of the encoder's cache, where that was not recorded, by BASE's encodes."""
        found = np.zeros(len(requests), np.bool_)
        for name in self.models:
            one = self.known.get(("encode", name))
            if one is not None:
                found |= of_model(requests, name) & looks_like_hit(requests, one.given.hit_below)
        return found

    def _residuals(self, q: Requests, name: str) -> dict[str, Floats]:
        found = {}
        load = load_of(q)
        told = np.isfinite(q.in_flight)
        for phase in self.phases:
            values = np.full(len(q), np.nan)
            for known, chosen, met in (
                (self.known, told | (not self.without_flights), load),
                (self.without_flights, ~told, no_flights(load)),
            ):
                one = known.get((phase, name))
                if one is not None and chosen.any():
                    values[chosen] = one.residual(phase, q, met)[chosen]
            found[phase] = values
        return found

    def spread(self, phase: str, model: str) -> float:
        """Return the standard deviation of a phase's residuals by their median size; NaN where BASE does not tell it."""
        one = self.known.get((phase, model))
        return one.spread if one else float("nan")


def _fit(phase: str, tables: Sequence[Requests], loads: Sequence[Load]) -> _Known | None:
    given = given_of(phase, tables)
    data = [phase_data(phase, *pair, given) for pair in zip(tables, loads, strict=True)]
    rows = [np.flatnonzero(one.valid) for one in data]
    if sum(len(row) // BLOCK_REQUESTS for row in rows) < _FEWEST_BLOCKS:
        return None
    model = PhaseModel.fit(list(zip(data, rows, strict=True)), phase)
    if model is None:
        return None
    predicted = [model.predict(*pair) for pair in zip(data, rows, strict=True)]
    residual = [
        np.log(one.value[row]) - expected for one, row, expected in zip(data, rows, predicted, strict=True)
    ]
    joined = np.concatenate(residual)
    middle = float(np.median(joined))
    spread = max(_MAD * float(np.median(np.abs(joined - middle))), 1e-6)
    cut = [np.clip(one - middle, -WINSOR_SD * spread, WINSOR_SD * spread) + middle for one in residual]
    level = float(np.concatenate(cut).mean())
    whole = np.concatenate(predicted)
    names, counts = np.unique(
        np.concatenate([_cell(q, row) for q, row in zip(tables, rows, strict=True)]), return_counts=True
    )
    most_load = {
        name: float(max(one.load[name][row].max(initial=0.0) for one, row in zip(data, rows, strict=True)))
        for name in data[0].load
    }
    return _Known(
        model, _noise(phase, cut), spread, level, frozenset(names[counts >= _FEWEST_ALIKE].tolist()),
        (float(whole.min()) - _BEYOND, float(whole.max()) + _BEYOND),
        most_load, given,
    )  # fmt: skip


def _noise(phase: str, residual: Sequence[Floats]) -> Noise:
    blocks = [_block_means(one) for one in residual]
    levels = [(float(one.mean()), float(one.var(ddof=1)) / len(one)) for one in blocks if len(one) > 1]
    inner = [one - one.mean() for one in blocks if len(one) > 1]
    count = sum(len(one) for one in inner)
    freedom = max(count - len(inner), 1)
    variance = sum(float(one @ one) for one in inner) / freedom
    follow = sum(float(one[1:] @ one[:-1]) for one in inner) / freedom
    run, _, _ = run_variance([levels], default_run_noise(phase))
    alone = np.concatenate(list(residual))
    # Means of independent requests scatter by that much at least.
    least = float(alone.var()) / BLOCK_REQUESTS
    variance = max(variance, least, 1e-12)
    return Noise(
        float(alone.std()), variance**0.5, float(np.clip(follow / variance, 0.0, 0.95)), run**0.5, count
    )


def _block_means(values: Floats) -> Floats:
    count = len(values) // BLOCK_REQUESTS
    means: Floats = values[: count * BLOCK_REQUESTS].reshape(count, BLOCK_REQUESTS).mean(axis=1)
    return means


def _cell(q: Requests, rows: Integers) -> Integers:
    """Return a number that is alike for requests of like workload: tokens within a factor of two."""

    def size(column: Floats) -> Integers:
        return np.floor(np.log2(np.nan_to_num(column[rows]) / 16 + 1)).astype(np.int64)

    return size(q.visual_tokens) * 64 + size(q.text_tokens)


def _within(values: Floats, limits: tuple[float, float]) -> Flags:
    return (values >= limits[0]) & (values <= limits[1])
