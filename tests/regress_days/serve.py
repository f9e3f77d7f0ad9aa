"""An engine serves what was asked: worker processes prepare it, then the steps take it; noise goes on top."""

from dataclasses import dataclass
from heapq import heapify, heapreplace
from itertools import pairwise

import numpy as np

from regress_days.engine import PATCHES_PER_TOKEN, Engine, Tail
from regress_days.noise import (
    Noise,
    clock_pace,
    combined,
    hiccups,
    host_pace,
    own_factors,
    run_factors,
    tail_factors,
)
from regress_days.steps import KV_BLOCK, Change, Out, Pace, Work, run
from regress_days.traffic import Asked
from vtprof_analyzer.regress.requests import Floats, Integers


@dataclass(frozen=True)
class Served:
    """What came of the requests, in their order; times in ms."""

    asked: Asked
    preprocess_ms: Floats
    queue_ms: Floats
    encode_ms: Floats
    """0 without images."""
    prefill_ms: Floats
    ttft_ms: Floats
    finish_ms: Floats
    """On the clock of the arrivals."""
    tpot_ms: Floats
    """NaN of a single token."""
    hits: Floats
    """Images found in the encoder's cache."""
    cached_tokens: Floats
    kv_bytes: Floats


def serve(
    engine: Engine, asked: Asked, noise: Noise, rng: np.random.Generator, change: Change | None = None
) -> Served:
    """Serve the requests and measure them."""
    count, duration_s = len(asked), float(asked.arrival_ms[-1]) / 1e3
    pace = Pace(
        run_factors(noise, rng),
        host_pace(noise, duration_s, rng),
        clock_pace(noise, duration_s, rng),
        own_factors(noise, noise.step_sd, 4_096, rng).tolist(),
        (hiccups(noise, 8_192, rng) * (rng.random(8_192) < 0.1)).tolist(),
    )
    parts = [(engine, slice(0, change.first if change else count))]
    if change:
        parts.append((change.engine, slice(change.first, count)))
    preprocess_own = np.empty(count)
    encode_own, prefill_own = np.empty(len(asked.image_ids)), np.empty(count)
    ends = np.concatenate([[0], np.cumsum(asked.image_count)])
    visual = np.add.reduceat(np.append(asked.image_tokens, 0), ends[:-1]) * (asked.image_count > 0)
    for each, rows in parts:
        images = slice(ends[rows.start], ends[rows.stop])
        preprocess_own[rows] = _preprocess_own(each, asked, visual, rows)
        encode_own[images] = _encode_own(each, asked.image_tokens[images])
    preprocess_own *= own_factors(noise, noise.preprocess_sd, count, rng) * pace.factors["preprocess"]
    preprocess_own *= combined(pace.host, asked.arrival_ms)
    encode_factor = own_factors(noise, noise.encode_sd, count, rng)
    prefill_own[:] = own_factors(noise, noise.prefill_sd, count, rng)
    for each, rows in parts:
        for tail in each.tails:
            target = {"preprocess": preprocess_own, "encode": encode_factor, "prefill": prefill_own}[
                tail.phase
            ]
            target[rows] *= _tail(tail, rows, rng)
    encode_own *= np.repeat(encode_factor, asked.image_count)

    preprocess_ms, ready = _preprocess(engine, asked.arrival_ms.tolist(), preprocess_own.tolist())
    pairs = list(zip(asked.image_ids.tolist(), asked.image_tokens.tolist(), strict=True))
    bounds, costs = ends.tolist(), encode_own.tolist()
    work = Work(
        [costs[low:high] for low, high in pairwise(bounds)],
        prefill_own.tolist(),
        [pairs[low:high] for low, high in pairwise(bounds)],
        (asked.text_tokens + visual).tolist(),
    )
    out = run(engine, asked, work, ready, pace, rng, change)
    overhead = own_factors(noise, noise.overhead_sd, count, rng) * engine.overhead_ms
    return _served(engine, asked, work, preprocess_ms, out, overhead, change)


def _preprocess_own(engine: Engine, asked: Asked, visual: Integers, rows: slice) -> Floats:
    own = (
        engine.preprocess_ms
        + engine.preprocess_ms_per_text_token * asked.text_tokens[rows]
        + engine.preprocess_ms_per_image * asked.image_count[rows]
        + engine.preprocess_ms_per_visual_token * visual[rows]
    )
    return np.asarray(own, dtype=np.float64)


def _encode_own(engine: Engine, tokens: Integers) -> Floats:
    patches = tokens.astype(np.float64) * PATCHES_PER_TOKEN
    return engine.encode_ms_per_patch * patches + engine.encode_ms_per_patch_squared * patches**2


def _tail(tail: Tail, rows: slice, rng: np.random.Generator) -> Floats:
    return tail_factors(tail.share, tail.low, tail.high, rows.stop - rows.start, rng)


def _preprocess(engine: Engine, arrival: list[float], own: list[float]) -> tuple[Floats, list[float]]:
    """Let the workers take turns; return how long each request took in one, and when it was ready."""
    free = [0.0] * engine.workers
    heapify(free)
    took, ready = [], []
    for at, cost in zip(arrival, own, strict=True):
        begin = max(at, free[0])
        busy = sum(end > begin for end in free)
        spent = cost * (1 + engine.contention_ratio * busy)
        heapreplace(free, begin + spent)
        took.append(spent)
        ready.append(begin + spent)
    return np.array(took), ready


def _served(
    engine: Engine,
    asked: Asked,
    work: Work,
    preprocess_ms: Floats,
    out: Out,
    overhead_ms: Floats,
    change: Change | None,
) -> Served:
    begin, first, encode = (np.array(column) for column in (out.begin, out.first, out.encode))
    finish = np.array(out.finish)
    later = np.maximum(asked.output_tokens - 1, 1)
    blocks = -(-(np.array(work.prompt) + asked.output_tokens) // KV_BLOCK)
    bytes_per_token = np.full(len(asked), engine.kv_bytes_per_token)
    if change:
        bytes_per_token[change.first :] = change.engine.kv_bytes_per_token
    return Served(
        asked,
        preprocess_ms,
        np.maximum(begin - asked.arrival_ms - preprocess_ms, 0.0),
        encode,
        first - begin - encode,
        first - asked.arrival_ms + overhead_ms,
        finish,
        np.where(asked.output_tokens > 1, (finish - first) / later, np.nan),
        np.array(out.hits, dtype=np.float64),
        np.array(out.cached, dtype=np.float64),
        blocks * KV_BLOCK * bytes_per_token,
    )
