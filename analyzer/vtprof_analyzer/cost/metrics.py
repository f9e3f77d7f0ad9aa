"""Metrics of serving and of its cost, as the sources define them; each names its formula (F33-F46, C8).

Times are seconds, energies joules, powers watts; what is undefined is None, never a number that looks like a result.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vtprof_schemas.errors import ConfigError

Percentiles = dict[float, float]


def _positive(name: str, value: float) -> None:
    if not value > 0:
        raise ConfigError(f"{name} is {value:g}: must be over 0")


def _finite(values: ArrayLike) -> NDArray[np.float64]:
    array = np.atleast_1d(np.asarray(values, np.float64))
    return array[np.isfinite(array)]


# Latency


def ttft(arrival: float, first_token: float) -> float:
    """Return the time to the first token [s]: from arrival, with everything in between (F33, D2)."""
    return first_token - arrival


def tpot(first_token: float, last_token: float, tokens: int) -> float | None:
    """Return the mean time per output token [s]: over N - 1 intervals for N tokens (F34, D9); None for N below 2."""
    return (last_token - first_token) / (tokens - 1) if tokens > 1 else None


def inter_token_percentiles(
    token_times: ArrayLike, percentiles: Sequence[float] = (50.0, 95.0, 99.0)
) -> Percentiles | None:
    """Return percentiles of the gaps between tokens [s], which a mean hides (F34); None without a gap.

    ``token_times`` are the times of one request's tokens in order; percentiles interpolate linearly.
    """
    gaps = np.diff(np.asarray(token_times, np.float64))
    if not len(gaps):
        return None
    return {percentile: float(np.percentile(gaps, percentile)) for percentile in percentiles}


# Objectives


def meets_slo(
    ttft_seconds: ArrayLike,
    tpot_seconds: ArrayLike | None = None,
    *,
    ttft_limit: float | None = None,
    tpot_limit: float | None = None,
) -> NDArray[np.bool_]:
    """Tell for each request whether it meets every limit that is given (joint SLO, F35); ``<=`` meets it.

    A failed or timed-out request has NaN as TTFT and meets nothing. One that ended after one token has NaN as TPOT and
    is judged by its TTFT alone.
    """
    first = np.atleast_1d(np.asarray(ttft_seconds, np.float64))
    met = np.isfinite(first)
    if ttft_limit is not None:
        met &= first <= ttft_limit
    if tpot_limit is not None:
        if tpot_seconds is None:
            raise ConfigError("a limit on TPOT needs the requests' TPOT")
        each = np.broadcast_to(np.asarray(tpot_seconds, np.float64), first.shape)
        met &= np.isnan(each) | (each <= tpot_limit)
    return met


def slo_attainment(met: ArrayLike) -> float | None:
    """Return the share of all M requests that meet the SLO, failed ones in M (F35); None without requests."""
    each = np.atleast_1d(np.asarray(met, bool))
    return float(each.mean()) if len(each) else None


def goodput(met: ArrayLike, duration_seconds: float) -> float:
    """Return requests per second that meet the SLO (F36): attainment x M / T."""
    _positive("duration", duration_seconds)
    return float(np.count_nonzero(np.asarray(met, bool))) / duration_seconds


# Cost


def cost_per_successful_request(
    usd_per_node: float, goodput_per_second: float, window_seconds: float, nodes: int = 1
) -> float:
    """Return USD per request that meets the SLO (F37): ``C_node * nodes / (G * T)``; infinite for a goodput of 0.

    ``usd_per_node`` is the price of one node over the window; ``goodput_per_second`` is that of all nodes together, so
    that its share of a node is G / nodes (D17).
    """
    _positive("window", window_seconds)
    if nodes < 1 or goodput_per_second < 0 or usd_per_node < 0:
        raise ConfigError(
            f"{nodes} nodes at {usd_per_node:g} USD, goodput {goodput_per_second:g}/s: no such cluster"
        )
    return (
        math.inf if goodput_per_second == 0 else usd_per_node * nodes / (goodput_per_second * window_seconds)
    )


def scalability_efficiency(attainment_scaled: float, attainment_base: float) -> float | None:
    """Return attainment at k times the hardware and k times the request rate over that of the base (F38); ideal 1.

    None where the base is 0. Loads are rates, not counts; below the knee both terms are 1 and prove nothing (D18).
    """
    return attainment_scaled / attainment_base if attainment_base > 0 else None


def goodput_scaling(goodput_scaled: float, goodput_base: float, factor: float) -> float | None:
    """Return the companion of F38: goodput at k times the hardware over k times that of the base; None for a base of 0."""
    _positive("factor", factor)
    return goodput_scaled / (factor * goodput_base) if goodput_base > 0 else None


# Energy


def energy_joules(times: ArrayLike, watts: ArrayLike) -> float | None:
    """Return energy over a window from power samples, trapezoids between them (F39); None with fewer than two.

    ``times`` [s] and ``watts`` have one entry a sample; samples that are not numbers are left out.
    """
    when, power = np.asarray(times, np.float64), np.asarray(watts, np.float64)
    if when.shape != power.shape:
        raise ConfigError(f"{when.size} times and {power.size} power samples: one each is needed")
    known = np.isfinite(when) & np.isfinite(power)
    order = np.argsort(when[known], kind="stable")
    when, power = when[known][order], power[known][order]
    if len(when) < 2:
        return None
    return float(np.sum((power[1:] + power[:-1]) / 2.0 * np.diff(when)))


def energy_per_token(joules: float | None, tokens: int) -> float | None:
    """Return energy per token made in the window that the energy was measured over (F39); None without tokens.

    Give decode's energy and tokens, and prefill's apart per request: the sum of both hides each.
    """
    return joules / tokens if joules is not None and tokens > 0 else None


def energy_per_token_bound(
    rated_watts: float, tpot_seconds: float, batch: int = 1, devices: int = 1
) -> float:
    """Return F39's rated-power form, an upper bound [J]: TDP x TPOT x devices, shared by the tokens of a batch.

    Memory-bound decode rarely draws rated power (D19); prefill and encode are not in it.
    """
    if batch < 1 or devices < 1:
        raise ConfigError(f"batch {batch} on {devices} devices: both must be at least 1")
    return rated_watts * tpot_seconds * devices / batch


# Visual shares

Denominator = Literal["prompt_tokens", "kv_bytes", "prefill_flops", "decode_bytes"]


@dataclass(frozen=True)
class VisualShare:
    """One of C8's four shares, by the name of its denominator, and whether it exceeds the threshold (F40)."""

    of: Denominator
    share: float
    threshold: float

    @property
    def dominant(self) -> bool:
        """Tell whether visual tokens dominate this denominator, and this one alone."""
        return self.share > self.threshold


def visual_share(of: Denominator, visual: float, whole: float, threshold: float = 0.5) -> VisualShare | None:
    """Return the visual part of one denominator (F40, C8); None where the whole is 0.

    The sources name no threshold; one half is ours.
    """
    return VisualShare(of, visual / whole, threshold) if whole > 0 else None


def repeated_visual_kv_bytes(visual_kv_bytes: float, output_tokens: int) -> float:
    """Return bytes of visual KV read again over a request's decode steps: ``KV_v * N_o`` (visual memory wall)."""
    return visual_kv_bytes * max(0, output_tokens)


def is_visual_memory_wall(visual_kv_bytes: float, weight_bytes: float, batch: int = 1) -> bool:
    """Tell whether the visual KV of a batch outweighs the weights that a decode step reads; or there is none (D20)."""
    return visual_kv_bytes * batch > weight_bytes


# Compression and speculation


@dataclass(frozen=True)
class BudgetRetention:
    """What a smaller KV budget keeps (F41): budget counts entries, ``memory_ratio`` bytes."""

    memory_ratio: float
    speedup: float

    @property
    def latency_cut(self) -> float:
        """Return the share of latency that is gone."""
        return 1.0 - 1.0 / self.speedup


def budget_retention(
    memory: float, full_memory: float, latency: float, full_latency: float
) -> BudgetRetention:
    """Return memory ratio and speedup of a KV budget against the full cache (F41); all four over 0."""
    for name, value in (("full memory", full_memory), ("latency", latency), ("full latency", full_latency)):
        _positive(name, value)
    return BudgetRetention(memory / full_memory, full_latency / latency)


def quality_retention(ratios: ArrayLike) -> float:
    """Return the mean of score over reference score, one entry a measure (F42: accuracy and a model-graded score)."""
    each = _finite(ratios)
    if not len(each):
        raise ConfigError("quality retention of no measure: give one ratio at least")
    return float(each.mean())


def speculative_speedup(accepted_tokens: float, cycle_cost: float) -> float:
    """Return the speedup of speculative decoding (F43): tokens accepted in a cycle over its cost in target steps."""
    _positive("cycle cost", cycle_cost)
    return accepted_tokens / cycle_cost


def speculative_cycle_cost(accepted_tokens: float, speedup: float) -> float:
    """Return the cost of a cycle in target steps from a measured speedup (F43)."""
    _positive("speedup", speedup)
    return accepted_tokens / speedup


def draft_step_cost(cycle_cost: float, draft_tokens: int) -> float:
    """Return the cost of one draft step in target steps, where a cycle is one target step and the drafts (F43)."""
    _positive("draft tokens", draft_tokens)
    return (cycle_cost - 1.0) / draft_tokens


# Scaling law


@dataclass(frozen=True)
class ScalingLaw:
    """Y(N, T) = AB / (N^alpha T^beta) + D (F44): an error, for it falls as parameters N and tokens T grow (D21).

    A and B stand only as a product and cannot be fitted apart. Fitted on 0.5B to 7B; encoder and decode are not in it.
    The constants are not printed in the source: a qualitative hint, no prediction.
    """

    product: float
    """A x B."""
    alpha: float
    beta: float
    floor: float
    """D."""

    def error(self, params: float, tokens: float) -> float:
        """Return Y; infinite at zero tokens or parameters, where the law diverges."""
        if params <= 0 or tokens <= 0:
            return math.inf
        return self.product / float(params**self.alpha * tokens**self.beta) + self.floor

    def optimum(self) -> Literal["fewest tokens", "most tokens", "any split"]:
        """Return where the error is least at a fixed N x T (F46): it goes as T^(alpha - beta) there."""
        if self.alpha > self.beta:
            return "fewest tokens"
        return "most tokens" if self.alpha < self.beta else "any split"


def budget_cost(params: float, text_tokens: float, visual_tokens: float) -> float:
    """Return the cost that a budget line holds constant: N x (Q + V) (F23, F45); encoder and decode are not counted."""
    return params * (text_tokens + visual_tokens)


def linear_fit(tokens: ArrayLike, seconds: ArrayLike) -> tuple[float, float]:
    """Return slope [s/token] and intercept [s] of latency over tokens by least squares (F22, F24)."""
    x, y = np.asarray(tokens, np.float64), np.asarray(seconds, np.float64)
    if x.size < 2 or x.shape != y.shape or np.ptp(x) == 0:
        raise ConfigError("a line needs two points with different token counts at least")
    centred = x - x.mean()
    slope = float(np.dot(centred, y) / np.dot(centred, centred))
    return slope, float(y.mean() - slope * x.mean())


def compression_ratio(bits: float, stored_bits: float) -> float:
    """Return how much smaller a quantised cache is, an upper bound: scales, zero points and kept tokens are left out."""
    _positive("stored bits", stored_bits)
    return bits / stored_bits
