"""BASE as a yardstick: what its phases cost at any workload and load that it saw, and how much they scatter by themselves.

`watch` holds requests against it one block after the other. (`compare` has both sides at once, and needs none.)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Final, NamedTuple, Self

import numpy as np

from vtprof_analyzer.regress.cost_model import WINSOR_SD, PhaseModel
from vtprof_analyzer.regress.load import Load, load_of, no_flights, with_known_flights
from vtprof_analyzer.regress.noise import default_run_noise, run_variance
from vtprof_analyzer.regress.phases import COMPARED, Given, PhaseData, given_of, looks_like_hit, phase_data
from vtprof_analyzer.regress.requests import Flags, Floats, Integers, Requests
from vtprof_analyzer.regress.thin import of_model

BLOCK_REQUESTS: Final = 60
_FEWEST_BLOCKS: Final = 6
_FEWEST_ALIKE: Final = 3
_MAD: Final = 1.4826
_BEYOND: Final = 0.1
"""How far a prediction may lie beyond those of BASE, of its logarithm."""
_SURELY: Final = float(np.log(2))
"""Where load is beyond BASE's, by how much more than it can explain a time must be longer to be held against BASE."""
_LARGEST: Final = float(np.log(1e6))
"""A time that is a million times as long counts as that: what is more is a wrong clock."""
_LEAST_PART: Final = 0.01
_TELLS: Final = {"encode": "encoder_hit", "prefill": "cached_tokens"}
"""Columns that tell like requests from unlike."""
_LOADS: Final = tuple(one.name for one in fields(Load))


class Compared(NamedTuple):
    """One phase of requests, held against BASE."""

    residual: Floats
    """Logarithms; NaN where the phase is not there, or like nothing in BASE."""
    at_least: Flags
    """Load was beyond BASE's: what it can explain at most is taken off, and the residual is at least that."""


@dataclass(frozen=True)
class Noise:
    """How BASE's log residuals scatter."""

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
    """The largest load of each kind that BASE met, as the phase's model takes it."""
    most: Mapping[str, float]
    """The same, of all that `Load` holds."""
    part: float
    """Of what is modelled, what is the phase's own time: unexplained time is modelled together with a part of TTFT."""
    given: Given
    told: str | None
    """Column that tells like requests from unlike: of who does not carry it one cannot know. None: BASE does not either."""

    def alike(self, other: "_Known") -> bool:
        """Say whether requests are held against the same."""
        same = np.array_equal(self.model.coefficients, other.model.coefficients)
        return same and (self.noise, self.level, self.given) == (other.noise, other.level, other.given)

    def compared(self, phase: str, q: Requests, load: Load) -> Compared:
        """Hold requests against BASE."""
        found, at_least = np.full(len(q), np.nan), np.zeros(len(q), np.bool_)
        data = phase_data(phase, q, load, self.given)
        valid = data.valid
        if self.told is not None:
            # Requests come in small tables, of which none may tell.
            valid = valid & (np.isfinite(getattr(q, self.told)) | ~_asked(phase, q))
        rows = np.flatnonzero(valid)
        if not len(rows):
            return Compared(found, at_least)
        # By how many times the load is beyond the largest that BASE met; the request itself counts as one.
        excess = np.zeros(len(rows))
        for name, most in self.most_load.items():
            excess = np.maximum(excess, np.log1p(data.load[name][rows]) - np.log1p(most))
        beyond = excess > 0
        if beyond.any():
            capped = replace(
                load, **{name: np.minimum(getattr(load, name), most) for name, most in self.most.items()}
            )
            data = phase_data(phase, q, capped, self.given)
        predicted = self.model.predict(data, rows)
        outside = beyond | ~_within(predicted, self.range)
        expected = np.maximum(predicted, self.range[0])
        residual = np.clip(np.log(data.value[rows]) - expected - self.level, -_LARGEST, _LARGEST)
        # A slow engine makes load of its own: what is beyond BASE is a guess, but time grows with load in proportion at
        # most, and what is far above that is no load.
        surely = residual - excess
        known = ~outside | (surely > max(_SURELY, WINSOR_SD * self.spread))
        alike = np.isin(_cell(q, rows), list(self.cells)) & known
        found[rows] = np.where(alike, np.where(outside, surely, residual), np.nan)
        at_least[rows] = alike & outside
        return Compared(found, at_least)


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
        """Return the residuals of `compared`."""
        return {phase: one.residual for phase, one in self.compared(requests).items()}

    def compared(self, requests: Requests) -> dict[str, Compared]:
        """Return per phase log(time / what BASE's model says of this workload and load); about 0 in BASE.

        NaN: the request has not the phase, or BASE nothing like it. Load comes from the other requests of the table:
        hand in those beside it in time.
        """
        found = {phase: _nothing(len(requests)) for phase in self.phases}
        for name in self.models:
            mine = np.flatnonzero(of_model(requests, name))
            if len(mine):
                for phase, one in self._compared(requests.select(mine), name).items():
                    found[phase].residual[mine] = one.residual
                    found[phase].at_least[mine] = one.at_least
        return found

    def hits(self, requests: Requests) -> Flags:
        """Say which requests look like hits of the encoder's cache, where that was not recorded, by BASE's encodes."""
        found = np.zeros(len(requests), np.bool_)
        for name in self.models:
            one = self.known.get(("encode", name))
            if one is not None:
                found |= of_model(requests, name) & looks_like_hit(requests, one.given.hit_below)
        return found

    def _compared(self, q: Requests, name: str) -> dict[str, Compared]:
        found = {}
        load = load_of(q)
        told = np.isfinite(q.in_flight)
        for phase in self.phases:
            held = _nothing(len(q))
            for known, chosen, met in (
                (self.known, told | (not self.without_flights), load),
                (self.without_flights, ~told, no_flights(load)),
            ):
                one = known.get((phase, name))
                if one is not None and chosen.any():
                    values = one.compared(phase, q, met)
                    held.residual[chosen] = values.residual[chosen]
                    held.at_least[chosen] = values.at_least[chosen]
            found[phase] = held
        return found

    def alike(self, other: "CostModel", phase: str, model: str) -> bool:
        """Say whether a phase is held against the same here and there."""
        pairs = [
            (here.get((phase, model)), there.get((phase, model)))
            for here, there in ((self.known, other.known), (self.without_flights, other.without_flights))
        ]
        return all(one is two if one is None or two is None else one.alike(two) for one, two in pairs)

    def part(self, phase: str, model: str) -> float:
        """Return which part of what is held against BASE is the phase's own time: a change of that is larger."""
        one = self.known.get((phase, model))
        return one.part if one else 1.0

    def spread(self, phase: str, model: str) -> float:
        """Return the standard deviation of a phase's residuals by their median size; NaN where BASE does not tell it."""
        one = self.known.get((phase, model))
        return one.spread if one else float("nan")


def _part(data: Sequence[PhaseData], rows: Sequence[Integers], given: Given) -> float:
    mean = float(np.concatenate([one.value[row] for one, row in zip(data, rows, strict=True)]).mean())
    return float(np.clip(1 - given.offset_ms / mean, _LEAST_PART, 1.0)) if mean > 0 else 1.0


def _nothing(count: int) -> Compared:
    return Compared(np.full(count, np.nan), np.zeros(count, np.bool_))


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
    most = {
        name: max(
            float(np.nanmax(getattr(load, name)[row], initial=0.0))
            for load, row in zip(loads, rows, strict=True)
        )
        for name in _LOADS
    }
    return _Known(
        model, _noise(phase, cut), spread, level, frozenset(names[counts >= _FEWEST_ALIKE].tolist()),
        (float(whole.min()) - _BEYOND, float(whole.max()) + _BEYOND),
        most_load, most, _part(data, rows, given), given, _told(phase, tables),
    )  # fmt: skip


def _told(phase: str, tables: Sequence[Requests]) -> str | None:
    column = _TELLS.get(phase)
    if column is None or not any(np.isfinite(getattr(q, column)[_asked(phase, q)]).any() for q in tables):
        return None
    return column


def _asked(phase: str, q: Requests) -> Flags:
    """Say which requests have what the column of `_TELLS` tells of."""
    return q.visual_tokens > 0 if phase == "encode" else np.isfinite(q.text_tokens + q.visual_tokens)


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
    return Noise(variance**0.5, float(np.clip(follow / variance, 0.0, 0.95)), run**0.5, count)


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
