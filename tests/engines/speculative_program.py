"""Run by vLLM's own Python: offline inference with n-gram speculation; prints what the engine scheduled in each step.

usage: speculative_program.py MODEL. Each line of output that begins with SCHEDULED is a step, as a JSON object by request
of [tokens scheduled, drafts among them, whether its prompt is computed].
"""

import json
import sys
from typing import Any

from vllm import LLM, SamplingParams
from vllm.v1.core.sched.scheduler import Scheduler

DRAFTS = 3
OUTPUT_TOKENS = 40
PROMPTS = ([5, 6, 7, 8] * 10 + [9], [11, 12, 13] * 12)
"""Token ids that repeat themselves, as a model without training does: so n-grams are found."""


def tell(plain: Any) -> Any:
    """Wrap ``Scheduler.schedule``."""

    def schedule(scheduler: Any, *args: Any, **kwargs: Any) -> Any:
        output = plain(scheduler, *args, **kwargs)
        drafts = output.scheduled_spec_decode_tokens
        step = {
            key: [count, len(drafts.get(key, ())), scheduler.requests[key].num_output_tokens == 0]
            for key, count in output.num_scheduled_tokens.items()
        }
        print("SCHEDULED", json.dumps(step), flush=True)
        return output

    return schedule


def main(model: str) -> None:
    """Load the model and answer the prompts in one call."""
    llm = LLM(
        model,
        load_format="dummy",
        dtype="bfloat16",
        enforce_eager=True,
        max_model_len=2048,
        max_num_batched_tokens=2048,
        limit_mm_per_prompt={"video": 0, "image": 0},
        speculative_config={
            "method": "ngram",
            "num_speculative_tokens": DRAFTS,
            "prompt_lookup_max": 3,
            "prompt_lookup_min": 1,
        },
    )
    Scheduler.schedule = tell(Scheduler.schedule)
    sampling = SamplingParams(max_tokens=OUTPUT_TOKENS, ignore_eos=True, temperature=0)
    llm.generate([{"prompt_token_ids": ids} for ids in PROMPTS], sampling, use_tqdm=False)


if __name__ == "__main__":
    main(sys.argv[1])
