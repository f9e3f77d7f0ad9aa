"""Judge a phase on the device, from its steps' sums (`phase_bounds`) and its counters, in one sentence with the numbers."""

from dataclasses import replace

from vtprof_analyzer import verdict as v
from vtprof_analyzer.devices.roofs import ATTAINABLE, Roof
from vtprof_analyzer.verdict import Counters, PhaseSums, Thresholds, Verdict

DEFAULTS = Thresholds()
_NO_COUNTERS = Counters()
_NEITHER = frozenset({v.OVERHEAD_BOUND, v.HOST_BOUND, v.LATENCY_BOUND})
_ROOFS = frozenset({v.COMPUTE_BOUND, v.MEMORY_BOUND, v.HYBRID})


def judge_phase(
    sums: PhaseSums | None,
    phase: str,
    roof: Roof | None,
    counters: Counters = _NO_COUNTERS,
    share: float | None = None,
    limits: Thresholds = DEFAULTS,
) -> Verdict:
    """Judge encode, prefill, decode or mixed; ``sums`` None: no step of it was judged or has work and time.

    ``share`` is the phase's part of TTFT (decode: of all phases' time). Without a roof the counters alone decide; without
    either nothing is judged, and the verdict says what is missing.
    """
    if sums is None:
        verdict = v.not_judged(phase, "no step of it has both work and time recorded")
        return replace(verdict, dram_bw_ratio=counters.dram_bw_ratio, tensor_ratio=counters.tensor_ratio)
    verdict = v.too_small(phase, share, limits) or _judge(sums, counters, roof, limits)
    return replace(
        verdict,
        intensity=sums.intensity,
        flops_per_s=sums.flops_per_s,
        floor_ratio=sums.floor_ratio,
        dram_bw_ratio=counters.dram_bw_ratio,
        tensor_ratio=counters.tensor_ratio,
    )


def without_work(sums: PhaseSums) -> PhaseSums:
    """Return the sums without what the cost model says, for where it knows too few of the steps."""
    return replace(
        sums,
        intensity=None,
        flops_per_s=None,
        floor_ratio=None,
        floor_per_step_s=None,
        visual_read_ratio=None,
    )


def _judge(sums: PhaseSums, counters: Counters, roof: Roof | None, limits: Thresholds) -> Verdict:
    counted = counter_bound(counters, limits)
    few = sums.spans < limits.few_steps
    if sums.floor_ratio is None or roof is None:
        return _by_counters(sums, counters, counted, roof, limits)
    idle = sums.busy_ratio is not None and sums.busy_ratio < limits.busy_ratio
    neither = idle or sums.bound in _NEITHER
    bound, why = _neither(sums, counters, limits) if neither else (sums.bound, "")
    parts = [_lead(sums, bound) + _against_roof(sums, roof) + why]
    confidence = v.MEDIUM
    if counted is not None:
        agrees = _agree(bound, counted)
        confidence = v.HIGH if agrees else v.LOW
        parts.append(_witness(counters) + ("" if agrees else f": the counters speak for {_words(counted)}"))
    if sums.visual_read_ratio and bound == v.MEMORY_BOUND:
        parts.append(f"{v.percent(sums.visual_read_ratio)} of bytes read are visual KV")
    if not neither and sums.share is not None and sums.share < limits.step_share:
        confidence = v.LOW
        parts.append(f"only {v.percent(sums.share)} of its time is in such steps")
    if few:
        confidence = v.LOW
        parts.append(f"{sums.spans} {'step' if sums.spans == 1 else 'steps'} only")
    if roof.confidence == v.LOW:
        confidence = v.LOW
        parts.append(roof.doubt)
    if is_above_roof(sums.floor_ratio, limits):
        confidence = v.LOW
        parts.append(f"it ran {above_roof(sums.floor_ratio, roof)}")
    elif sums.floor_ratio > 1:
        parts.append(
            f"it ran at {v.percent(sums.floor_ratio)} of the {roof.kind} roof: caches, or a roof set too low"
        )
    return Verdict(bound, confidence, "; ".join(parts))


def _by_counters(
    sums: PhaseSums, counters: Counters, counted: str | None, roof: Roof | None, limits: Thresholds
) -> Verdict:
    """Judge without a floor: no roof is known, or no work."""
    lacking = (
        "no roof of the device is known" if roof is None else "the work of most of its steps is not known"
    )
    if counted is None:
        return v.not_judged(sums.phase, f"{lacking} and {_no_witness(counters)}")
    bound, why = _neither(sums, counters, limits) if counted == v.LATENCY_BOUND else (counted, "")
    unknown = "no roof is known" if roof is None else lacking
    text = f"{_lead(sums, bound)}by counters alone, {_witness(counters)}{why}; {unknown}"
    return Verdict(bound, v.LOW if sums.spans < limits.few_steps else v.MEDIUM, text)


def _no_witness(counters: Counters) -> str:
    """Say why the counters judge nothing."""
    read = [reading for reading in (counters.dram_bw_ratio, counters.tensor_ratio) if reading is not None]
    if counters.quality is None:
        return "no GPU counters were recorded"
    if not read:
        return (
            "its GPU counters tell too little: they cover less than half of its time, or are vague estimates"
        )
    if not counters.is_witness:
        return "its GPU counters are no witness: all or some of them are estimated"
    if len(read) == 1:
        return f"one GPU counter alone is known, and is low: {_witness(counters)}"
    return f"its GPU counters are low over time that it shares with other work: {_witness(counters)}"


def is_above_roof(floor_ratio: float | None, limits: Thresholds = DEFAULTS) -> bool:
    """Tell whether a phase ran faster than its roof allows, beyond what caches and noise explain."""
    return floor_ratio is not None and floor_ratio > limits.above_roof_ratio


def above_roof(floor_ratio: float, roof: Roof) -> str:
    """Say that a phase ran above the roof, and what must be wrong."""
    ceiling = "was measured" if roof.kind == ATTAINABLE else "is"
    return (
        f"at {v.percent(floor_ratio)} of the {roof.kind} roof, above the roof: the ceiling {ceiling} too low, or the"
        " model's FLOPs are wrong"
    )


def _neither(sums: PhaseSums, counters: Counters, limits: Thresholds) -> tuple[str, str]:
    """Tell apart host, overhead and latency where neither roof is reached."""
    busy, on_gpu = sums.busy_ratio, sums.busy_ratio is not None
    # What the SMs did counts more than whether any kernel ran.
    if counters.is_witness and counters.sm_active_ratio is not None:
        idle, what = (
            counters.sm_active_ratio < limits.sm_ratio,
            f", SMs active {v.percent(counters.sm_active_ratio)} of the time",
        )
        idle = idle or (busy is not None and busy < limits.busy_ratio)
    elif busy is not None and busy < limits.busy_ratio:
        idle, what = True, f", device busy {v.percent(busy)} of the wall time"
    else:
        floor = sums.floor_per_step_s
        idle = floor is not None and floor < limits.small_work_seconds
        what = f", {_short_time(floor)} of work an iteration" if floor is not None else ""
        what += f", device busy {v.percent(busy)} of the wall time" if busy is not None else ""
    if not idle:
        return v.LATENCY_BOUND, what
    if on_gpu and sums.host_cores is not None and sums.host_cores >= limits.host_cores:
        return v.HOST_BOUND, f"{what} while the process kept {v.number(sums.host_cores)} CPU cores busy"
    return v.OVERHEAD_BOUND, what


def _short_time(value: float) -> str:
    """Format a short time for a sentence."""
    if value >= 1e-3:
        return f"{v.number(value * 1e3)} ms"
    return f"{v.number(value * 1e6)} µs" if value >= 1e-6 else f"{v.number(value * 1e9)} ns"


def _lead(sums: PhaseSums, bound: str) -> str:
    return f"{sums.phase} is {v.words(bound)}: "


def _against_roof(sums: PhaseSums, roof: Roof) -> str:
    intensity = "no bytes" if sums.intensity is None else f"{v.number(sums.intensity)} FLOP/B"
    low = roof.ridge if sums.ridge_low is None else sums.ridge_low
    high = roof.ridge if sums.ridge_high is None else sums.ridge_high
    ridge = (
        f"a ridge of {v.number(low)}"
        if v.number(low) == v.number(high)
        else f"ridges of {v.number(low)} to {v.number(high)}, each step by its own device's"
    )
    ridge += "" if roof.kind == ATTAINABLE else " (datasheet)"
    reached = "" if sums.floor_ratio is None else f", {v.percent(sums.floor_ratio)} of the roof reached"
    return f"{intensity} against {ridge}{reached}"


def _witness(counters: Counters) -> str:
    """Say what the counters read, and how it was got."""
    readings = []
    if counters.dram_bw_ratio is not None:
        readings.append(f"{v.percent(counters.dram_bw_ratio)} of DRAM bandwidth")
    if counters.tensor_ratio is not None:
        readings.append(f"tensor cores active {v.percent(counters.tensor_ratio)} of the time")
    return f"{' and '.join(readings)} {counters.quality}"


def counter_bound(counters: Counters, limits: Thresholds = DEFAULTS) -> str | None:
    """Return what counters say on their own; ``latency_bound`` stands for neither roof, None for no witness."""
    if not counters.is_witness:
        return None
    memory = counters.dram_bw_ratio is not None and counters.dram_bw_ratio >= limits.dram_ratio
    compute = counters.tensor_ratio is not None and counters.tensor_ratio >= limits.tensor_ratio
    if memory and compute:
        return v.HYBRID
    if memory or compute:
        return v.MEMORY_BOUND if memory else v.COMPUTE_BOUND
    # Half a witness cannot say that neither roof was reached, nor can one who shares the time with others.
    if counters.dram_bw_ratio is None or counters.tensor_ratio is None or counters.diluted:
        return None
    return v.LATENCY_BOUND


def _words(counted: str) -> str:
    return "neither roof" if counted == v.LATENCY_BOUND else v.words(counted)


def _agree(bound: str, counted: str) -> bool:
    if bound not in _ROOFS or counted not in _ROOFS:
        return bound not in _ROOFS and counted not in _ROOFS
    return bound == counted or v.HYBRID in (bound, counted)
