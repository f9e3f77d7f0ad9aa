"""Plain figures of both sides, workload and all: what a dashboard shows, and what the verdict must be read beside."""

from collections.abc import Sequence
from typing import Final, Literal

import numpy as np

from vtprof_analyzer.regress.comparison import Metric
from vtprof_analyzer.regress.requests import Floats, Requests, Run

_PERCENTILES: Final[tuple[tuple[Literal["p50", "p95", "p99"], float], ...]] = (
    ("p50", 0.5),
    ("p95", 0.95),
    ("p99", 0.99),
)
_TIMES: Final = (
    "ttft_ms", "tpot_ms", "preprocess_ms", "queue_ms", "encode_ms", "transfer_ms", "prefill_ms", "unexplained_ms",
)  # fmt: skip
_MEANS: Final = (
    "visual_tokens",
    "text_tokens",
    "audio_tokens",
    "output_tokens",
    "images",
    "cached_tokens",
    "kv_bytes",
    "encoder_hit",
)


def metrics(base: Sequence[Run], new: Sequence[Run]) -> tuple[Metric, ...]:
    """Return mean and percentiles of times, means of sizes, arrivals; of what either side recorded."""
    sides = [[run.requests for run in side] for side in (base, new)]
    found = []
    for name in _TIMES:
        columns = [_column(side, name) for side in sides]
        if not any(len(value) for value, _ in columns):
            continue
        found.append(_metric(name, "mean", *(_mean(*one) for one in columns)))
        for label, level in _PERCENTILES:
            found.append(_metric(name, label, *(_quantile(*one, level) for one in columns)))
    for name in _MEANS:
        columns = [_column(side, name) for side in sides]
        if any(np.any(value > 0) for value, _ in columns):
            found.append(_metric(name, "mean", *(_mean(*one) for one in columns)))
    per_token = [_kv_per_token(side) for side in sides]
    if any(one is not None for one in per_token):
        found.append(_metric("kv_bytes_per_token", "p50", *per_token))
    found.append(_metric("arrivals_per_s", "rate", *(_rate(side) for side in sides)))
    return tuple(found)


def _metric(
    name: str, statistic: Literal["mean", "p50", "p95", "p99", "rate"], base: float | None, new: float | None
) -> Metric:
    change = new / base - 1 if base and new is not None else None
    return Metric(name, statistic, base, new, change)


def _column(side: Sequence[Requests], name: str) -> tuple[Floats, Floats]:
    value = np.concatenate([getattr(q, name) for q in side])
    weight = np.concatenate([q.weight for q in side])
    known = np.isfinite(value)
    return value[known], weight[known]


def _mean(value: Floats, weight: Floats) -> float | None:
    return float(value @ weight / weight.sum()) if len(value) and weight.sum() > 0 else None


def _quantile(value: Floats, weight: Floats, level: float) -> float | None:
    if not len(value):
        return None
    if np.all(weight == weight[0]):
        return float(np.quantile(value, level))
    order = np.argsort(value, kind="stable")
    below = np.cumsum(weight[order])
    return float(value[order][min(int(np.searchsorted(below, level * below[-1])), len(value) - 1)])


def _kv_per_token(side: Sequence[Requests]) -> float | None:
    found = []
    for q in side:
        held = q.text_tokens + q.visual_tokens + np.nan_to_num(q.audio_tokens) + q.output_tokens - 1
        with np.errstate(divide="ignore", invalid="ignore"):
            rate = np.where(held > 0, q.kv_bytes / held, np.nan)
        found.append(rate[np.isfinite(rate)])
    joined = np.concatenate(found)
    return float(np.median(joined)) if len(joined) else None


def _rate(side: Sequence[Requests]) -> float | None:
    seconds = sum(float(q.start_ns[-1] - q.start_ns[0]) / 1e9 for q in side if len(q) > 1)
    return sum(float(q.weight.sum()) for q in side) / seconds if seconds > 0 else None
