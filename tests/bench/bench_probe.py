"""What the probe costs: time per generated token with and without it, on the tiny model, in alternating pairs.

Each pair generates the same tokens twice, once with the hooks set, in random order; the ratio of the two is taken
within the pair, so that slow drift of the machine cancels. The interval is a bootstrap of the pairs' median ratio.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import vtprof_probe
from vtprof_analyzer.demo import tiny_model
from vtprof_schemas import records
from vtprof_schemas.units import NS_PER_MS, NS_PER_US

CONFIDENCE = 0.95
RESAMPLES = 2000
SHARED_MEMORY = Path("/dev/shm")
"""Where rings are in production: pages of a file on a disk cost more to touch."""
WARM_UP_TOKENS = 16
"""Untimed, before either kind of run: setting or restoring a hook makes Python specialise the model's code anew."""


def without_probe_ns(model: Any, inputs: Any, tokens: int) -> int:
    """Return the time of one generate call without the probe."""
    generate_ns(model, inputs, WARM_UP_TOKENS)
    return generate_ns(model, inputs, tokens)


def generate_ns(model: Any, inputs: Any, tokens: int) -> int:
    """Return the time of one generate call."""
    import torch

    with torch.inference_mode():
        start = time.perf_counter_ns()
        model.generate(**inputs, max_new_tokens=tokens, min_new_tokens=tokens)
        return time.perf_counter_ns() - start


def with_probe_ns(model: Any, inputs: Any, tokens: int) -> tuple[int, float]:
    """Return the time of one generate call under the probe, and the probe's own time per step by its own clock."""
    with tempfile.TemporaryDirectory(dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None) as folder:
        vtprof_probe.enable(ring_dir=folder + "/rings", ring_records=4096)
        try:
            # It also opens the ring and describes the model, which a server does once in its life.
            generate_ns(model, inputs, WARM_UP_TOKENS)
            (ring,) = Path(folder).glob("rings/*" + records.RING_SUFFIX)
            before = _own_ns(ring)
            duration = generate_ns(model, inputs, tokens)
            return duration, (_own_ns(ring) - before) / tokens
        finally:
            vtprof_probe.disable()


def _own_ns(ring: Any) -> int:
    own: int = records.STATE.unpack_from(ring.read_bytes(), records.STATE_OFFSET)[3]
    return own


def bootstrap_interval(ratios: Sequence[float], seed: int) -> tuple[float, float]:
    """Return the interval of the median at `CONFIDENCE` by resampling pairs."""
    numbers = random.Random(seed)
    medians = sorted(statistics.median(numbers.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES))
    tail = (1 - CONFIDENCE) / 2
    return medians[int(tail * RESAMPLES)], medians[int((1 - tail) * RESAMPLES) - 1]


def measure(pairs: int, tokens: int, threads: int, seed: int) -> dict[str, float]:
    """Run the pairs and summarize them."""
    import torch

    torch.set_num_threads(threads)
    model, processor = tiny_model.build_model(), tiny_model.build_processor()
    inputs = processor(text=["<|im_start|>user\n" + "a word or two " * 8], return_tensors="pt")
    generate_ns(model, inputs, tokens)
    order = random.Random(seed)
    off: list[int] = []
    on: list[int] = []
    own: list[float] = []
    for _ in range(pairs):
        probe_first = order.random() < 0.5
        if not probe_first:
            off.append(without_probe_ns(model, inputs, tokens))
        duration, own_ns = with_probe_ns(model, inputs, tokens)
        on.append(duration)
        own.append(own_ns)
        if probe_first:
            off.append(without_probe_ns(model, inputs, tokens))
    ratios = [with_probe / without for with_probe, without in zip(on, off, strict=True)]
    low, high = bootstrap_interval(ratios, seed)
    return {
        "pairs": pairs,
        "tokens": tokens,
        "ms_per_token_off": statistics.median(off) / tokens / NS_PER_MS,
        "ms_per_token_on": statistics.median(on) / tokens / NS_PER_MS,
        "ratio": statistics.median(ratios),
        "ratio_low": low,
        "ratio_high": high,
        "probe_us_per_step": statistics.median(own) / NS_PER_US,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the result as a table or as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=40, help="alternating pairs (default 40)")
    parser.add_argument("--tokens", type=int, default=64, help="tokens generated in each run (default 64)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default 1: the least noise)")
    parser.add_argument("--seed", type=int, default=0, help="order of the runs within the pairs")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args(arguments)
    result = measure(options.pairs, options.tokens, options.threads, options.seed)
    if options.json:
        print(json.dumps(result))
        return 0
    print(
        f"{options.pairs} pairs of {options.tokens} tokens on {tiny_model.MODEL_NAME}, {options.threads} thread(s)"
    )
    print(f"  time per token without the probe  {result['ms_per_token_off']:8.3f} ms")
    print(f"  time per token with the probe     {result['ms_per_token_on']:8.3f} ms")
    print(
        f"  ratio (median of pairs)           {result['ratio']:8.4f}  95 % "
        f"{result['ratio_low']:.4f} to {result['ratio_high']:.4f}"
    )
    print(f"  probe's own time per step         {result['probe_us_per_step']:8.1f} us")
    return 0


if __name__ == "__main__":
    sys.exit(main())
