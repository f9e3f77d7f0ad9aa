"""Run by vLLM's own Python: offline inference in one process; prints the tokens of each answer as JSON.

usage: offline_program.py MODEL REQUESTS, where REQUESTS is a JSON list of [text, [data URL of each image]].
"""

import json
import sys

from vllm import LLM, SamplingParams


def main(model: str, requests: str) -> None:
    """Load the model, answer all requests in one call, and print what each was counted as."""
    llm = LLM(
        model,
        load_format="dummy",
        dtype="bfloat16",
        enforce_eager=True,
        max_model_len=2048,
        max_num_batched_tokens=2048,
        limit_mm_per_prompt={"video": 0},
    )
    conversations = [
        [
            {
                "role": "user",
                "content": [
                    *({"type": "image_url", "image_url": {"url": url}} for url in urls),
                    {"type": "text", "text": text},
                ],
            }
        ]
        for text, urls in json.loads(requests)
    ]
    outputs = llm.chat(conversations, SamplingParams(max_tokens=6, ignore_eos=True), use_tqdm=False)
    counts = [[len(one.prompt_token_ids or ()), len(one.outputs[0].token_ids)] for one in outputs]
    print("COUNTS", json.dumps(counts), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
