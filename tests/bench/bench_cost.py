"""What the cost model takes for a million steps: costs, floors and divided time of all parts.

``python tests/bench/bench_cost.py [--json]`` prints the median of several runs in CPU time. Exit code 1 under a million
steps a second.
"""

import argparse
import json
import statistics
import sys
import time

import numpy as np

from vtprof_analyzer.cost.steps import step_costs
from vtprof_analyzer.cost.times import split_seconds
from vtprof_analyzer.cost.work import Precision, StepWork
from vtprof_analyzer.devices.roofs import DATASHEET, Roof
from vtprof_analyzer.models.registry import load_spec

BUDGET_STEPS_PER_S = 1e6
CONFIG = {
    "model_type": "qwen2_5_vl",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "vision_config": {
        "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584,
        "patch_size": 14,
    },
}  # fmt: skip
MIXTURE = {
    "model_type": "qwen3_vl_moe",
    "text_config": {"model_type": "qwen3_vl_moe_text"},
    "vision_config": {"out_hidden_size": 2048},
}
"""Experts and a head size of its own, at the defaults of the family."""


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(description="Time of the cost model.")
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--batch", type=int, default=50_000, help="steps handed over at once")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--moe", action="store_true", help="a mixture of experts instead of a dense model")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args(argv)
    if min(options.steps, options.batch, options.runs) < 1:
        parser.error("--steps, --batch and --runs must be at least 1")
    spec, precision = load_spec(MIXTURE if options.moe else CONFIG), Precision(2.0, 2.0, 2.0)
    roof = Roof(DATASHEET, 989e12, 4.8e12, "bfloat16", "bench")
    random = np.random.default_rng(0)
    tokens = random.integers(0, 2048, options.batch)
    columns = {
        "prefill_requests": tokens > 0,
        "prefill_tokens": tokens,
        "prefill_attention_pairs": tokens * (tokens + 1) // 2,
        "decode_requests": random.integers(0, 64, options.batch),
        "decode_context_tokens": random.integers(0, 200_000, options.batch),
        "encode_patches": tokens * 4,
        "encode_attention_pairs": (tokens * 4) ** 2,
    }
    seconds = np.full(options.batch, 0.02)
    rates = []
    for _ in range(options.runs):
        before = time.process_time()
        for _ in range(-(-options.steps // options.batch)):
            costs = step_costs(spec, StepWork.of(**columns), precision)
            costs.floor_seconds(roof)
            split_seconds(costs, roof, seconds)
        spent = time.process_time() - before
        rates.append(-(-options.steps // options.batch) * options.batch / spent)
    rate = statistics.median(rates)
    if options.json:
        print(json.dumps({"steps_per_s": rate, "budget": BUDGET_STEPS_PER_S, "runs": options.runs}))
    else:
        print(
            f"cost model: {rate:,.0f} steps/s of CPU time (median of {options.runs}, at least {BUDGET_STEPS_PER_S:,.0f})"
        )
    return 0 if rate >= BUDGET_STEPS_PER_S else 1


if __name__ == "__main__":
    sys.exit(main())
