"""What makes like requests take unlike times: by request, by step, over time and from run to run."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Final

import numpy as np

from vtprof_analyzer.regress.requests import Floats

PHASES: Final = ("preprocess", "encode", "prefill", "decode")
SERIES_STEP_S = 1.0
MAX_HICCUP = 30.0
"""A hiccup of a phase takes at most so many times the phase's own time."""


@dataclass(frozen=True)
class Noise:
    """Sizes of the noise: ``_sd`` are standard deviations of the logarithm, 0.01 is 1 %."""

    run_sd: float = 0.007
    """Of the factor that a run has for each phase, from Student's t with ``run_freedom`` degrees of freedom."""
    run_freedom: float = 12.0
    host_sd: float = 0.05
    host_tau_s: float = 15.0
    """The host's pace is autocorrelated (AR(1)), and drifts slowly besides."""
    drift_sd: float = 0.006
    clock_sd: float = 0.006
    clock_tau_s: float = 40.0
    heat_sd: float = 0.004
    """How far the device slows down while it warms up; its size is drawn for each run."""
    heat_tau_s: float = 200.0
    preprocess_sd: float = 0.18
    encode_sd: float = 0.05
    prefill_sd: float = 0.03
    step_sd: float = 0.02
    overhead_sd: float = 0.4
    hiccup_share: float = 0.003
    """Of the requests in a phase, and of the steps that only decode a tenth of it."""
    hiccup_power: float = 1.8
    """Exponent of the Pareto distribution of a hiccup's length."""


USUAL: Final = Noise()
NONE: Final = Noise(**{one.name: 0.0 for one in fields(Noise) if one.name.endswith("_sd")}, hiccup_share=0.0)


def heavier(noise: Noise, ratio: float = 10.0) -> Noise:
    """Return ten times the noise within a run: variances and hiccups.

    What is slower than a run is left as it is (factors of runs, drift, heat): no method can tell it from a change.
    """
    slow = ("run_sd", "drift_sd", "heat_sd")
    within = [one.name for one in fields(noise) if one.name.endswith("_sd") and one.name not in slow]
    return replace(
        noise,
        **{name: getattr(noise, name) * ratio**0.5 for name in within},
        hiccup_share=noise.hiccup_share * ratio,
    )


def run_factors(noise: Noise, rng: np.random.Generator) -> dict[str, float]:
    """Draw what a run takes of each phase, relative to what the deployment takes."""
    scale = noise.run_sd * ((noise.run_freedom - 2) / noise.run_freedom) ** 0.5
    draws = rng.standard_t(noise.run_freedom, len(PHASES)) * scale
    return dict(zip(PHASES, np.exp(draws).tolist(), strict=True))


def host_pace(noise: Noise, duration_s: float, rng: np.random.Generator) -> list[float]:
    """Return what the host takes over time, a factor for each second."""
    seconds = _seconds(duration_s)
    phases, periods = rng.uniform(0, 2 * np.pi, 2), rng.uniform(0.4, 2.5, 2) * max(duration_s, 1.0)
    drift = sum(
        np.sin(2 * np.pi * seconds / period + phase) for period, phase in zip(periods, phases, strict=True)
    )
    pace = _autocorrelated(noise.host_sd, noise.host_tau_s, len(seconds), rng) + noise.drift_sd * drift
    return _factors(pace)


def clock_pace(noise: Noise, duration_s: float, rng: np.random.Generator) -> list[float]:
    """Return what the device takes over time: its clock wanders, and falls while it warms up."""
    seconds = _seconds(duration_s)
    heat = abs(rng.normal(0, 1)) * noise.heat_sd * (1 - np.exp(-seconds / noise.heat_tau_s))
    return _factors(_autocorrelated(noise.clock_sd, noise.clock_tau_s, len(seconds), rng) + heat)


def own_factors(noise: Noise, sd: float, count: int, rng: np.random.Generator) -> Floats:
    """Draw a factor for each request: lognormal, and a Pareto hiccup for some."""
    factors = np.exp(sd * rng.standard_normal(count) - sd**2 / 2)
    return factors * (1 + hiccups(noise, count, rng))


def hiccups(noise: Noise, count: int, rng: np.random.Generator) -> Floats:
    """Draw what hiccups add, relative: 0 for most."""
    hit = rng.random(count) < noise.hiccup_share
    added = np.minimum(rng.pareto(noise.hiccup_power, count) + 0.3, MAX_HICCUP) if noise.hiccup_share else 0.0
    return np.asarray(hit * added, dtype=np.float64)


def _seconds(duration_s: float) -> Floats:
    return np.arange(0, 1.2 * duration_s + 120, SERIES_STEP_S)


def _autocorrelated(sd: float, tau_s: float, count: int, rng: np.random.Generator) -> Floats:
    keep = np.exp(-SERIES_STEP_S / tau_s)
    shocks = (rng.standard_normal(count) * sd * (1 - keep**2) ** 0.5).tolist()
    value, series = rng.standard_normal() * sd, []
    for shock in shocks:
        value = keep * value + shock
        series.append(value)
    return np.array(series)


def _factors(logs: Floats) -> list[float]:
    factors: list[float] = np.exp(logs).tolist()
    return factors


def tail_factors(share: float, low: float, high: float, count: int, rng: np.random.Generator) -> Floats:
    """Draw a factor for each request: 1 for most, uniform between ``low`` and ``high`` for a share of them."""
    return np.where(rng.random(count) < share, rng.uniform(low, high, count), 1.0)


def combined(series: Sequence[float], at_ms: Floats) -> Floats:
    """Return the factors of a series at these times."""
    index = np.minimum((at_ms / (1e3 * SERIES_STEP_S)).astype(np.int64), len(series) - 1)
    return np.asarray(series, dtype=np.float64)[index]
