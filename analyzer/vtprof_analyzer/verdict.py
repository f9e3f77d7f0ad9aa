"""Verdicts: what bounds a phase, how sure that is, and one sentence with the numbers behind it.

Steps are judged in SQL (`stages/57_roofline.sql`) with the thresholds of this module, and added up by time; here are the
words. The model's intensity and the GPU's counters are two witnesses. Preprocess, queue and transfer have other evidence.
"""

from dataclasses import dataclass

from vtprof_schemas import names

COMPUTE_BOUND = "compute_bound"
MEMORY_BOUND = "memory_bound"
HYBRID = "hybrid"
OVERHEAD_BOUND = "overhead_bound"
HOST_BOUND = "host_bound"
QUEUE_BOUND = "queue_bound"
COMM_BOUND = "comm_bound"
CAPACITY_BOUND = "capacity_bound"
LATENCY_BOUND = "latency_bound"
INSUFFICIENT_DATA = "insufficient_data"

HIGH, MEDIUM, LOW = "high", "medium", "low"


@dataclass(frozen=True)
class Thresholds:
    """Where one verdict ends and the next begins. Parameters, not constants of nature."""

    ridge_band_ratio: float = 0.20
    """Half width of the band around the ridge that is hybrid: F13 asks for 10 to 20 %."""
    floor_ratio: float = 0.30
    """Floor over measured time below which work reaches neither roof of a data sheet. F18: twice slower than well-run
    work points to overhead before it points to memory; well-run 16 bit GEMMs and copies reach some 60 % of a datasheet."""
    attainable_floor_ratio: float = 0.35
    """Likewise, of a roof that was measured with one large GEMM and one copy: well-run work reaches some 70 % of it."""
    busy_ratio: float = 0.5
    """Device time over wall time below which the device mostly waits."""
    small_work_seconds: float = 1e-3
    """Floor of one iteration under which the launches (some 300 kernels at 3 to 10 us) take longer than the work."""
    host_cores: float = 0.9
    """CPU cores busy in the process from which the one thread that feeds the device counts as saturated."""
    comm_ratio: float = 0.5
    """Part of the floor from which on communication bounds a step."""
    blur_ratio: float = 0.1
    """Part of a step's length by which the windows of sampled counters may reach beyond it, or miss it, for their mean to
    count as measured."""
    dram_ratio: float = 0.5
    """DRAM activity that witnesses a memory bound."""
    tensor_ratio: float = 0.4
    """Tensor activity that witnesses a compute bound; large GEMMs show 0.5 to 0.9, decoding under 0.1."""
    sm_ratio: float = 0.5
    """SM activity from which the device counts as busy."""
    phase_share: float = 0.01
    """Share of TTFT (decode: of all time) under which a phase is not judged: architecture, section 7."""
    step_share: float = 0.6
    """Share of the phase's time that the winning class needs to be more than a tendency."""
    above_roof_ratio: float = 1.05
    """Floor over measured time from which a ceiling or the work must be wrong; below it caches and noise can do it."""
    folded_ratio: float = 0.5
    """Share of the work or of all iterations from which what was folded away leaves a verdict no more than a tendency."""
    few_steps: int = 5
    """Steps under which there is little data."""
    cpu_ratio: float = 0.5
    """CPU time over duration from which preprocessing is host work."""
    kv_usage_ratio: float = 0.9
    """KV usage from which the cache, not the schedule, blocks admission; engines keep some blocks in reserve."""


@dataclass(frozen=True)
class Counters:
    """GPU counters of a phase, means over its attributed wall time, 0..1; None where not recorded."""

    dram_bw_ratio: float | None = None
    tensor_ratio: float | None = None
    sm_active_ratio: float | None = None
    quality: str | None = None
    diluted: bool = False
    """Whether the time is shared with other work, as a request's phase shares mixed steps: low values say nothing then."""

    @property
    def is_witness(self) -> bool:
        """Tell whether the counters can testify: measured, or attributed (whose scale is fitted to measurement)."""
        readings = (self.dram_bw_ratio, self.tensor_ratio)
        qualities = (names.QUALITY_MEASURED, names.QUALITY_ATTRIBUTED)
        return self.quality in qualities and any(reading is not None for reading in readings)


@dataclass(frozen=True)
class PhaseSums:
    """One device phase (encode, prefill, decode or mixed) over the steps that held it: a row of `phase_bounds`.

    Numbers are None where unknown.
    """

    phase: str
    bound: str
    """The steps' verdict with the most time; of overhead, host and latency, which count as one, the longest."""
    share: float | None
    """Of the phase's time that has it."""
    spans: int
    """Steps and windows that were judged."""
    intensity: float | None = None
    flops_per_s: float | None = None
    floor_ratio: float | None = None
    """Floor over measured time; None without a roof."""
    floor_per_step_s: float | None = None
    busy_ratio: float | None = None
    """Device time over wall time; None where a step has only one of them, as on a CPU."""
    visual_read_ratio: float | None = None
    """Visual KV in the bytes that decode reads."""
    ridge_low: float | None = None
    """Least and largest ridge of the devices that ran the steps [FLOP/B]."""
    ridge_high: float | None = None
    host_cores: float | None = None
    """CPU cores that the processes kept busy meanwhile."""


@dataclass(frozen=True)
class Verdict:
    """What bounds a phase. Numbers are None where unknown."""

    bound: str
    confidence: str
    explanation: str
    intensity: float | None = None
    flops_per_s: float | None = None
    floor_ratio: float | None = None
    """Floor time / measured time; above 1 when the roof was exceeded."""
    dram_bw_ratio: float | None = None
    tensor_ratio: float | None = None


def number(value: float) -> str:
    """Format for a sentence: three figures, thousands apart."""
    magnitude = abs(value)
    decimals = 0 if magnitude >= 99.95 else 1 if magnitude >= 9.995 else 2 if magnitude >= 0.0995 else 4
    text = f"{value:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def percent(value: float) -> str:
    """Format a ratio as percent for a sentence."""
    return f"{value * 100:.1f} %" if 0 < value < 0.0995 else f"{value * 100:,.0f} %"


def words(bound: str) -> str:
    """Return a verdict as printed: ``memory-bound``."""
    return bound.replace("_", "-")


def too_small(phase: str, share: float | None, limits: Thresholds) -> Verdict | None:
    """Return the verdict of a phase too small to judge, or None when it is large enough (or its share unknown)."""
    if share is None or share >= limits.phase_share:
        return None
    whole = "all time" if phase == names.DECODE else "TTFT"
    reason = f"{phase} is not judged: {percent(share)} of {whole}, less than {percent(limits.phase_share)}"
    return Verdict(INSUFFICIENT_DATA, LOW, reason)


def not_judged(phase: str, reason: str) -> Verdict:
    """Return the verdict of a phase about which something is missing."""
    return Verdict(INSUFFICIENT_DATA, LOW, f"{phase} is not judged: {reason}")
