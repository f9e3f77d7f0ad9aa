"""Runs vLLM offline under the probe, all in one process, and writes what the probe recorded; for its own Python.

    PYTHONPATH=agent:schemas:tests/probe python worker_offline.py MODEL OUTPUT

OUTPUT gets a JSON object: the records as [kind, fields], the ring's info, hook errors and whether the hooks came off.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any, Final

from vtprof_probe import install

PROMPTS: Final = (
    ("one image", ((280, 280),)),
    ("two images", ((280, 560), (560, 280))),
    ("no image", ()),
)
"""Text and the (height, width) of the images of each prompt."""
MAX_TOKENS: Final = 4


def run(model: str) -> tuple[Any, list[str]]:
    """Generate for all prompts at once; return the class of the model runner and the engine's ids of the requests."""
    from PIL import Image
    from vllm import LLM, SamplingParams
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    engine = LLM(
        model,
        load_format="dummy",
        dtype="bfloat16",
        enforce_eager=True,
        max_model_len=4096,
        max_num_seqs=8,
        max_num_batched_tokens=4096,
        limit_mm_per_prompt={"image": 2, "video": 0},
        distributed_executor_backend="uni",
    )
    prompts = []
    for shade, (text, sizes) in enumerate(PROMPTS):
        images = [
            Image.new("RGB", (width, height), (shade, index, 0))
            for index, (height, width) in enumerate(sizes)
        ]
        tags = "<|vision_start|><|image_pad|><|vision_end|>" * len(images)
        prompts.append({"prompt": tags + text, **({"multi_modal_data": {"image": images}} if images else {})})
    outputs = engine.generate(prompts, SamplingParams(max_tokens=MAX_TOKENS, ignore_eos=True))
    return GPUModelRunner, [output.request_id for output in outputs]


def main() -> None:
    """Run and write the output."""
    from probe_doubles import ListRing

    model, output = sys.argv[1], Path(sys.argv[2])
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    ring = ListRing()
    install.enable(open_ring=lambda: ring)
    runner, requests = run(model)
    hooked = hasattr(runner.execute_model, "__vtprof_wrapper__")
    install.disable()
    output.write_text(
        json.dumps(
            {
                "records": ring.rows,
                "info": ring.info,
                "hook_errors": ring.hook_errors,
                "requests": requests,
                "hooked": hooked,
                "hooked_after": hasattr(runner.execute_model, "__vtprof_wrapper__"),
            },
            default=str,
        )
    )


if __name__ == "__main__":
    main()
