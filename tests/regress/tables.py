"""Small tables of requests for the tests of `compare`'s parts: plain columns, random garbage, and service by known costs."""

from dataclasses import fields, replace
from typing import Any, Final

import numpy as np

from vtprof_analyzer.regress.requests import Requests, Run

START_NS: Final = 1_790_000_000_000_000_000
NUMBERS: Final = tuple(
    one.name for one in fields(Requests) if one.name not in ("ids", "start_ns", "model", "models", "weight")
)
"""Columns that may be NaN."""
TIMES: Final = tuple(name for name in NUMBERS if name.endswith("_ms"))
COUNTS: Final = tuple(name for name in NUMBERS if name not in TIMES and name != "encoder_hit")
MODEL: Final = "Qwen/Qwen2.5-VL-7B-Instruct"


def table(
    count: int = 0, *, start_ms: Any = None, models: tuple[str, ...] = (MODEL,), **columns: Any
) -> Requests:
    """Return requests of these columns, one number for all or one each; what is not given is not known."""
    for given in (start_ms, *columns.values()):
        count = max(count, np.size(given) if given is not None and np.ndim(given) else 0)
    filled: dict[str, Any] = {name: np.full(count, np.nan) for name in NUMBERS}
    filled |= {"weight": np.ones(count), "model": np.zeros(count, np.int64)}
    filled["ids"] = np.array([f"r{number:05d}" for number in range(count)], dtype=np.str_)
    for name, given in columns.items():
        kind = np.int64 if name == "model" else filled[name].dtype
        filled[name] = np.broadcast_to(np.asarray(given, dtype=kind), (count,)).copy()
    start = np.arange(count) * 1e3 if start_ms is None else np.asarray(start_ms, dtype=np.float64)
    return Requests(start_ns=START_NS + np.rint(start * 1e6).astype(np.int64), models=models, **filled)


def run(requests: Requests, label: str = "run") -> Run:
    return Run(label, requests, "vllm 0.33.0", "1 x NVIDIA H200", "bfloat16, TP 1")


def served(
    count: int = 1_500,
    seed: int = 1,
    *,
    rate_per_s: float = 4.0,
    visual_scale: float = 1.0,
    text_scale: float = 1.0,
    vision_share: float = 0.6,
    noise: float = 0.1,
    run_sd: float = 0.0,
    queue_ms: float = 0.0,
    slower: dict[str, float] | None = None,
    models: tuple[str, ...] = (MODEL,),
) -> Requests:
    """Return requests whose phases cost what `MS` says, each with lognormal noise; ``slower`` has factors of phases.

    Seeds draw work and noise: the same seed gives the same requests, whatever else is different.
    """
    rng = np.random.default_rng([seed, 7])
    start_ms = np.cumsum(rng.exponential(1e3 / rate_per_s, count))
    vision = rng.random(count) < vision_share
    images = np.where(vision, rng.integers(1, 4, count), 0)
    visual = np.round(images * rng.lognormal(6.3, 0.5, count) * visual_scale)
    text = np.round(rng.lognormal(5.5, 0.8, count) * text_scale) + 10
    output = np.round(rng.lognormal(4.0, 0.6, count)) + 2
    model = rng.integers(0, len(models), count)
    factor = {"preprocess": 1.0, "encode": 1.0, "prefill": 1.0, "decode": 1.0, "kv": 1.0} | (slower or {})
    took = {
        phase: ms * factor[phase] * rng.lognormal(0.0, noise, count) * rng.lognormal(0.0, run_sd)
        for phase, ms in costs_ms(text, visual, images, output).items()
    }
    waited = queue_ms * rng.exponential(1.0, count)
    unexplained = 0.5 * rng.lognormal(0.0, noise, count)
    return table(
        start_ms=start_ms, models=models, model=model,
        text_tokens=text, visual_tokens=visual, audio_tokens=0.0, output_tokens=output, cached_tokens=0.0,
        images=images, encoder_hit=np.where(vision, 0.0, np.nan), in_flight=np.nan,
        preprocess_ms=took["preprocess"], queue_ms=waited, encode_ms=took["encode"], transfer_ms=np.nan,
        prefill_ms=took["prefill"], unexplained_ms=unexplained,
        ttft_ms=took["preprocess"] + waited + took["encode"] + took["prefill"] + unexplained,
        tpot_ms=took["decode"], kv_bytes=57_344 * factor["kv"] * (text + visual + output - 1),
    )  # fmt: skip


def costs_ms(text: Any, visual: Any, images: Any, output: Any) -> dict[str, Any]:
    """Return what each phase costs without noise [ms]."""
    prompt = text + visual
    return {
        "preprocess": 0.5 + 6.0 * images + 2e-3 * visual,
        "encode": np.where(images > 0, 4.0 + 0.02 * visual + 2e-6 * visual**2 / np.maximum(images, 1), 0.0),
        "prefill": 8.0 + 0.03 * prompt + 1e-6 * prompt**2,
        "decode": 9.0 + 5e-4 * (prompt + output / 2),
    }


def garbage(
    rng: np.random.Generator,
    count: int,
    *,
    models: tuple[str, ...] = (MODEL,),
    unknown: float = 0.2,
    constant: float = 0.2,
    largest_ms: float = 1e11,
    largest_count: float = 1e18,
) -> Requests:
    """Return a table of which nothing can be said, but that a reader would let it pass: no number is infinite or negative.

    ``unknown`` is the share of columns without a value and, in others, that of values that are missing.
    """

    def column(largest: float) -> Any:
        draw = rng.random()
        if draw < unknown:
            return np.full(count, np.nan)
        top = float(np.exp(rng.uniform(0, np.log(largest))))
        if draw < unknown + constant:
            return np.full(count, rng.choice([0.0, 1.0, top]))
        kind = rng.integers(3)
        values = top * rng.random(count)
        if kind == 1:
            values = np.exp(rng.uniform(np.log(1e-6), np.log(largest), count))
        elif kind == 2:
            values = rng.integers(0, 4, count).astype(np.float64)
        values[rng.random(count) < rng.choice([0.0, 0.1, 0.9])] = np.nan
        values[rng.random(count) < rng.choice([0.0, 0.1, 0.9])] = 0.0
        return values

    start = np.sort(rng.integers(0, int(np.exp(rng.uniform(0, np.log(1e8)))) + 1, count))
    numbers = {name: column(largest_ms) for name in TIMES} | {name: column(largest_count) for name in COUNTS}
    numbers["encoder_hit"] = rng.choice([0.0, 0.5, 1.0, np.nan], count)
    weight = np.exp(rng.uniform(-2, 5, count)) if rng.random() < 0.3 else 1.0
    return table(
        count,
        start_ms=start,
        models=models,
        model=rng.integers(0, len(models), count),
        weight=weight,
        **numbers,
    )


def shuffled(requests: Requests, order: Any) -> Requests:
    """Return the same requests in another order."""
    return requests.select(np.asarray(order))


def without(requests: Requests, *names: str) -> Requests:
    """Return requests of which these columns are not known."""
    return replace(requests, **{name: np.full(len(requests), np.nan) for name in names})
