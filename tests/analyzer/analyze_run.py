"""Small traces of a known model, and `vtprof analyze` on them, for tests of the command."""

import json
from collections.abc import Callable
from typing import Any

from otlp_builder import request, span

from vtprof_schemas import names

CONFIG = {
    "model_type": "qwen2_5_vl", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 300, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vision_config": {
        "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "in_channels": 3, "patch_size": 14,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 112, "fullatt_block_indexes": [1],
        "out_hidden_size": 64,
    },
}  # fmt: skip


MS = 1_000_000


RESOURCE = {
    names.SERVICE_INSTANCE_ID: "ring-1", names.ENGINE_NAME: "transformers", names.ENGINE_VERSION: "5.23.0",
    names.MODEL_CONFIG: json.dumps(CONFIG), names.WEIGHTS_DTYPE: "bfloat16", names.KV_DTYPE: "bfloat16",
    names.KV_BYTES_PER_TOKEN: 512, names.HW_NAME: "NVIDIA H200", names.DEVICE_KIND: "cuda",
}  # fmt: skip


Run = Callable[..., tuple[int, str, str]]


def one_request(trace: int, visual: int = 80) -> list[dict[str, Any]]:
    """A request of 20 text and ``visual`` image tokens, 11 output tokens, with its step and window."""
    prompt = 20 + visual
    attrs = {
        names.TTFT_NS: 60 * MS, names.INPUT_TOKENS: prompt, names.OUTPUT_TOKENS: 11, names.TOKENS_TEXT: 20,
        names.TOKENS_IMAGE: visual, names.TOKENS_VIDEO: 0, names.TOKENS_AUDIO: 0, names.ITEMS_IMAGE: int(visual > 0),
        names.KV_BYTES: (prompt + 10) * 512, names.KV_VISUAL_BYTES: visual * 512,
    }  # fmt: skip
    phases = {"preprocess": (0, 10 * MS), "queue": (10 * MS, 12 * MS), "prefill": (30 * MS, 58 * MS)}
    phases |= {"encode": (12 * MS, 30 * MS)} if visual else {}
    step = {
        names.STEP_COUNT: 1, names.STEP_PREFILL_REQUESTS: 1, names.STEP_PREFILL_TOKENS: prompt,
        names.STEP_PREFILL_VISUAL_TOKENS: visual, names.STEP_PREFILL_ATTENTION_PAIRS: prompt * (prompt + 1) // 2,
        names.STEP_PREFILL_VISUAL_ATTENTION_PAIRS: visual * (visual + 1) // 2, names.STEP_KV_USED_TOKENS: prompt,
        names.STEP_KV_VISUAL_TOKENS: visual, names.STEP_ENCODE_PATCHES: 4 * visual,
        names.STEP_ENCODE_ATTENTION_PAIRS: 16 * visual * visual, names.GPU_TIME_NS: 40 * MS,
        names.STEP_ENCODE_GPU_TIME_NS: 15 * MS if visual else 0,
    }  # fmt: skip
    window = {
        names.STEP_COUNT: 10, names.STEP_DECODE_REQUESTS: 10, names.STEP_DECODE_CONTEXT_TOKENS: 10 * prompt + 45,
        names.STEP_DECODE_VISUAL_TOKENS: 10 * visual, names.STEP_KV_USED_TOKENS: prompt + 5,
        names.STEP_KV_VISUAL_TOKENS: visual, names.GPU_TIME_NS: 80 * MS,
    }  # fmt: skip
    return [
        *request(0, 160 * MS, attrs, trace=trace, **phases, decode=(60 * MS, 160 * MS)),
        span(names.SPAN_STEP, 12 * MS, 58 * MS, step, trace=1000 + trace),
        span(names.SPAN_WINDOW, 60 * MS, 160 * MS, window, trace=2000 + trace),
    ]


def report(run: Run, *words: object) -> dict[str, Any]:
    code, out, err = run("analyze", *words, "--format", "json")
    assert (code, err) == (0, "")
    parsed: dict[str, Any] = json.loads(out)
    return parsed
