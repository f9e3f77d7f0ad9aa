"""Every series of the agent, declared once: its Prometheus name, labels and meaning, its OpenTelemetry name and unit.

Labels are closed sets (phase, modality, stratum, status, cache, coverage, counter, quality), or the node's GPUs or
models, of which there is a limit, or the destinations of the settings; one without a value is absent. An OpenTelemetry
name in ``names.ATTRIBUTES`` is one that the loop's metric points carry anyway.
"""

from dataclasses import dataclass
from typing import Final

from vtprof_agent.feed import FEED_COUNTS
from vtprof_schemas import names

COUNTER: Final = "counter"
GAUGE: Final = "gauge"
HISTOGRAM: Final = "histogram"
GPU: Final = "gpu"
PHASE: Final = "phase"
MODALITY: Final = "modality"
MODEL: Final = "model"
DESTINATION: Final = "destination"
AS_POINT: Final = ""
"""Unit of series that OpenTelemetry gets as metric points of the loop: those points have their own."""
STRATUM: Final = names.LABEL_VISUAL_STRATUM
_TTFT_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_TPOT_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.5)
_PHASE_BUCKETS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0,
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """One family of series."""

    name: str
    """In Prometheus: base units, counters end in ``_total``."""
    kind: str
    meaning: str
    otel: str
    """Name in OpenTelemetry: dots, no unit."""
    unit: str
    """In OpenTelemetry: UCUM; ``AS_POINT`` where its name is one of metric points that the loop sends anyway."""
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def family(self) -> str:
        """Return the name as prometheus_client keeps it: a counter's without its ``_total``."""
        return self.name.removesuffix("_total") if self.kind == COUNTER else self.name


SERIES: Final[dict[str, Series]] = {}
"""By family name."""


def _declare(series: Series) -> Series:
    if series.family in SERIES:
        raise ValueError("series declared twice: " + series.family)
    SERIES[series.family] = series
    return series


def _counter(name: str, meaning: str, otel: str, unit: str, *labels: str) -> Series:
    return _declare(Series(name, COUNTER, meaning, otel, unit, labels))


def _gauge(name: str, meaning: str, otel: str, unit: str, *labels: str) -> Series:
    return _declare(Series(name, GAUGE, meaning, otel, unit, labels))


def _times(name: str, meaning: str, otel: str, buckets: tuple[float, ...], *labels: str) -> Series:
    return _declare(Series(name, HISTOGRAM, meaning, otel, "s", labels, buckets))


# --- Requests --------------------------------------------------------------------------------------------

TTFT = _times(names.PROM_TTFT, "Arrival to first token.", "vtprof.ttft", _TTFT_BUCKETS, STRATUM, MODEL)
TPOT = _times(
    names.PROM_TPOT,
    "Mean time per output token after the first.",
    "vtprof.tpot",
    _TPOT_BUCKETS,
    STRATUM,
    MODEL,
)
PHASE_DURATION = _times(
    names.PROM_PHASE_DURATION, "Time of a request in a phase.", "vtprof.phase.duration",
    _PHASE_BUCKETS, PHASE, STRATUM, MODEL,
)  # fmt: skip
REQUESTS = _counter(
    "vtprof_requests_total",
    "Requests that ended, kept by sampling or not. They, and all that is told of finished requests, are counted once their"
    " counters have come, some seconds later.",
    "vtprof.requests", "{request}",
    "status", MODEL,
)  # fmt: skip
TOKENS = _counter(
    names.PROM_TOKENS, "Tokens of finished requests.", "vtprof.tokens", "{token}", MODALITY, MODEL
)
ITEMS = _counter(
    "vtprof_items_total", "Images, videos and audio clips of finished requests.", "vtprof.items", "{item}", MODALITY, MODEL,
)  # fmt: skip
PREEMPTIONS = _counter(
    "vtprof_preemptions_total",
    "Times that finished requests lost their KV.",
    "vtprof.preemptions",
    "{time}",
    MODEL,
)
CACHE_LOOKUPS = _counter(
    "vtprof_cache_lookup_items_total",
    "Media items of finished requests where the engine tells how many its cache held.",
    "vtprof.cache.lookups", "{item}", "cache", MODEL,
)  # fmt: skip
CACHE_HITS = _counter(
    "vtprof_cache_hit_items_total",
    "Of those, found: in the processor's cache of inputs, or the encoder's cache of outputs.",
    "vtprof.cache.hits", "{item}", "cache", MODEL,
)  # fmt: skip
PREFIX_LOOKUPS = _counter(
    "vtprof_prefix_cache_lookup_tokens_total",
    "Prompt tokens of finished requests where the engine tells how many its prefix cache held.",
    "vtprof.prefix_cache.lookups", "{token}", MODEL,
)  # fmt: skip
PREFIX_HITS = _counter(
    "vtprof_prefix_cache_hit_tokens_total",
    "Of those, found; they stand in vtprof_tokens_total too.",
    "vtprof.prefix_cache.hits", "{token}", MODEL,
)  # fmt: skip
REQUEST_GPU_TIME = _counter(
    "vtprof_request_gpu_seconds_total", "GPU time given to finished requests.",
    "vtprof.request.gpu_time", "s", PHASE, STRATUM, MODEL,
)  # fmt: skip
REQUEST_ENERGY = _counter(
    "vtprof_request_energy_joules_total", "GPU energy given to finished requests.",
    "vtprof.request.energy", "J", PHASE, STRATUM, MODEL,
)  # fmt: skip
ENERGY_COVERAGE = _counter(
    "vtprof_requests_energy_coverage_total",
    "Requests that ended and ran on a GPU, by whether all of their encodes, prefills and decodes there have an energy"
    " (whole), some (part) or none.",
    "vtprof.requests.energy_coverage", "{request}", "coverage", STRATUM, MODEL,
)  # fmt: skip
KV_BYTES = _gauge(
    names.PROM_KV_BYTES, "KV cache held by running requests: visual tokens and all others.",
    "vtprof.kv.held", "By", MODALITY, MODEL,
)  # fmt: skip
OPEN_REQUESTS = _gauge(
    "vtprof_agent_open_requests", "Requests that have not ended.", "vtprof.agent.open_requests", "{request}"
)
HELD_REQUESTS = _gauge(
    "vtprof_agent_held_requests",
    "Requests that have ended and are not counted yet: they wait for their counters.",
    "vtprof.agent.held_requests", "{request}",
)  # fmt: skip

# --- GPUs ------------------------------------------------------------------------------------------------


Scaled = tuple[str, tuple[Series, float]]


def _gpu_gauge(key: str, suffix: str, meaning: str, factor: float = 1.0) -> Scaled:
    return key, (_gauge("vtprof_gpu_" + suffix, meaning, key, AS_POINT, GPU), factor)


def _gpu_counter(key: str, name: str, meaning: str, factor: float) -> Scaled:
    return key, (_counter(name, meaning, key, AS_POINT, GPU), factor)


def _by_phase(key: str, suffix: str, meaning: str, factor: float) -> Scaled:
    name = "vtprof_gpu_phase_" + suffix
    return key, (_counter(name, meaning, names.ATTRIBUTED[key], AS_POINT, GPU, PHASE), factor)


GPU_GAUGES: Final = dict((
    _gpu_gauge(names.GPU_MEMORY_USED_BYTES, "memory_used_bytes", "Device memory in use."),
    _gpu_gauge(names.GPU_MEMORY_TOTAL_BYTES, "memory_bytes", "Device memory."),
    _gpu_gauge(
        names.GPU_POWER_MW, "power_watts",
        "Board power, averaged by the driver; of whole GPUs, for drivers tell none of a MIG instance.", 1e-3,
    ),
    _gpu_gauge(names.GPU_SM_CLOCK_MHZ, "sm_clock_hertz", "SM clock.", 1e6),
    _gpu_gauge(names.GPU_BUSY_RATIO, "busy_ratio", "Share of time in which any kernel ran."),
    _gpu_gauge(names.GPU_DRAM_BANDWIDTH_RATIO, "dram_bandwidth_ratio", "DRAM traffic over its peak."),
    _gpu_gauge(names.GPU_TENSOR_ACTIVE_RATIO, "tensor_active_ratio", "Share of cycles a tensor core was active."),
    _gpu_gauge(names.GPU_SM_ACTIVE_RATIO, "sm_active_ratio", "Share of cycles an SM had a warp."),
    _gpu_gauge(names.GPU_SM_OCCUPANCY_RATIO, "sm_occupancy_ratio", "Resident warps over the most that fit."),
))  # fmt: skip
"""By key of a sample the gauge, and by what its value is multiplied."""
GPU_COUNTERS: Final = dict((
    _gpu_counter(
        names.GPU_ENERGY_MJ, names.PROM_GPU_ENERGY,
        "Energy of a GPU since the agent began; of whole GPUs, for drivers tell none of a MIG instance.", 1e-3,
    ),
    _gpu_counter(
        names.GPU_THROTTLE_POWER_NS, "vtprof_gpu_throttle_power_seconds_total",
        "Time with clocks lowered by the power limit, since the agent began.", 1e-9,
    ),
    _gpu_counter(
        names.GPU_THROTTLE_THERMAL_NS, "vtprof_gpu_throttle_thermal_seconds_total",
        "Time with clocks lowered by temperature, since the agent began.", 1e-9,
    ),
))  # fmt: skip
"""By key of a sample that is a running total the counter, and by what its growth is multiplied."""
ATTRIBUTED: Final = dict((
    _by_phase(
        names.GPU_ENERGY_MJ, "energy_joules_total", "Energy by phase; unattributed: idle power, or not ours.", 1e-3
    ),
    _by_phase(
        names.GPU_DRAM_BANDWIDTH_RATIO, "dram_bandwidth_seconds_total",
        "DRAM traffic over its peak, integrated over time, by phase: seconds at full bandwidth.", 1e-9,
    ),
    _by_phase(
        names.GPU_TENSOR_ACTIVE_RATIO, "tensor_active_seconds_total",
        "Tensor core activity integrated over time, by phase.", 1e-9,
    ),
    _by_phase(
        names.GPU_SM_ACTIVE_RATIO, "sm_active_seconds_total", "SM activity integrated over time, by phase.", 1e-9
    ),
))  # fmt: skip
"""By attributed counter its running total by phase, and by what it is multiplied."""
FIT_CONDITION = _gauge(
    "vtprof_gpu_fit_condition_number",
    "Condition number of the phases in a counter's windows: 1 where they never run together, large where always alike.",
    "vtprof.gpu_fit.condition_number", "1", GPU, "counter",
)  # fmt: skip
FIT_QUALITY = _gauge(
    "vtprof_gpu_fit_quality", "What is attributed of a counter is of this quality: 1, else 0.",
    "vtprof.gpu_fit.quality", "1", GPU, "counter", "quality",
)  # fmt: skip
FIT_REFUSED = _counter(
    "vtprof_gpu_fit_windows_refused_total", "Windows of a counter that could not be used: negative, repeated, out of order.",
    "vtprof.gpu_fit.windows_refused", "{window}", GPU, "counter",
)  # fmt: skip
FIT_COTENANT = _gauge(
    "vtprof_gpu_fit_cotenant_suspected", "Somebody else's load follows ours on this GPU: 1, else 0.",
    "vtprof.gpu_fit.cotenant_suspected", "1", GPU, "counter",
)  # fmt: skip
GPU_BEYOND = _gauge(
    "vtprof_gpus_not_shown", "GPUs beyond the limit of the labels; their counters are summed as gpu=other.",
    "vtprof.gpus_not_shown", "{gpu}",
)  # fmt: skip

# --- The agent itself ------------------------------------------------------------------------------------

RECORDS_READ = _counter(
    "vtprof_agent_records_read_total", "Ring records read without fault, by this agent.", names.AGENT_RECORDS_READ, AS_POINT
)  # fmt: skip
RECORDS_LOST = _counter(
    names.PROM_RECORDS_LOST,
    "Ring records overwritten, torn or void, since the rings began: also under earlier agents.",
    names.AGENT_RECORDS_LOST,
    AS_POINT,
)
RECORDS_DROPPED = _counter(
    names.PROM_RECORDS_DROPPED,
    "Records that the probe could not write; most are void, and so among the lost too.",
    names.AGENT_RECORDS_DROPPED, AS_POINT,
)  # fmt: skip
HOOK_ERRORS = _counter(
    names.PROM_HOOK_ERRORS, "Exceptions that the probe's hooks swallowed.", names.AGENT_HOOK_ERRORS, AS_POINT
)
FAULTS = _counter(
    "vtprof_agent_faults_total", "Faults of the agent's own that it went on after.", "vtprof.agent.faults", "{fault}"
)  # fmt: skip
SAMPLER_FAULTS = _counter(
    "vtprof_agent_sampler_faults_total",
    "Readings of GPUs and processes that failed, or told what cannot be, among the faults too.",
    "vtprof.agent.sampler_faults", "{fault}",
)  # fmt: skip
SPANS_EXPORTED = _counter(
    "vtprof_agent_spans_exported_total", "Spans that a destination took.", "vtprof.agent.spans_exported", "{span}",
    DESTINATION,
)  # fmt: skip
SPANS_DROPPED = _counter(
    "vtprof_agent_spans_dropped_total", "Spans that a destination did not take, also under earlier agents.",
    names.AGENT_SPANS_DROPPED, AS_POINT, DESTINATION,
)  # fmt: skip
METRICS_DROPPED = _counter(
    "vtprof_agent_metric_batches_dropped_total",
    "Batches of metric points that a destination did not take, also under earlier agents.",
    "vtprof.agent.metric_batches_dropped", "{batch}", DESTINATION,
)  # fmt: skip
REQUESTS_UNUSABLE = _counter(
    "vtprof_agent_requests_unusable_total", "Requests not exported: their arrival was lost.",
    "vtprof.agent.requests_unusable", "{request}",
)  # fmt: skip
REQUESTS_SAMPLED_OUT = _counter(
    "vtprof_agent_requests_sampled_out_total", "Requests without spans, by sampling; they are in these metrics.",
    names.AGENT_REQUESTS_SAMPLED_OUT, AS_POINT,
)  # fmt: skip
CPU_SECONDS = _counter(
    "vtprof_agent_cpu_seconds_total", "CPU time of the agent.", "vtprof.agent.cpu_time", "s"
)
RSS = _gauge(
    "vtprof_agent_resident_memory_bytes", "Resident memory of the agent.", names.AGENT_RSS_BYTES, AS_POINT
)
RINGS = _gauge("vtprof_agent_rings", "Rings followed.", "vtprof.agent.rings", "{ring}")
DETAIL = _gauge(
    "vtprof_agent_detail_level",
    "What is recorded and exported: 3 everything, 2 windows instead of steps, 1 requests and phases only.",
    names.AGENT_DETAIL, AS_POINT,
)  # fmt: skip
PROBE_RATIO = _gauge(
    "vtprof_agent_probe_overhead_ratio", "Time in the probe's hooks over wall time, of the process where it is most.",
    names.AGENT_PROBE_RATIO, AS_POINT,
)  # fmt: skip
SAMPLERS_LOST = _gauge(
    "vtprof_agent_samplers_lost", "Sources of counters that were read, or were asked for, and are not; `status` says why.",
    "vtprof.agent.samplers_lost", "{sampler}",
)  # fmt: skip
GPUS_LOST = _gauge(
    "vtprof_agent_gpus_lost", "GPUs that were read and are not; `status` says which, and why.",
    "vtprof.agent.gpus_lost", "{gpu}",
)  # fmt: skip
SPOOL_BYTES = _gauge(
    "vtprof_agent_spool_bytes",
    "Waiting on disk for a destination that is away.",
    names.AGENT_SPOOL_BYTES,
    AS_POINT,
)
SPOOL_LIMIT = _gauge(
    "vtprof_agent_spool_limit_bytes", "How much may wait there before the oldest is dropped.",
    "vtprof.agent.spool_limit", "By",
)  # fmt: skip
BUILD = _gauge(
    "vtprof_agent_build_info", "Version of the agent; always 1.",
    "vtprof.agent.build", "1", "version", "schema", "python",
)  # fmt: skip
FEEDS: Final[dict[str, Series]] = {
    name: _counter(name, meaning, "vtprof.agent." + name.removeprefix("vtprof_agent_").removesuffix("_total"), "1")
    for name, meaning in FEED_COUNTS.items()
}  # fmt: skip
"""By name the counters that feeds advance."""
