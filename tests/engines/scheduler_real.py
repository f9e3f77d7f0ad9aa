"""Drives vLLM's own Scheduler under the probe, with outputs made up, and writes what both say; for vLLM's Python.

    PYTHONPATH=agent:schemas:tests/probe python scheduler_real.py MODEL OUTPUT

No model runs: a step's output is one token for each request whose prompt is complete. The KV cache is small, so that
requests are preempted; prompts share a prefix and an image. OUTPUT gets a JSON object by run (sync, async, and attached:
async, the probe set while it works): the records as [kind, fields], hook errors, and what the engine says of each step.
"""

import json
import sys
from pathlib import Path
from typing import Any, Final

import torch
from vllm import SamplingParams
from vllm.engine.arg_utils import EngineArgs
from vllm.multimodal.inputs import MultiModalFeatureSpec, MultiModalKwargsItem, PlaceholderRange
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output import StructuredOutputManager
from vllm.v1.utils import compute_iteration_details

from vtprof_probe.engines.vllm_shared import STEP_ATTRIBUTE

BLOCK_TOKENS: Final = 16
BLOCKS: Final = 36
BUDGET: Final = 96
STEPS: Final = 400
REQUESTS: Final = 9
PROMPT_TOKENS: Final = 90
OUTPUT_TOKENS: Final = 40
IMAGE: Final = (40, 30)
"""Offset and length of the image in every other prompt, with a text position at every tenth place."""

RUNS: Final = (
    ("sync", Scheduler, 0, 0),
    ("async", AsyncScheduler, 1, 0),
    ("attached", AsyncScheduler, 1, 20),
)
"""Name, class, steps composed ahead, turn in which the probe is set."""


def configuration(model: str) -> Any:
    """Return the configuration of an engine for the tiny model."""
    arguments = EngineArgs(
        model=model,
        load_format="dummy",
        dtype="bfloat16",
        enforce_eager=True,
        max_model_len=1024,
        max_num_seqs=6,
        max_num_batched_tokens=BUDGET,
        block_size=BLOCK_TOKENS,
        enable_prefix_caching=True,
    )
    config = arguments.create_engine_config()
    config.cache_config.num_gpu_blocks = BLOCKS
    return config


def scheduler(config: Any, kind: type) -> Any:
    """Return a scheduler of a class of vLLM's, with a cache of two layers."""
    spec = FullAttentionSpec(block_size=BLOCK_TOKENS, num_kv_heads=2, head_size=64, dtype=torch.bfloat16)
    groups = [KVCacheGroupSpec(["layer.0", "layer.1"], spec)]
    return kind(
        vllm_config=config,
        kv_cache_config=KVCacheConfig(num_blocks=BLOCKS, kv_cache_tensors=[], kv_cache_groups=groups),
        structured_output_manager=StructuredOutputManager(config),
        block_size=BLOCK_TOKENS,
        log_stats=True,
    )


def request(index: int, hasher: Any) -> Any:
    """Return a request; those of odd numbers share an image, every third the first 32 tokens of its prompt."""
    features = []
    if index % 2:
        mask = torch.tensor([cell % 10 != 0 for cell in range(IMAGE[1])])
        place = PlaceholderRange(offset=IMAGE[0], length=IMAGE[1], is_embed=mask)
        features = [MultiModalFeatureSpec(MultiModalKwargsItem.dummy(), "image", "shared", place)]
    own = 0 if index % 3 == 0 else index
    tokens = [own] * 32 + [index] * (PROMPT_TOKENS - 32 + index)
    sampling = SamplingParams(max_tokens=OUTPUT_TOKENS - index, ignore_eos=True)
    sampling.update_from_generation_config({}, None)
    return Request(
        request_id=f"request-{index}",
        prompt_token_ids=tokens,
        sampling_params=sampling,
        pooling_params=None,
        mm_features=features,
        block_hasher=hasher,
    )


def said(engine: Any, output: Any) -> dict[str, Any]:
    """Return what the engine says of a step that it has just composed."""
    details = compute_iteration_details(output)
    pool = engine.kv_cache_manager.block_pool
    return {
        "step": getattr(output, STEP_ATTRIBUTE, None),
        "before": {
            key: engine.requests[key].num_computed_tokens - count
            for key, count in output.num_scheduled_tokens.items()
        },
        "scheduled": dict(output.num_scheduled_tokens),
        "known_tokens": {key: engine.requests[key].num_tokens for key in output.num_scheduled_tokens},
        "new": [new.req_id for new in output.scheduled_new_reqs],
        "resumed": sorted(output.scheduled_cached_reqs.resumed_req_ids),
        "preempted": sorted(output.preempted_req_ids or ()),
        "context": [details.num_ctx_requests, details.num_ctx_tokens],
        "generation": [details.num_generation_requests, details.num_generation_tokens],
        "encoder_inputs": {key: list(items) for key, items in output.scheduled_encoder_inputs.items()},
        "kv_tokens": sum(running.num_computed_tokens for running in engine.running),
        "used_blocks": round(engine.kv_cache_manager.usage * (pool.num_gpu_blocks - 1)),
        "counts": list(engine.get_request_counts()),
    }


def outputs(engine: Any, output: Any) -> Any:
    """Make up a step's output: a token for each request that has no prompt left."""
    keys = list(output.num_scheduled_tokens)
    sampled = [
        [] if key not in engine.requests or engine.requests[key].is_prefill_chunk else [7] for key in keys
    ]
    return ModelRunnerOutput(
        req_ids=keys,
        req_id_to_index={key: index for index, key in enumerate(keys)},
        sampled_token_ids=sampled,
        prompt_logprobs_dict={},
        pooler_output=[],
    )


def drive(engine: Any, ahead: int, hasher: Any, attach_at: int, ring: Any) -> list[dict[str, Any]]:
    """Let the engine work off the requests, ``ahead`` steps composed before an output; return what it says of each.

    The probe is set in the turn ``attach_at``.
    """
    from vtprof_probe import install

    waiting = [request(index, hasher) for index in range(REQUESTS)]
    steps, flying = [], []
    for turn in range(STEPS):
        if turn == attach_at:
            install.enable(open_ring=lambda: ring, engines=["vllm"])
        if turn % 3 == 0 and waiting:
            engine.add_request(waiting.pop(0))
        if turn == 30:
            engine.finish_requests("request-4", RequestStatus.FINISHED_ABORTED)
        output = engine.schedule()
        if output.total_num_scheduled_tokens:
            steps.append(said(engine, output))
            flying.append((output, outputs(engine, output)))
        if flying and (len(flying) > ahead or not output.total_num_scheduled_tokens):
            engine.update_from_output(*flying.pop(0))
        if not (waiting or flying or engine.has_unfinished_requests()):
            break
    return steps


def main() -> None:
    """Run both schedulers and write the output."""
    from probe_doubles import ListRing

    from vtprof_probe import install

    model, path = sys.argv[1], Path(sys.argv[2])
    config = configuration(model)
    init_none_hash(sha256)
    hasher = get_request_block_hasher(BLOCK_TOKENS, sha256)
    found = {}
    for name, kind, ahead, attach_at in RUNS:
        ring = ListRing()
        config.scheduler_config.async_scheduling = bool(ahead)
        steps = drive(scheduler(config, kind), ahead, hasher, attach_at, ring)
        install.disable()
        found[name] = {
            "records": ring.rows,
            "info": ring.info,
            "hook_errors": ring.hook_errors,
            "steps": steps,
            "hooked_after": hasattr(Scheduler.schedule, "__vtprof_wrapper__"),
        }
    path.write_text(json.dumps(found, default=str))


if __name__ == "__main__":
    main()
