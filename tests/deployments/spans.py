"""Spans of a deployment as the agent writes them, and the resource that sends them."""

import json
from collections.abc import Iterator
from typing import Any

from otlp_builder import span

from deployments.deployment import Deployment
from deployments.serve import Served, Step, Stretch
from deployments.workload import Asked
from vtprof_schemas import names

_KEYS = {
    "encode": {"items": names.ENCODE_ITEMS, "patches": names.ENCODE_PATCHES, "hits": names.ENCODE_CACHE_HITS},
    "prefill": {
        "chunks": names.PREFILL_CHUNKS, "tokens": names.PREFILL_TOKENS, "visual": names.PREFILL_VISUAL_TOKENS,
        "cached": names.PREFILL_CACHED_TOKENS,
    },
    "decode": {"steps": names.DECODE_STEPS, "preemptions": names.DECODE_PREEMPTIONS},
}  # fmt: skip
_STEP_TRACES = 1 << 40
_MODALITIES = (("image", names.ITEMS_IMAGE), ("video", names.ITEMS_VIDEO), ("audio", names.ITEMS_AUDIO))
_TOKENS = {"image": names.TOKENS_IMAGE, "video": names.TOKENS_VIDEO, "audio": names.TOKENS_AUDIO}
SETTINGS: dict[str, Any] = {
    "max_num_batched_tokens": 8192, "max_num_seqs": 128, "max_model_len": 32768, "enforce_eager": False,
    "cudagraph_mode": "FULL_AND_PIECEWISE", "enable_prefix_caching": True, "enable_chunked_prefill": True,
    "mm_encoder_tp_mode": "weights", "mm_encoder_attn_backend": "FLASH_ATTN", "mm_processor_cache_gb": 4,
    "mm_processor_device": "cpu", "limit_per_prompt": {"image": 4, "video": 0}, "async_scheduling": True,
}  # fmt: skip
"""Of a vLLM server, those that its probe records and one, of the processor, that it does not yet."""


def gpu_of(replica: int) -> str:
    return f"GPU-{replica}"


def resource_of(deployment: Deployment, replica: int) -> dict[str, Any]:
    """Return the attributes of a replica's process."""
    engine, model = deployment.engine, deployment.model
    settings = {
        **SETTINGS,
        "max_num_batched_tokens": engine.chunk_tokens,
        "max_num_seqs": engine.most_sequences,
    }
    settings |= deployment.settings
    values = {
        names.SERVICE_NAME: "vtprof", names.HOST_NAME: f"node-{replica}", names.ROLE: "all", names.RANK: 0,
        names.SERVICE_INSTANCE_ID: f"replica-{replica}", names.RING_CREATED_NS: 1_000 + replica,
        names.PROCESS_PID: 4000 + replica, names.RESOURCE_SCHEMA_VERSION: 1, names.ENGINE_NAME: "vllm",
        names.ENGINE_VERSION: "0.32.0",
        names.ENGINE_CONFIG: json.dumps({key: value for key, value in settings.items() if value is not None}),
        names.PARALLEL_TP: engine.tp, names.PARALLEL_PP: 1, names.PARALLEL_DP: 1, names.PARALLEL_EP: 1,
        names.MODEL_CONFIG: json.dumps(deployment.model_config or model.config), names.WEIGHTS_DTYPE: "bfloat16",
        names.KV_DTYPE: "bfloat16", names.KV_BLOCK_TOKENS: 16, names.KV_CAPACITY_TOKENS: engine.kv_capacity_tokens,
        names.KV_BYTES_PER_TOKEN: model.kv_bytes_per_token, names.KV_FIXED_BYTES: 0, names.DEVICE_KIND: "cuda",
        names.DEVICE_CORES: 32, names.HW_NAME: deployment.device.name, names.HW_ID: gpu_of(replica),
        names.DEVICE_PEAK_FLOPS: deployment.device.attainable_flops_per_s,
        names.DEVICE_BANDWIDTH: deployment.device.attainable_bytes_per_s,
        names.DEVICE_PEAK_SOURCE: "bf16 GEMM 8192 and copy, measured",
    }  # fmt: skip
    values |= deployment.resource
    return {key: value for key, value in values.items() if value is not None}


def request_spans(deployment: Deployment, asked: Asked, served: Served | None) -> Iterator[dict[str, Any]]:
    """Yield a request's span and those of its phases; one that was refused has no engine."""
    trace = asked.number + 1
    end_ns = served.end_ns if served else asked.hand_over_ns
    attributes: dict[str, Any] = {
        names.REQUEST_ID: f"cmpl-{asked.number}", names.REQUEST_MODEL: deployment.model.name,
        names.REQUEST_STATUS: names.STATUS_OK if served else names.STATUS_REJECTED,
        names.SAMPLING_RATIO: deployment.sampling_ratio, names.INPUT_TOKENS: asked.prompt, names.TOKENS_TEXT: asked.text,
        names.TOKENS_CACHED: served.cached if served else 0,
    }  # fmt: skip
    for kind, items in _MODALITIES:
        attributes[items] = len(asked.of(kind))
        attributes[_TOKENS[kind]] = sum(item.tokens for item in asked.of(kind))
    if served:
        each = deployment.model.kv_bytes_per_token
        attributes |= {
            names.OUTPUT_TOKENS: served.generated, names.TTFT_NS: (served.first_token_ns or 0) - asked.arrival_ns,
            names.KV_BYTES: (asked.prompt + served.generated - 1) * each, names.KV_VISUAL_BYTES: asked.visual * each,
        }  # fmt: skip
    yield span(names.SPAN_REQUEST, asked.arrival_ns, end_ns, attributes, trace=trace, span_id=trace)
    stretches = [Stretch("preprocess", asked.arrival_ns, asked.processed_ns)]
    if asked.transfer_ns:
        stretches.append(Stretch("transfer", asked.processed_ns, asked.hand_over_ns))
    stretches += served.stretches if served else []
    for place, stretch in enumerate(stretches, start=1):
        yield span(
            names.PHASE_SPANS[stretch.phase], stretch.start_ns, stretch.end_ns, _phase(asked, stretch),
            trace=trace, span_id=place << 32 | trace, parent=trace,
        )  # fmt: skip


def _phase(asked: Asked, stretch: Stretch) -> dict[str, Any]:
    values: dict[str, Any] = {names.PHASE: stretch.phase}
    values |= {name: stretch.counts[key] for key, name in _KEYS.get(stretch.phase, {}).items()}
    if stretch.gpu_ns is not None:
        values |= {names.GPU_TIME_NS: stretch.gpu_ns, names.GPU_TIME_QUALITY: names.QUALITY_ATTRIBUTED}
    if stretch.phase == "preprocess":
        values |= {
            names.PREPROCESS_CPU_NS: asked.cpu_ns, names.PREPROCESS_FETCH_NS: asked.fetch_ns,
            names.PREPROCESS_DECODE_NS: 0, names.PREPROCESS_CACHE_HITS: asked.hits,
            names.PREPROCESS_PIXELS: sum(item.pixels for item in asked.media),
        }  # fmt: skip
        if asked.media:
            values[names.PREPROCESS_MEDIA_DIGESTS] = ",".join(item.digest for item in asked.media)
        if asked.of("video"):
            values[names.PREPROCESS_FRAMES] = sum(item.video_frames for item in asked.media)
        if asked.of("audio"):
            values[names.PREPROCESS_AUDIO_NS] = sum(item.audio_ns for item in asked.media)
    return values


def step_span(replica: int, index: int, step: Step) -> dict[str, Any]:
    """Return a step, or a window of iterations that only decode."""
    mixed = step.prefill_tokens > 0 or step.encode_items > 0
    values: dict[str, Any] = {
        names.STEP_INDEX: index, names.STEP_COUNT: step.iterations, names.STEP_PREFILL_TOKENS: step.prefill_tokens,
        names.STEP_DECODE_REQUESTS: step.decode_requests, names.STEP_DECODE_TOKENS: step.decode_tokens,
        names.STEP_DECODE_CONTEXT_TOKENS: step.decode_context, names.STEP_DECODE_VISUAL_TOKENS: step.decode_visual,
        names.STEP_PREEMPTIONS: step.preemptions, names.GPU_TIME_NS: step.gpu_ns,
        names.GPU_TIME_QUALITY: names.QUALITY_MEASURED, names.STEP_KV_USED_TOKENS: step.kv_tokens,
        names.STEP_KV_VISUAL_TOKENS: step.kv_visual_tokens, names.STEP_KV_USED_TOKENS_MAX: step.kv_tokens,
        names.STEP_KV_VISUAL_TOKENS_MAX: step.kv_visual_tokens, names.STEP_KV_USED_BLOCKS: -(-step.kv_tokens // 16),
        names.STEP_RUNNING: float(step.running), names.STEP_WAITING: float(step.waiting),
    }  # fmt: skip
    if mixed:
        values |= {
            names.STEP_PREFILL_REQUESTS: step.prefill_requests, names.STEP_PREFILL_VISUAL_TOKENS: step.prefill_visual,
            names.STEP_PREFILL_ATTENTION_PAIRS: step.prefill_pairs,
            names.STEP_PREFILL_VISUAL_ATTENTION_PAIRS: step.prefill_visual_pairs,
        }  # fmt: skip
    if step.encode_items:
        values |= {
            names.STEP_ENCODE_ITEMS: step.encode_items, names.STEP_ENCODE_PATCHES: step.encode_patches,
            names.STEP_ENCODE_ATTENTION_PAIRS: step.encode_pairs, names.STEP_ENCODE_NS: step.encode_ns,
            names.STEP_ENCODE_GPU_TIME_NS: step.encode_gpu_ns,
        }  # fmt: skip
    trace = _STEP_TRACES * (replica + 1) + index
    name = names.SPAN_STEP if mixed else names.SPAN_WINDOW
    return span(name, step.start_ns, step.end_ns, values, trace=trace, span_id=trace)
