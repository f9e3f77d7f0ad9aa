"""The report as one plain object: `build` makes it, every renderer only reads it, JSON is the object itself.

Field names are those of the JSON document (schema: ``vtprof_schemas/analyze_report.schema.json``). ``None`` is
"not known": never a zero, never a guess. Milliseconds, shares in 0..1 and base units, as the names say.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from vtprof_analyzer.report.energy_model import CounterCoverage, Energy
from vtprof_analyzer.report.energy_model import EnergyRow as EnergyRow
from vtprof_analyzer.report.energy_model import OtherGpu as OtherGpu
from vtprof_analyzer.report.model_anomalies import Anomalies
from vtprof_analyzer.report.model_anomalies import SlowRequest as SlowRequest
from vtprof_analyzer.report.model_caches import Cache
from vtprof_analyzer.report.model_dominance import ContextWindow, TpotWithoutVisual, VisualPreemptions
from vtprof_analyzer.report.model_findings import Advice as Advice
from vtprof_analyzer.report.model_findings import CombinedSaving as CombinedSaving
from vtprof_analyzer.report.model_findings import Finding as Finding
from vtprof_analyzer.report.model_findings import RuleCounts as RuleCounts
from vtprof_analyzer.report.model_findings import RuleOutcome as RuleOutcome
from vtprof_analyzer.report.model_findings import RuleText as RuleText
from vtprof_analyzer.report.model_findings import Saving as Saving
from vtprof_analyzer.report.model_findings import Technique as Technique
from vtprof_analyzer.report.model_findings import Threshold as Threshold
from vtprof_analyzer.report.model_interference import Interference
from vtprof_analyzer.report.model_kv import KvFullest, KvHeadroom, KvOverTime
from vtprof_analyzer.report.model_requests import BudgetPart as BudgetPart
from vtprof_analyzer.report.model_requests import ModelRow, TtftDetail
from vtprof_analyzer.report.model_requests import PreprocessPart as PreprocessPart
from vtprof_analyzer.report.model_requests import QueueBlame as QueueBlame
from vtprof_analyzer.report.model_requests import QueueCause as QueueCause
from vtprof_analyzer.report.model_requests import StratumBudget as StratumBudget
from vtprof_analyzer.report.model_slo import ScalingRow, SloRow
from vtprof_analyzer.report.model_steps import BoundShare as BoundShare
from vtprof_analyzer.report.model_steps import InstanceVerdict as InstanceVerdict
from vtprof_analyzer.report.model_steps import MixedSteps as MixedSteps
from vtprof_analyzer.report.model_steps import SplitPhase as SplitPhase
from vtprof_analyzer.report.model_steps import StepSplit as StepSplit
from vtprof_analyzer.report.model_steps import StepVerdicts
from vtprof_analyzer.report.model_trust import ClockOffsetRow, SpanFaultRow, TrustRow


@dataclass(frozen=True)
class Percentiles:
    """Percentiles of one quantity, linear interpolation."""

    p50: float | None
    p95: float | None
    p99: float | None


@dataclass(frozen=True)
class Source:
    """What was read."""

    paths: list[str]
    files: int
    started_unix_nano: int | None
    ended_unix_nano: int | None


@dataclass(frozen=True)
class Roof:
    """One pair of ceilings of the device, and where it is from."""

    kind: str  # "attainable" (measured on that machine) or "datasheet"
    peak_flops_per_s: float
    bandwidth_bytes_per_s: float
    ridge: float  # FLOP/B
    dtype: str
    source: str
    device: str | None = None  # whose they are; None where the same hold for all steps, or not recorded


@dataclass(frozen=True)
class DeviceKind:
    """Devices of one name that served."""

    name: str
    count: int  # distinct ids


@dataclass(frozen=True)
class Deployment:
    """What ran, as recorded; ``None`` where it was not."""

    model: str | None
    model_type: str | None
    cost_model: bool  # whether vtprof knows this model's physics
    engine: str | None
    engine_version: str | None
    dialect: str  # "vtprof", "vllm" or "sglang": whose spans these are
    device: str | None
    device_count: int | None
    weights_dtype: str | None
    kv_dtype: str | None
    tensor_parallel: int | None
    workers: int  # engines; a server's API processes only where no engine wrote a span
    roof: Roof | None  # the one the verdicts used
    roofs: list[Roof]
    notes: list[str]  # one line each: what is unknown, and what would make it known
    no_cost: str | None  # why FLOPs, bytes and verdicts are not known; None where they are
    no_roof: str | None  # why no ceilings are known; None where they are
    models: list[str] = field(default_factory=list)  # asked for, the most often first; `model` is the first
    devices: list[DeviceKind] = field(default_factory=list)  # recorded with name and id; most requests first
    pipeline_parallel: int | None = None
    data_parallel: int | None = None
    expert_parallel: int | None = None
    devices_unnamed: int = 0  # of which an id was recorded, and no name


@dataclass(frozen=True)
class Summary:
    """The run in numbers. Token counts are sums over the requests that recorded them."""

    requests: int
    requests_ok: int
    requests_aborted: int
    requests_rejected: int
    requests_error: int
    requests_with_visual: int | None
    spans: int
    input_tokens: int | None
    text_tokens: int | None
    visual_tokens: int | None
    audio_tokens: int | None
    cached_tokens: int | None
    output_tokens: int | None
    image_items: int | None
    video_items: int | None
    duration_s: float | None
    ttft_ms: Percentiles
    tpot_ms: Percentiles
    e2e_ms: Percentiles
    weighted: bool = (
        False  # sampled: times, TTFT parts, objectives, findings stand for all, sums are of the kept
    )


@dataclass(frozen=True)
class PhaseRow:
    """One phase over all requests (times) and over the steps it ran in (roofline)."""

    phase: str
    count: int  # requests that had the phase
    time_share: float | None
    gpu_time_share: float | None
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    steps: int | None  # steps or folded iterations that held it
    intensity: float | None  # FLOP/B
    flops_per_s: float | None  # achieved, over the time of the steps
    bound: str  # a verdict of architecture.md, section 7
    confidence: str  # "high", "medium", "low"
    explanation: str  # one sentence with the numbers behind the verdict
    floor_ratio: float | None  # floor time / measured time
    dram_bw_ratio: float | None
    tensor_ratio: float | None
    energy_j: float | None
    work_share: float | None = (
        None  # of its steps, those whose work is known; under half of them the work says nothing of it
    )


@dataclass(frozen=True)
class BudgetRow:
    """One phase's part of TTFT; ``unexplained`` is the last row. Shares sum to one."""

    phase: str
    share: float | None
    p50_ms: float | None
    p95_ms: float | None


@dataclass(frozen=True)
class TtftBudget:
    """Where TTFT goes: over all requests with a first token, and over the slowest of them."""

    requests: int
    phases: list[BudgetRow]
    tail_requests: int  # requests at or above p95 of TTFT
    tail_phases: list[BudgetRow]  # share and p50_ms over those


@dataclass(frozen=True)
class Dominance:
    """One of the four visual-token shares, each with its own denominator."""

    share: float | None
    threshold: float
    dominant: bool | None  # None when the share is not known


@dataclass(frozen=True)
class TtftWithoutVisual:
    """TTFT if the requests had no visual tokens: preprocess, encode and the visual part of prefill removed."""

    p50: float | None
    p95: float | None
    how: str


@dataclass(frozen=True)
class VisualDominance:
    """The shares of architecture.md, section 7."""

    prompt_tokens: Dominance
    kv_token_seconds: Dominance
    prefill_flops: Dominance
    decode_bytes: Dominance
    ttft_without_visual_ms: TtftWithoutVisual
    tpot_without_visual_ms: TpotWithoutVisual | None = None  # None where no request's can be told
    ttft: Dominance | None = None  # part of all TTFT that the counterfactual takes away; None likewise
    tpot: Dominance | None = None  # the same of TPOT
    context_window: ContextWindow | None = None  # None where no context window is known
    preemptions: VisualPreemptions | None = None  # None where no step recorded one


@dataclass(frozen=True)
class KvByModality:
    """KV bytes written by the prompts and outputs of all requests, by where the token came from."""

    modality: str  # text (prompt), image, video, audio, output
    tokens: int | None
    bytes: int | None
    share: float | None


@dataclass(frozen=True)
class KvPoint:
    """KV held at one moment of the run."""

    seconds: float  # since the first request's arrival
    visual_bytes: int
    other_bytes: int


@dataclass(frozen=True)
class Kv:
    """KV footprint."""

    bytes_per_token: int | None
    dtype: str | None
    bytes_total: int | None  # sum over requests
    visual_bytes_total: int | None
    bytes_per_request: Percentiles
    peak_held_bytes: int | None
    capacity_bytes: int | None
    peak_usage_ratio: float | None
    preemptions: int | None
    by_modality: list[KvByModality]
    held: list[KvPoint]  # down-sampled for the picture
    how: str  # "recorded by the probe" or "derived from the model's config", and for how many requests
    peak_kind: (
        str | None
    )  # "max" (largest of any iteration), "mean" (of steps, so a lower bound), "requests" (their sizes)
    over_time: list[KvOverTime] = field(default_factory=list)  # empty where no request tells its tokens
    over_time_difference: float | None = (
        None  # tokens x time of that / as the engines' steps count them, less 1; None where no step does
    )
    headroom: list[KvHeadroom] = field(default_factory=list)  # of processes whose capacity and use are known
    fullest: KvFullest | None = None  # None unless several processes tell their capacity and what they held
    bytes_per_token_min: int | None = None  # of any process; less than the most where models differ
    bytes_per_token_max: int | None = None


@dataclass(frozen=True)
class Engine:
    """What the engine said of itself on its metrics page, from the first to the last reading."""

    name: str | None
    version: str | None
    ranks: int  # engines, or data-parallel ranks of one
    readings: int
    seconds: float  # from the first reading to the last
    since_start: bool | None  # whether totals are from the engine's start; None where it told no total
    kv_used_ratio_p50: float | None
    kv_used_ratio_max: float | None
    running_p50: float | None  # requests being served, all ranks together
    running_max: int | None
    waiting_p50: float | None  # requests in the waiting queue, all ranks together
    waiting_max: int | None
    preemptions: int | None
    prompt_tokens: int | None  # cached ones included
    output_tokens: int | None
    prefix_hit_rate: float | None  # of tokens
    mm_cache_hit_rate: float | None  # of media items, in vLLM's cache of preprocessed items
    encoder_cache_hit_rate: float | None  # of media items, in the cache of SGLang's separate encoder
    ttft_ms_mean: float | None
    queue_ms_mean: float | None


@dataclass(frozen=True)
class StratumRow:
    """TTFT of the requests of one visual stratum."""

    visual_stratum: str
    requests: int
    ttft_ms_p50: float | None
    ttft_ms_p95: float | None


@dataclass(frozen=True)
class Slo:
    """Objectives and what was reached; ``None`` where no objective was given."""

    ttft_ms: float | None
    tpot_ms: float | None
    ttft_attainment: float | None
    tpot_attainment: float | None
    goodput_share: float | None
    goodput_per_s: float | None


@dataclass(frozen=True)
class IntegrityNote:
    """One thing that was wrong with the input: where, what, and what was done with it."""

    file: str
    line: int | None
    what: str


@dataclass(frozen=True)
class Integrity:
    """Can this be trusted? Counts of what was repaired, left out, or never arrived."""

    files_read: int
    files_skipped: int
    malformed_lines: int
    truncated_lines: int
    duplicates: int
    orphans: int
    end_missing: int
    negative_duration: int
    unknown_attributes: int
    ignored_spans: int
    ignored_signals: int
    requests_without_tokens: int
    requests_without_phases: int
    records_lost: int | None
    clock_offset_ms: float | None
    complete_spans_share: float | None
    notes: list[IntegrityNote]  # the first ones, at most 20
    damaged_files: int = 0
    values_out_of_range: int = 0  # or of another type than their attribute
    hook_errors: int | None = None  # faults of the probe's hooks: each may have cost a request its record
    folded_iterations: int = 0  # in windows that mix phases, as the agent had shed detail: not judged
    sampled_requests: int = 0  # kept ones that stand for others too: a sampling ratio below 1
    estimated_requests: int | None = None  # how many the kept ones stand for: the sum of 1 / ratio, rounded
    dropped_spans: int = 0  # without a valid id, name or time, or of a newer version of the vocabulary
    dropped_messages: int = 0  # protobuf: messages, and stretches between them, that could not be read
    conflicting_ids: int = 0  # under which spans of different name or times came: all of them are kept


@dataclass(frozen=True)
class RoofPoint:
    """A cell of the roofline plot: steps of one phase with like intensity and rate."""

    phase: str  # encode, prefill, decode or mixed
    intensity: float  # FLOP/B
    flops_per_s: float
    steps: int
    seconds: float


@dataclass(frozen=True)
class Report:
    """Everything `vtprof analyze` has to say."""

    schema_version: int
    generator: str
    source: Source
    deployment: Deployment
    summary: Summary
    headline: str  # the verdict in one or two sentences
    phases: list[PhaseRow]
    ttft_budget: TtftBudget
    strata: list[StratumRow]
    dominance: VisualDominance
    kv: Kv
    slo: Slo
    integrity: Integrity
    findings: list[Finding]
    rules: RuleCounts
    roofline: list[RoofPoint]
    not_fired: list[RuleOutcome]
    engine: Engine | None = None  # None where the agent read no metrics page of an engine
    energy: Energy | None = None  # None where nothing recorded energy
    counters: list[CounterCoverage] = field(default_factory=list)
    caches: list[Cache] = field(default_factory=list)  # what told of no cache has no row
    step_verdicts: StepVerdicts | None = None  # None where no step was judged
    slo_rows: list[SloRow] = field(default_factory=list)  # by group of requests and objective; all first
    scaling: list[ScalingRow] = field(default_factory=list)  # by number of nodes that served at once
    trust: list[TrustRow] = field(default_factory=list)  # by area, each with what lowers it
    span_faults: list[SpanFaultRow] = field(default_factory=list)  # kinds that occurred
    clock_offsets: list[ClockOffsetRow] = field(
        default_factory=list
    )  # pairs of machines that met in requests
    ttft_detail: TtftDetail | None = None  # None where no request has a first token
    interference: list[Interference] = field(default_factory=list)  # TTFT, TPOT; empty without image work
    anomalies: Anomalies | None = None  # None where too few requests tell what is normal
    combined_savings: list[CombinedSaving] = field(default_factory=list)  # by phase
    by_model: list[ModelRow] = field(
        default_factory=list
    )  # the most requests first; empty where there is one

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON document."""
        return asdict(self)
