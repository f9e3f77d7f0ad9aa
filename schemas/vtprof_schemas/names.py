"""The vocabulary: every span name and attribute key, defined once, with type, unit, meaning and example.

Each constant is the key itself (a ``str``); defining it also enters its description into ``ATTRIBUTES`` or
``SPANS``, from which the reference page and the table columns are made. OpenTelemetry's names are used where
they exist (semantic conventions 1.44 for ``service.*``, ``host.*``, ``process.*``, ``hw.*``; the GenAI names as of
1.37, before they moved to a repository of their own). These names stay: add, do not rename.
"""

from hashlib import blake2b
from typing import Dict, NamedTuple, Tuple

INT = "int"
DOUBLE = "double"
STRING = "string"


class Attribute(NamedTuple):
    """One attribute key: where it stands, its type, unit and meaning."""

    key: str
    type: str
    """One of ``int``, ``double``, ``string``."""
    unit: str
    where: str
    """``resource``, ``request``, a phase name, ``phase`` (any phase), ``step`` (steps and windows) or ``gpu``."""
    meaning: str
    example: str

    @property
    def column(self) -> str:
        """Return the column that holds this attribute in the analyzer's tables."""
        return column_name(self.key)


class SpanName(NamedTuple):
    """One span name and what a span of that name is."""

    name: str
    parent: str
    meaning: str


ATTRIBUTES: Dict[str, Attribute] = {}
SPANS: Dict[str, SpanName] = {}

_DROPPED_PREFIXES = ("vtprof.", "gen_ai.usage.", "gen_ai.")


def column_name(key: str) -> str:
    """Derive a table column from an attribute key: ``vtprof.encode.items`` becomes ``encode_items``."""
    for prefix in _DROPPED_PREFIXES:
        if key.startswith(prefix):
            key = key[len(prefix) :]
            break
    return key.replace(".", "_")


def _attribute(key: str, type_: str, unit: str, where: str, meaning: str, example: str) -> str:
    if key in ATTRIBUTES:
        raise ValueError("attribute defined twice: " + key)
    ATTRIBUTES[key] = Attribute(key, type_, unit, where, meaning, example)
    return key


def _span(name: str, parent: str, meaning: str) -> str:
    SPANS[name] = SpanName(name, parent, meaning)
    return name


# --- Phases ----------------------------------------------------------------------------------------------

PREPROCESS = "preprocess"
QUEUE = "queue"
ENCODE = "encode"
PREFILL = "prefill"
DECODE = "decode"
TRANSFER = "transfer"
PHASES: Tuple[str, ...] = (PREPROCESS, QUEUE, ENCODE, TRANSFER, PREFILL, DECODE)
"""All phases, in the order in which a request meets them."""
TTFT_PHASES: Tuple[str, ...] = (PREPROCESS, QUEUE, ENCODE, TRANSFER, PREFILL)
"""The phases that stand before the first token."""
UNEXPLAINED = "unexplained"
"""What is left of a request's time when every phase is taken away. Printed always, a span never."""

MODALITIES: Tuple[str, ...] = ("text", "image", "video", "audio")

STATUS_OK = "ok"
STATUS_ABORTED = "aborted"
STATUS_REJECTED = "rejected"
STATUS_ERROR = "error"
STATUSES: Tuple[str, ...] = (STATUS_OK, STATUS_ABORTED, STATUS_REJECTED, STATUS_ERROR)

VISUAL_STRATA: Tuple[Tuple[str, int], ...] = (
    ("0", 0),
    ("256", 256),
    ("1k", 1024),
    ("4k", 4096),
    ("16k", 16384),
)
"""Label and largest count of visual tokens of each stratum; above the last one the label is ``more``."""
VISUAL_STRATUM_MORE = "more"


def request_number(internal_id: str) -> int:
    """Return the number of a request in the rings of a server: 64 bits of blake2b over the engine's internal id."""
    return int.from_bytes(
        blake2b(internal_id.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little"
    )


def visual_stratum(visual_tokens: int) -> str:
    """Return the label of the stratum that a request with this many visual tokens falls into."""
    for label, upper in VISUAL_STRATA:
        if visual_tokens <= upper:
            return label
    return VISUAL_STRATUM_MORE


# --- Spans -----------------------------------------------------------------------------------------------

SPAN_REQUEST = _span(
    "vtprof.request", "none, or the caller's span", "one inference request, arrival to last token"
)
SPAN_STEP = _span("vtprof.step", "none", "one engine iteration on one rank that held prefill or encode work")
SPAN_WINDOW = _span("vtprof.window", "none", "consecutive decode-only iterations of like composition, folded")
_PHASE_MEANINGS = {
    PREPROCESS: "arrival to hand-over to the engine: media fetch, decode, processor, waiting for a CPU worker",
    QUEUE: "hand-over to first scheduling, and later gaps in which the request was not scheduled",
    ENCODE: "vision or audio tower and adapter, for the items of this request, and their way there within the step",
    PREFILL: "the steps that run the prompt through the language model, without the encoder's part",
    DECODE: "end of prefill to the last token",
    TRANSFER: "embeddings or KV moved between workers",
}
PHASE_SPANS: Dict[str, str] = {
    phase: _span("vtprof." + phase, SPAN_REQUEST, meaning) for phase, meaning in _PHASE_MEANINGS.items()
}
"""Span name of each phase."""

# --- Resource --------------------------------------------------------------------------------------------

SERVICE_NAME = _attribute(
    "service.name", STRING, "", "resource", "service the spans belong to", "vtprof-demo"
)
SERVICE_INSTANCE_ID = _attribute(
    "service.instance.id",
    STRING,
    "",
    "resource",
    "one process: boot id, PID and start time",
    "3f1c-4242-99812",
)
RING_CREATED_NS = _attribute(
    "vtprof.ring.created_ns", INT, "ns", "resource",
    "which ring of the process, as every attach makes one: its creation by the monotonic clock", "2874885552189",
)  # fmt: skip
HOST_NAME = _attribute("host.name", STRING, "", "resource", "name of the host", "gpu-node-7")
PROCESS_PID = _attribute("process.pid", INT, "", "resource", "PID of the inference process", "4242")
RESOURCE_SCHEMA_VERSION = _attribute(
    "vtprof.schema_version", INT, "", "resource", "version of this vocabulary", "1"
)
ENGINE_NAME = _attribute(
    "vtprof.engine.name", STRING, "", "resource", "transformers, vllm or sglang", "transformers"
)
ENGINE_VERSION = _attribute(
    "vtprof.engine.version", STRING, "", "resource", "version of the engine", "5.23.0"
)
ENGINE_CONFIG = _attribute(
    "vtprof.engine.config", STRING, "JSON", "resource",
    "allow-listed settings: chunk budget, sequence limit, encoder TP mode, eager", '{"attn_implementation": "sdpa"}',
)  # fmt: skip
ROLE = _attribute("vtprof.role", STRING, "", "resource", "api, engine, worker, encoder or all", "all")
RANK = _attribute("vtprof.rank", INT, "", "resource", "rank of the process in its parallel group", "0")
PARALLEL_TP = _attribute("vtprof.parallel.tp", INT, "ranks", "resource", "tensor-parallel size", "1")
PARALLEL_PP = _attribute("vtprof.parallel.pp", INT, "ranks", "resource", "pipeline-parallel size", "1")
PARALLEL_DP = _attribute("vtprof.parallel.dp", INT, "ranks", "resource", "data-parallel size", "1")
PARALLEL_EP = _attribute("vtprof.parallel.ep", INT, "ranks", "resource", "expert-parallel size", "1")
MODEL_CONFIG = _attribute(
    "vtprof.model.config",
    STRING,
    "JSON",
    "resource",
    "the model's config.json as text",
    '{"model_type": "qwen2_5_vl"}',
)
WEIGHTS_DTYPE = _attribute(
    "vtprof.weights.dtype", STRING, "", "resource", "data type of the weights", "bfloat16"
)
KV_DTYPE = _attribute("vtprof.kv.dtype", STRING, "", "resource", "data type of the KV cache", "bfloat16")
KV_BLOCK_TOKENS = _attribute(
    "vtprof.kv.block_tokens", INT, "tokens", "resource", "tokens of a KV block", "16"
)
KV_CAPACITY_TOKENS = _attribute(
    "vtprof.kv.capacity_tokens", INT, "tokens", "resource", "tokens that the KV cache can hold", "118784"
)
KV_BYTES_PER_TOKEN = _attribute(
    "vtprof.kv.bytes_per_token", INT, "B/token", "resource",
    "KV bytes of one token over the full-attention layers and all TP ranks, read from the allocated cache", "57344",
)  # fmt: skip
KV_FIXED_BYTES = _attribute(
    "vtprof.kv.fixed_bytes",
    INT,
    "B",
    "resource",
    "window, state and cross-attention caches of one sequence",
    "0",
)
DEVICE_PEAK_FLOPS = _attribute(
    "vtprof.device.peak_flops_per_s", DOUBLE, "FLOP/s", "resource",
    "attainable compute in the weights' data type, measured on this device before the run", "1.9e11",
)  # fmt: skip
DEVICE_BANDWIDTH = _attribute(
    "vtprof.device.bandwidth_bytes_per_s", DOUBLE, "B/s", "resource",
    "attainable copy bandwidth, measured on this device before the run", "2.1e10",
)  # fmt: skip
DEVICE_PEAK_SOURCE = _attribute(
    "vtprof.device.peak_source",
    STRING,
    "",
    "resource",
    "how the two were measured",
    "numpy float32 GEMM and copy, 2 threads",
)
DEVICE_KIND = _attribute(
    "vtprof.device.kind", STRING, "", "resource", "cuda or cpu: where the model runs", "cpu"
)
DEVICE_CORES = _attribute(
    "vtprof.device.cores", INT, "cores", "resource", "CPU cores open to the process", "2"
)
INFO_TRUNCATED = _attribute(
    "vtprof.info.truncated",
    INT,
    "values",
    "resource",
    "values left out of the ring's header: it was full",
    "1",
)
FAMILY = _attribute(
    "vtprof.family", STRING, "", "probe",
    "names the server that a process belongs to: its rings share request and step numbers", "4242-99812",
)  # fmt: skip
PROBE_HOOKS = _attribute(
    "vtprof.probe.hooks", STRING, "", "probe",
    "JSON object: each hook's name and `set`, `waiting` (its module is not imported) or why it was skipped",
    '{"vllm.schedule": "set"}',
)  # fmt: skip
HW_ID = _attribute("hw.id", STRING, "", "resource", "UUID of the GPU", "GPU-6b3b7c3a")
HW_NAME = _attribute(
    "hw.name", STRING, "", "resource", "name of the device that runs the model", "NVIDIA H200"
)

# --- Request ---------------------------------------------------------------------------------------------

REQUEST_MODEL = _attribute(
    "gen_ai.request.model", STRING, "", "request", "model asked for", "tiny-qwen2.5-vl"
)
REQUEST_ID = _attribute(
    "vtprof.request.id", STRING, "", "request", "the engine's or the caller's request id", "cmpl-81"
)
REQUEST_STATUS = _attribute(
    "vtprof.request.status", STRING, "", "request", "ok, aborted, rejected or error", "ok"
)
INPUT_TOKENS = _attribute(
    "gen_ai.usage.input_tokens", INT, "tokens", "request", "prompt tokens, all modalities", "350"
)
OUTPUT_TOKENS = _attribute("gen_ai.usage.output_tokens", INT, "tokens", "request", "generated tokens", "16")
TOKENS_TEXT = _attribute(
    "vtprof.tokens.text", INT, "tokens", "request", "prompt positions filled from text", "26"
)
TOKENS_IMAGE = _attribute(
    "vtprof.tokens.image", INT, "tokens", "request", "prompt positions filled from images", "324"
)
TOKENS_VIDEO = _attribute(
    "vtprof.tokens.video", INT, "tokens", "request", "prompt positions filled from video", "0"
)
TOKENS_AUDIO = _attribute(
    "vtprof.tokens.audio", INT, "tokens", "request", "prompt positions filled from audio", "0"
)
TOKENS_CACHED = _attribute(
    "vtprof.tokens.cached", INT, "tokens", "request", "prompt tokens found in the KV prefix cache", "0"
)
ITEMS_IMAGE = _attribute("vtprof.items.image", INT, "items", "request", "images in the prompt", "1")
ITEMS_VIDEO = _attribute("vtprof.items.video", INT, "items", "request", "videos in the prompt", "0")
ITEMS_AUDIO = _attribute("vtprof.items.audio", INT, "items", "request", "audio clips in the prompt", "0")
TTFT_NS = _attribute("vtprof.ttft_ns", INT, "ns", "request", "arrival to first token", "41000000")
KV_BYTES = _attribute(
    "vtprof.kv.bytes", INT, "B", "request",
    "(input + output - 1 tokens, cached prefix included) x kv.bytes_per_token + kv.fixed_bytes, summed over its sequences",
    "1495040",
)  # fmt: skip
KV_VISUAL_BYTES = _attribute(
    "vtprof.kv.visual_bytes", INT, "B", "request", "the image and video part of kv.bytes", "1327104"
)
SAMPLING_RATIO = _attribute(
    "vtprof.sampling_ratio",
    DOUBLE,
    "1",
    "request",
    "share of like requests that were kept; weigh by its inverse",
    "1.0",
)

# --- Phases ----------------------------------------------------------------------------------------------

PHASE = _attribute("vtprof.phase", STRING, "", "phase", "name of the phase", "encode")
GPU_TIME_NS = _attribute(
    "vtprof.gpu_time_ns", INT, "ns", "phase",
    "GPU time: of a step its own, encode included; of a phase the request's attributed share", "1800000",
)  # fmt: skip
GPU_TIME_QUALITY = _attribute(
    "vtprof.gpu_time.quality", STRING, "", "phase", "measured, attributed or estimated", "measured"
)
PREPROCESS_CPU_NS = _attribute(
    "vtprof.preprocess.cpu_ns",
    INT,
    "ns",
    PREPROCESS,
    "CPU time of the work alone, without waiting",
    "5200000",
)
PREPROCESS_FETCH_NS = _attribute("vtprof.preprocess.fetch_ns", INT, "ns", PREPROCESS, "media download", "0")
PREPROCESS_DECODE_NS = _attribute(
    "vtprof.preprocess.decode_ns", INT, "ns", PREPROCESS, "media decoding", "1100000"
)
PREPROCESS_CACHE_HITS = _attribute(
    "vtprof.preprocess.cache_hits", INT, "items", PREPROCESS, "items taken from the processor cache", "0"
)
PREPROCESS_PIXELS = _attribute(
    "vtprof.preprocess.pixels", INT, "pixels", PREPROCESS, "pixels before resizing", "307200"
)
PREPROCESS_FRAMES = _attribute(
    "vtprof.preprocess.frames", INT, "frames", PREPROCESS, "frames sampled of its videos", "32"
)
PREPROCESS_AUDIO_NS = _attribute(
    "vtprof.preprocess.audio_ns",
    INT,
    "ns",
    PREPROCESS,
    "length of its audio clips before padding",
    "4200000000",
)
PREPROCESS_MEDIA_DIGESTS = _attribute(
    "vtprof.preprocess.media_digests", STRING, "", PREPROCESS,
    "keyed digests of its media items, in their order, with commas between: equal content, equal digest", "9f2c41d07b3ea815",
)  # fmt: skip
ENCODE_ITEMS = _attribute("vtprof.encode.items", INT, "items", ENCODE, "images, videos or clips encoded", "1")
ENCODE_PATCHES = _attribute(
    "vtprof.encode.patches", INT, "patches", ENCODE, "patches that entered the tower", "1296"
)
ENCODE_CACHE_HITS = _attribute(
    "vtprof.encode.cache_hits", INT, "items", ENCODE, "items taken from the encoder-output cache", "0"
)
PREFILL_CHUNKS = _attribute(
    "vtprof.prefill.chunks", INT, "chunks", PREFILL, "steps that held a part of the prompt", "1"
)
PREFILL_TOKENS = _attribute("vtprof.prefill.tokens", INT, "tokens", PREFILL, "prompt tokens computed", "350")
PREFILL_VISUAL_TOKENS = _attribute(
    "vtprof.prefill.visual_tokens",
    INT,
    "tokens",
    PREFILL,
    "the image and video part of prefill.tokens",
    "324",
)
PREFILL_CACHED_TOKENS = _attribute(
    "vtprof.prefill.cached_tokens", INT, "tokens", PREFILL, "prompt tokens not computed: prefix cache", "0"
)
DECODE_STEPS = _attribute(
    "vtprof.decode.steps", INT, "iterations", DECODE, "decode iterations of this request", "15"
)
DECODE_PREEMPTIONS = _attribute(
    "vtprof.decode.preemptions", INT, "times", DECODE, "times the request was preempted", "0"
)
TRANSFER_BYTES = _attribute("vtprof.transfer.bytes", INT, "B", TRANSFER, "bytes moved", "1048576")
TRANSFER_KIND = _attribute("vtprof.transfer.kind", STRING, "", TRANSFER, "embedding or kv", "kv")

# --- Steps and windows -----------------------------------------------------------------------------------
# kv_used_tokens, kv_used_blocks, kv_visual_tokens, running and waiting are time means over the span, *_max is the
# largest iteration's; all else is a sum.

STEP_INDEX = _attribute("vtprof.step.index", INT, "", "step", "number of the (first) iteration", "17")
STEP_COUNT = _attribute(
    "vtprof.step.count", INT, "iterations", "step", "iterations folded into the span", "15"
)
STEP_PREFILL_REQUESTS = _attribute(
    "vtprof.step.prefill_requests", INT, "requests", "step", "sequences with a prefill chunk", "1"
)
STEP_PREFILL_TOKENS = _attribute(
    "vtprof.step.prefill_tokens", INT, "tokens", "step", "prompt tokens computed", "350"
)
STEP_PREFILL_VISUAL_TOKENS = _attribute(
    "vtprof.step.prefill_visual_tokens", INT, "tokens", "step", "the image and video part", "324"
)
STEP_PREFILL_ATTENTION_PAIRS = _attribute(
    "vtprof.step.prefill_attention_pairs",
    INT,
    "pairs",
    "step",
    "causal query-key pairs, summed over sequences",
    "61425",
)
STEP_PREFILL_VISUAL_ATTENTION_PAIRS = _attribute(
    "vtprof.step.prefill_visual_attention_pairs",
    INT,
    "pairs",
    "step",
    "the pairs whose query is visual",
    "57510",
)
STEP_DECODE_REQUESTS = _attribute(
    "vtprof.step.decode_requests", INT, "requests", "step", "decoding requests, summed over iterations", "15"
)
STEP_DECODE_TOKENS = _attribute(
    "vtprof.step.decode_tokens", INT, "tokens", "step",
    "tokens that the decoding requests compute: one each, and with speculative decoding the verified drafts", "60",
)  # fmt: skip
STEP_DECODE_CONTEXT_TOKENS = _attribute(
    "vtprof.step.decode_context_tokens", INT, "tokens", "step",
    "cached tokens read by decode, without the one being written", "5355",
)  # fmt: skip
STEP_DECODE_VISUAL_TOKENS = _attribute(
    "vtprof.step.decode_visual_tokens", INT, "tokens", "step", "the image and video part of it", "4860"
)
STEP_ENCODE_ITEMS = _attribute("vtprof.step.encode_items", INT, "items", "step", "items encoded", "1")
STEP_ENCODE_PATCHES = _attribute(
    "vtprof.step.encode_patches", INT, "patches", "step", "patches encoded", "1296"
)
STEP_ENCODE_ATTENTION_PAIRS = _attribute(
    "vtprof.step.encode_attention_pairs", INT, "pairs", "step", "sum of patches squared per image", "1679616"
)
STEP_ENCODE_NS = _attribute(
    "vtprof.step.encode_ns", INT, "ns", "step", "wall time of the encoder in the step", "9000000"
)
STEP_ENCODE_GPU_TIME_NS = _attribute(
    "vtprof.step.encode_gpu_time_ns", INT, "ns", "step", "GPU time of the encoder in the step", "8000000"
)
STEP_KV_USED_TOKENS = _attribute(
    "vtprof.step.kv_used_tokens", INT, "tokens", "step", "tokens in the KV cache", "357"
)
STEP_KV_USED_TOKENS_MAX = _attribute(
    "vtprof.step.kv_used_tokens_max", INT, "tokens", "step",
    "the most tokens in the KV cache after any one of the iterations", "364",
)  # fmt: skip
STEP_KV_VISUAL_TOKENS = _attribute(
    "vtprof.step.kv_visual_tokens", INT, "tokens", "step", "visual tokens in the KV cache", "324"
)
STEP_KV_VISUAL_TOKENS_MAX = _attribute(
    "vtprof.step.kv_visual_tokens_max", INT, "tokens", "step",
    "the visual part of kv_used_tokens_max, at that same iteration", "324",
)  # fmt: skip
STEP_KV_USED_BLOCKS = _attribute(
    "vtprof.step.kv_used_blocks", INT, "blocks", "step", "KV blocks in use", "23"
)
STEP_RUNNING = _attribute("vtprof.step.running", DOUBLE, "requests", "step", "requests being served", "1")
STEP_WAITING = _attribute("vtprof.step.waiting", DOUBLE, "requests", "step", "requests in the queue", "0")
STEP_PREEMPTIONS = _attribute("vtprof.step.preemptions", INT, "times", "step", "preemptions in the step", "0")

# --- Counters --------------------------------------------------------------------------------------------


def _counter(key: str, unit: str, meaning: str) -> str:
    _attribute(key, DOUBLE, unit, "gpu", meaning, "0.41")
    for suffix, what in ((".low", "lower end of the interval"), (".high", "upper end of the interval")):
        _attribute(key + suffix, DOUBLE, unit, "gpu", what, "0.38")
    _attribute(key + ".quality", STRING, "", "gpu", "measured, attributed or estimated", "attributed")
    return key


GPU_DRAM_BANDWIDTH_RATIO = _counter(
    "vtprof.gpu.dram_bandwidth_ratio",
    "1",
    "DRAM traffic over its peak, mean over the wall time of the span; of a phase what its class of work has of it, over its"
    " part of its steps: encode the encoder's, prefill and decode the rest, which they share",
)
GPU_TENSOR_ACTIVE_RATIO = _counter(
    "vtprof.gpu.tensor_active_ratio",
    "1",
    "share of cycles a tensor core was active, mean as of vtprof.gpu.dram_bandwidth_ratio",
)
GPU_SM_ACTIVE_RATIO = _counter("vtprof.gpu.sm_active_ratio", "1", "share of cycles an SM had a warp")
GPU_ENERGY_MJ = _counter("vtprof.gpu.energy_mj", "mJ", "energy; on a phase the request's share")
GPU_MEMORY_USED_BYTES = _attribute(
    "vtprof.gpu.memory_used_bytes", INT, "B", "gpu", "device memory in use (metric)", "81604378624"
)
GPU_POWER_MW = _attribute(
    "vtprof.gpu.power_mw", INT, "mW", "gpu", "board power, averaged by the driver (metric)", "412000"
)
GPU_SM_CLOCK_MHZ = _attribute("vtprof.gpu.sm_clock_mhz", INT, "MHz", "gpu", "SM clock (metric)", "1980")
GPU_BUSY_RATIO = _attribute(
    "vtprof.gpu.busy_ratio", DOUBLE, "1", "gpu",
    "share of time in which any kernel ran; says nothing of how much of the GPU it used (metric)", "0.97",
)  # fmt: skip
GPU_MEMORY_TOTAL_BYTES = _attribute(
    "vtprof.gpu.memory_total_bytes", INT, "B", "gpu", "device memory (metric)", "150754820096"
)
GPU_MEMORY_BUSY_RATIO = _attribute(
    "vtprof.gpu.memory_busy_ratio", DOUBLE, "1", "gpu",
    "share of time in which device memory was read or written at all; not a bandwidth (metric)", "0.55",
)  # fmt: skip
GPU_SM_OCCUPANCY_RATIO = _attribute(
    "vtprof.gpu.sm_occupancy_ratio", DOUBLE, "1", "gpu", "resident warps over the most that fit (metric)", "0.31"
)  # fmt: skip
GPU_MEMORY_CLOCK_MHZ = _attribute(
    "vtprof.gpu.memory_clock_mhz", INT, "MHz", "gpu", "memory clock (metric)", "2619"
)
GPU_THROTTLE_POWER_NS = _attribute(
    "vtprof.gpu.throttle_power_ns", INT, "ns", "gpu", "time with clocks lowered by the power limit (metric)", "0"
)  # fmt: skip
GPU_THROTTLE_THERMAL_NS = _attribute(
    "vtprof.gpu.throttle_thermal_ns", INT, "ns", "gpu", "time with clocks lowered by temperature (metric)", "0"
)  # fmt: skip
GPU_PCIE_TX_BYTES_PER_S = _attribute(
    "vtprof.gpu.pcie_tx_bytes_per_s", DOUBLE, "B/s", "gpu", "PCIe traffic from the GPU (metric)", "1.2e9"
)
GPU_PCIE_RX_BYTES_PER_S = _attribute(
    "vtprof.gpu.pcie_rx_bytes_per_s", DOUBLE, "B/s", "gpu", "PCIe traffic to the GPU (metric)", "3.4e8"
)
GPU_SOURCE = _attribute(
    "vtprof.gpu.source",
    STRING,
    "",
    "gpu",
    "who told, an attribute of metric points: nvml, gpm, dcgm or amd (metric)",
    "gpm",
)
GPU_INTERVAL_NS = _attribute(
    "vtprof.gpu.interval_ns", INT, "ns", "gpu",
    "the window that a value is the mean over, as its source makes it; of metric points (metric)", "100000000",
)  # fmt: skip
_INTEGRALS: Tuple[Tuple[str, str], ...] = (
    (GPU_DRAM_BANDWIDTH_RATIO, "dram_bandwidth"),
    (GPU_TENSOR_ACTIVE_RATIO, "tensor_active"),
    (GPU_SM_ACTIVE_RATIO, "sm_active"),
)
GPU_INTEGRALS: Dict[str, str] = {
    key: _attribute(
        "vtprof.gpu." + name + "_integral_ns", INT, "ns", "gpu",
        "running integral of " + key + " over time: a mean over any time is a difference of two (metric)", "410000000",
    )
    for key, name in _INTEGRALS
}  # fmt: skip
"""By ratio its running integral."""
ATTRIBUTED: Dict[str, str] = {
    **{
        key: _attribute(
            "vtprof.attributed." + name + "_ns", DOUBLE, "ns", "gpu",
            "integral of " + key + " over time, by phase (point attribute vtprof.phase; `unattributed`: not ours) (metric)",
            "310000000",
        )
        for key, name in _INTEGRALS
    },
    GPU_ENERGY_MJ: _attribute(
        "vtprof.attributed.energy_mj", DOUBLE, "mJ", "gpu",
        "energy by phase (point attribute vtprof.phase; `unattributed`: idle, or not ours) (metric)", "52000",
    ),
}  # fmt: skip
"""By counter the running total of what was given to each phase."""
UNATTRIBUTED = "unattributed"
"""Phase of what belongs to no work of ours: idle power, a co-tenant."""
HOST_PROCESS_CPU_RATIO = _attribute(
    "vtprof.host.process_cpu_ratio",
    DOUBLE,
    "cores",
    "gpu",
    "CPU time of the inference process per second (metric)",
    "1.8",
)
HOST_PROCESS_RSS_BYTES = _attribute(
    "vtprof.host.process_rss_bytes",
    INT,
    "B",
    "gpu",
    "resident memory of the inference process (metric)",
    "734003200",
)

QUALITY_MEASURED = "measured"
QUALITY_ATTRIBUTED = "attributed"
QUALITY_ESTIMATED = "estimated"

# --- What the agent says of itself (resource attributes of its metrics) ----------------------------------

AGENT_RECORDS_READ = _attribute(
    "vtprof.agent.records_read", INT, "records", "agent", "ring records read without fault (metric)", "10000"
)
AGENT_RECORDS_LOST = _attribute(
    "vtprof.agent.records_lost",
    INT,
    "records",
    "agent",
    "ring records overwritten, torn or void (metric)",
    "0",
)
AGENT_RECORDS_DROPPED = _attribute(
    "vtprof.agent.records_dropped", INT, "records", "agent",
    "records that the probe could not write (metric); most are void, and so in records_lost too: do not add them up", "0",
)  # fmt: skip
AGENT_HOOK_ERRORS = _attribute(
    "vtprof.agent.hook_errors",
    INT,
    "errors",
    "agent",
    "exceptions that the probe's hooks swallowed (metric)",
    "0",
)

AGENT_CPU_RATIO = _attribute(
    "vtprof.agent.cpu_ratio", DOUBLE, "cores", "agent", "CPU time of the agent per second (metric)", "0.02"
)
AGENT_RSS_BYTES = _attribute(
    "vtprof.agent.rss_bytes", INT, "B", "agent", "resident memory of the agent (metric)", "61000000"
)
AGENT_PROBE_RATIO = _attribute(
    "vtprof.agent.probe_ratio", DOUBLE, "1", "agent",
    "time spent in the probe's hooks over wall time, of the process where it is most (metric)", "0.002",
)  # fmt: skip
AGENT_DETAIL = _attribute(
    "vtprof.agent.detail", INT, "", "agent",
    "what is recorded and exported: 3 everything, 2 windows instead of steps, 1 requests and phases only (metric)", "3",
)  # fmt: skip
AGENT_SPANS_DROPPED = _attribute(
    "vtprof.agent.spans_dropped", INT, "spans", "agent", "spans that a destination did not take (metric)", "0"
)
AGENT_REQUESTS_SAMPLED_OUT = _attribute(
    "vtprof.agent.requests_sampled_out", INT, "requests", "agent",
    "requests left out by sampling; they stand in the metrics, and in the others' sampling_ratio (metric)", "0",
)  # fmt: skip
AGENT_SPOOL_BYTES = _attribute(
    "vtprof.agent.spool_bytes",
    INT,
    "B",
    "agent",
    "waiting on disk for a destination that is away (metric)",
    "0",
)

# --- What an engine says of itself on its /metrics page (metrics, one resource for each engine and rank) -------
# One name has one meaning in all engines; where two engines measure different things they have two names.


def _engine(key: str, type_: str, unit: str, meaning: str, example: str) -> str:
    return _attribute("vtprof.engine." + key, type_, unit, "engine", meaning + " (metric)", example)


ENGINE_KV_USED_RATIO = _engine(
    "kv_used_ratio", DOUBLE, "1", "share of the KV cache held by requests being served", "0.42"
)
ENGINE_RUNNING = _engine("running", INT, "requests", "requests being served", "7")
ENGINE_WAITING = _engine("waiting", INT, "requests", "requests in the scheduler's waiting queue", "3")
ENGINE_PREEMPTIONS = _engine(
    "preemptions", INT, "times", "times a request lost its KV and went back to the queue", "2"
)
ENGINE_PROMPT_TOKENS = _engine(
    "prompt_tokens", INT, "tokens",
    "prompt tokens of all modalities, cached ones included; vLLM adds them at the first token, SGLang at the end", "90210",
)  # fmt: skip
ENGINE_CACHED_TOKENS = _engine(
    "cached_tokens", INT, "tokens", "the part of prompt_tokens that was found in a prefix cache", "1280"
)
ENGINE_OUTPUT_TOKENS = _engine("output_tokens", INT, "tokens", "generated tokens", "5120")
ENGINE_PREFIX_QUERIED_TOKENS = _engine(
    "prefix_cache.queried_tokens", INT, "tokens", "vLLM: tokens looked up in the prefix cache, at scheduling", "90210"
)  # fmt: skip
ENGINE_PREFIX_HIT_TOKENS = _engine(
    "prefix_cache.hit_tokens", INT, "tokens", "vLLM: the part of queried_tokens that was found", "1280"
)
ENGINE_MM_QUERIED_ITEMS = _engine(
    "mm_cache.queried_items",
    INT,
    "items",
    "vLLM: media items looked up in the cache of preprocessed items",
    "64",
)
ENGINE_MM_HIT_ITEMS = _engine(
    "mm_cache.hit_items", INT, "items", "vLLM: the part of queried_items that was found", "8"
)
ENGINE_ENCODER_QUERIED_ITEMS = _engine(
    "encoder_cache.queried_items", INT, "items",
    "SGLang's separate encoder: media items looked up in the cache of encoder outputs", "64",
)  # fmt: skip
ENGINE_ENCODER_HIT_ITEMS = _engine(
    "encoder_cache.hit_items", INT, "items", "SGLang's separate encoder: the part of queried_items that was found", "8"
)  # fmt: skip
_ENGINE_TIMES: Tuple[Tuple[str, str], ...] = (
    ("ttft", "arrival at the API server to first token"),
    ("e2e", "arrival at the API server to last token"),
    ("queue", "in the scheduler's waiting queue"),
    ("scheduled_to_first_token", "vLLM's prefill: first scheduling to first token, encode and others' steps included"),
    ("prefill_forward", "SGLang's prefill: first scheduling to end of its forward, encode and others' steps included"),
    ("first_to_last_token", "vLLM's decode: first to last token"),
)  # fmt: skip
ENGINE_TIMES: Dict[str, Tuple[str, str]] = {
    name: (
        _engine(name + ".seconds", DOUBLE, "s", "summed over requests: " + meaning, "12.5"),
        _engine(name + ".requests", INT, "requests", "requests in " + name + ".seconds", "40"),
    )
    for name, meaning in _ENGINE_TIMES
}
"""The engine's histograms as sum and count: a mean, without the shape."""

# --- Prometheus names of the agent's /metrics ------------------------------------------------------------

PROM_TTFT = "vtprof_ttft_seconds"
PROM_TPOT = "vtprof_tpot_seconds"
PROM_PHASE_DURATION = "vtprof_phase_duration_seconds"
PROM_TOKENS = "vtprof_tokens_total"
PROM_KV_BYTES = "vtprof_kv_bytes"
PROM_GPU_ENERGY = "vtprof_gpu_energy_joules_total"
PROM_RECORDS_LOST = "vtprof_agent_records_lost_total"
PROM_RECORDS_DROPPED = "vtprof_agent_records_dropped_total"
PROM_HOOK_ERRORS = "vtprof_agent_hook_errors_total"
LABEL_VISUAL_STRATUM = "visual_stratum"

# --- Environment of the probe ----------------------------------------------------------------------------

ENV_ENABLE = "VTPROF_ENABLE"
ENV_RING_DIR = "VTPROF_RING_DIR"
ENV_RING_RECORDS = "VTPROF_RING_RECORDS"
ENV_RING_GROUP = "VTPROF_RING_GROUP"
ENV_FAMILY = "VTPROF_FAMILY"
"""Set by the first process of a server that the probe meets, inherited by its children: see ``FAMILY``."""
ENV_RING_DIR_FIXED = "VTPROF_RING_DIR_FIXED"
"""Set to 1: the folder is somebody's who removes it at the end, so the probe does not make it again."""
DEFAULT_RING_DIR = "/dev/shm/vtprof"
