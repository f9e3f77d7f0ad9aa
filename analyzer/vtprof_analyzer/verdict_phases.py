"""Judge one phase: device phases by roofline and counters, preprocess by CPU, queue by what blocked admission."""

from dataclasses import dataclass, replace

import numpy as np

from vtprof_analyzer import verdict as v
from vtprof_analyzer.cost.work import Floats
from vtprof_analyzer.devices.roofs import ATTAINABLE, Roof
from vtprof_analyzer.verdict import Counters, PhaseSteps, Thresholds, Verdict
from vtprof_schemas import names

DEFAULTS = Thresholds()
_LEAST_SAID = 0.001
"""An upper bound is not said finer than this."""
_WITH_WORKERS = frozenset({"vllm", "sglang"})
"""Engines that hand preprocessing to workers, for which a request can wait."""


@dataclass(frozen=True)
class _Sums:
    """A phase's steps added up."""

    intensity: float | None
    flops_per_s: float
    floor_ratio: float | None
    busy_ratio: float | None
    floor_per_iteration: float | None
    visual_share: float | None
    bound: str | None
    """Class with the most time; None without a roof."""
    bound_share: float
    ridges: tuple[float, float] | None
    """Least and largest ridge of the devices that ran the steps [FLOP/B]."""


def _ceilings(steps: PhaseSteps, kept: np.ndarray, roof: Roof | None) -> tuple[Floats, Floats]:
    """Return peak and bandwidth of each step that is kept; NaN where no roof is known."""
    if steps.peak_flops_per_s is not None and steps.bandwidth_bytes_per_s is not None:
        return steps.peak_flops_per_s[kept], steps.bandwidth_bytes_per_s[kept]
    count = int(kept.sum())
    if roof is None:
        return np.full(count, np.nan), np.full(count, np.nan)
    return np.full(count, roof.peak_flops_per_s), np.full(count, roof.bandwidth_bytes_per_s)


def judge_phase(steps: PhaseSteps, roof: Roof | None, limits: Thresholds = DEFAULTS) -> Verdict:
    """Judge encode, prefill or decode from the work and time of its steps.

    Steps without time or work are left out. Without a roof the counters alone decide; without either nothing is
    judged, and the verdict says what is missing.
    """
    kept = (steps.seconds > 0) & ((steps.flops > 0) | (steps.bytes > 0))
    counters = steps.counters
    if not kept.any():
        verdict = v.not_judged(steps.phase, "no step of it has both work and time recorded")
        return replace(verdict, dram_bw_ratio=counters.dram_bw_ratio, tensor_ratio=counters.tensor_ratio)
    sums = _sums(steps, kept, roof, limits)
    small = v.too_small(steps.phase, steps.share, limits)
    verdict = small or _judge(steps, sums, int(kept.sum()), roof, limits)
    return replace(
        verdict,
        intensity=sums.intensity,
        flops_per_s=sums.flops_per_s,
        floor_ratio=sums.floor_ratio,
        dram_bw_ratio=counters.dram_bw_ratio,
        tensor_ratio=counters.tensor_ratio,
    )


def _sums(steps: PhaseSteps, kept: np.ndarray, roof: Roof | None, limits: Thresholds) -> _Sums:
    flops, bytes_, seconds = steps.flops[kept], steps.bytes[kept], steps.seconds[kept]
    time, total_bytes = float(seconds.sum()), float(bytes_.sum())
    wall = None if steps.wall_seconds is None else float(steps.wall_seconds[kept].sum())
    visual = None if steps.bytes_kv_visual is None else float(steps.bytes_kv_visual[kept].sum())
    floor: float | None = None
    timed = time
    bound, bound_share = None, 0.0
    peak, bandwidth = _ceilings(steps, kept, roof)
    under = np.isfinite(peak) & np.isfinite(bandwidth)
    ridges: tuple[float, float] | None = None
    if under.any():
        flops_, moved, took = flops[under], bytes_[under], seconds[under]
        peak, bandwidth = peak[under], bandwidth[under]
        ridges = float((peak / bandwidth).min()), float((peak / bandwidth).max())
        floor = float(np.maximum(flops_ / peak, moved / bandwidth).sum())
        timed = float(took.sum())
        classes = np.array(v.step_bounds(flops_, moved, took, peak, bandwidth, limits))
        found, where = np.unique(classes, return_inverse=True)
        times = np.bincount(where, weights=took)
        bound, bound_share = str(found[times.argmax()]), float(times.max() / timed)
    iterations = float(steps.iterations[kept][under].sum())
    return _Sums(
        intensity=float(flops.sum()) / total_bytes if total_bytes else None,
        flops_per_s=float(flops.sum()) / time,
        floor_ratio=None if floor is None else floor / timed,
        busy_ratio=time / wall if wall else None,
        floor_per_iteration=floor / iterations if floor is not None and iterations else None,
        visual_share=visual / total_bytes if visual is not None and total_bytes else None,
        bound=bound,
        bound_share=bound_share,
        ridges=ridges,
    )


def _judge(steps: PhaseSteps, sums: _Sums, kept: int, roof: Roof | None, limits: Thresholds) -> Verdict:
    counted = _counter_bound(steps.counters, limits)
    if sums.bound is None or roof is None:
        if counted is None:
            return v.not_judged(
                steps.phase, "no roof of the device is known and no GPU counters were recorded"
            )
        bound, why = _neither(steps, sums, limits) if counted == v.LATENCY_BOUND else (counted, "")
        text = f"{_lead(steps, bound)}by counters alone, {_activity(steps.counters)}{why}; no roof is known"
        return Verdict(bound, v.LOW if kept < limits.few_steps else v.MEDIUM, text)
    idle = sums.busy_ratio is not None and sums.busy_ratio < limits.busy_ratio
    neither = idle or sums.bound == v.LATENCY_BOUND
    bound, why = _neither(steps, sums, limits) if neither else (sums.bound, "")
    parts = [_lead(steps, bound) + _against_roof(sums, roof) + why]
    confidence = v.MEDIUM
    if counted is not None:
        agrees = _agree(bound, counted)
        confidence = v.HIGH if agrees else v.LOW
        parts.append(
            f"counters agree ({_activity(steps.counters)})"
            if agrees
            else f"counters disagree: {_activity(steps.counters)} speaks for {_counter_words(counted)}"
        )
    if bound == v.MEMORY_BOUND and sums.visual_share:
        parts.append(f"{v.percent(sums.visual_share)} of the bytes are visual KV")
    if not neither and sums.bound_share < limits.step_share:
        confidence = v.LOW
        parts.append(f"only {v.percent(sums.bound_share)} of its time is in such steps")
    if kept < limits.few_steps:
        confidence = v.LOW
        parts.append(f"{kept} {'step' if kept == 1 else 'steps'} only")
    if roof.confidence == v.LOW:
        confidence = v.LOW
        parts.append(roof.doubt)
    if is_above_roof(sums.floor_ratio, limits):
        confidence = v.LOW
        parts.append(f"it ran {above_roof(sums.floor_ratio or 0.0, roof)}")
    elif sums.floor_ratio is not None and sums.floor_ratio > 1:
        parts.append(
            f"it ran at {v.percent(sums.floor_ratio)} of the {roof.kind} roof: caches, or a roof set too low"
        )
    return Verdict(bound, confidence, "; ".join(parts))


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


def _neither(steps: PhaseSteps, sums: _Sums, limits: Thresholds) -> tuple[str, str]:
    """Tell apart host, overhead and latency where neither roof is reached."""
    busy = sums.busy_ratio
    # What the SMs did counts more than whether any kernel ran.
    if steps.counters.is_witness and steps.counters.sm_active_ratio is not None:
        idle, activity = steps.counters.sm_active_ratio < limits.sm_ratio, steps.counters.sm_active_ratio
        what = f", SMs active {v.percent(activity)} of the time"
        idle = idle or (busy is not None and busy < limits.busy_ratio)
    elif busy is not None:
        idle, what = busy < limits.busy_ratio, f", device busy {v.percent(busy)} of the wall time"
    else:
        floor = sums.floor_per_iteration
        idle = floor is not None and floor < limits.small_work_seconds
        what = f", {_short_time(floor)} of work an iteration" if floor is not None else ""
    if not idle:
        return v.LATENCY_BOUND, what
    on_gpu = steps.wall_seconds is not None
    if on_gpu and steps.host_cores is not None and steps.host_cores >= limits.host_cores:
        return v.HOST_BOUND, f"{what} while the process kept {v.number(steps.host_cores)} CPU cores busy"
    return v.OVERHEAD_BOUND, what


def _short_time(value: float) -> str:
    """Format a short time for a sentence."""
    return f"{v.number(value * 1e3)} ms" if value >= 1e-3 else f"{v.number(value * 1e6)} µs"


def _lead(steps: PhaseSteps, bound: str) -> str:
    return f"{steps.phase} is {v.words(bound)}: "


def _against_roof(sums: _Sums, roof: Roof) -> str:
    intensity = "no bytes" if sums.intensity is None else f"{v.number(sums.intensity)} FLOP/B"
    low, high = sums.ridges or (roof.ridge, roof.ridge)
    ridge = (
        f"a ridge of {v.number(low)}"
        if v.number(low) == v.number(high)
        else (f"ridges of {v.number(low)} to {v.number(high)}, each step by its own device's")
    )
    ridge += "" if roof.kind == ATTAINABLE else " (datasheet)"
    reached = "" if sums.floor_ratio is None else f", {v.percent(sums.floor_ratio)} of the roof reached"
    return f"{intensity} against {ridge}{reached}"


def _activity(counters: Counters) -> str:
    readings = (("DRAM", counters.dram_bw_ratio), ("tensor cores", counters.tensor_ratio))
    return ", ".join(f"{name} {v.percent(value)}" for name, value in readings if value is not None)


def _counter_bound(counters: Counters, limits: Thresholds) -> str | None:
    """Return what the counters say on their own; ``latency_bound`` stands for neither roof, None for no witness."""
    if not counters.is_witness:
        return None
    memory = counters.dram_bw_ratio is not None and counters.dram_bw_ratio >= limits.dram_ratio
    compute = counters.tensor_ratio is not None and counters.tensor_ratio >= limits.tensor_ratio
    if memory and compute:
        return v.HYBRID
    if memory or compute:
        return v.MEMORY_BOUND if memory else v.COMPUTE_BOUND
    # Half a witness cannot say that neither roof was reached.
    if counters.dram_bw_ratio is None or counters.tensor_ratio is None:
        return None
    return v.LATENCY_BOUND


def _counter_words(counted: str) -> str:
    return "neither roof" if counted == v.LATENCY_BOUND else v.words(counted)


def _agree(bound: str, counted: str) -> bool:
    roofs = (v.COMPUTE_BOUND, v.MEMORY_BOUND, v.HYBRID)
    if bound not in roofs or counted not in roofs:
        return bound not in roofs and counted not in roofs
    return bound == counted or v.HYBRID in (bound, counted)


def judge_preprocess(
    seconds: float,
    cpu_seconds: float | None,
    fetch_seconds: float | None = None,
    share: float | None = None,
    engine: str | None = None,
    limits: Thresholds = DEFAULTS,
    *,
    decode_seconds: float | None = None,
) -> Verdict:
    """Judge preprocess by CPU: sums over requests of duration, CPU time of the work, download and decoding time [s].

    Waiting for the network is no host work: of what the CPU did not do, the larger part decides, downloads or the rest.
    One ratio is one witness: the confidence is medium at most. Only an ``engine`` with preprocessing workers can let
    requests wait for one.
    """
    phase = names.PREPROCESS
    if (small := v.too_small(phase, share, limits)) is not None:
        return small
    if seconds <= 0 or cpu_seconds is None:
        return v.not_judged(phase, f"{names.PREPROCESS_CPU_NS} was not recorded")
    ratio, fetched = cpu_seconds / seconds, (fetch_seconds or 0.0) / seconds
    decoded = _named(", {} decoding media", decode_seconds, seconds, limits)
    downloads = _named(", {} downloads", fetch_seconds, seconds, limits)
    if ratio >= limits.cpu_ratio:
        text = f"CPU work of {v.percent(ratio)} of its duration{decoded}{downloads}"
        return Verdict(v.HOST_BOUND, v.MEDIUM, f"{phase} is host-bound: {text}")
    rest = max(0.0, 1.0 - ratio - fetched)
    if fetched >= limits.cpu_ratio or fetched > max(ratio, rest):
        text = f"{v.percent(fetched)} of it went into downloads, {v.percent(ratio)} into CPU work{decoded}"
        return Verdict(v.COMM_BOUND, v.MEDIUM, f"{phase} is comm-bound: {text}")
    known = f"CPU work is {v.percent(ratio)} of it{decoded}{downloads}"
    if engine not in _WITH_WORKERS:
        return v.not_judged(
            phase,
            f"{known}; the process was not running or waited for something else: other load on this host?",
        )
    remains = f"the rest, {v.percent(rest)}," if downloads else "the rest"
    text = f"{known}, {remains} is waiting for a worker"
    return Verdict(v.QUEUE_BOUND, v.MEDIUM, f"{phase} is queue-bound: {text}")


def _named(words: str, part_seconds: float | None, seconds: float, limits: Thresholds) -> str:
    """Name a part of the phase where it is large enough to matter."""
    ratio = (part_seconds or 0.0) / seconds
    return words.format(v.percent(ratio)) if ratio >= limits.phase_share else ""


def judge_queue(
    kv_usage_ratio: float | None,
    preemptions: int | None,
    share: float | None = None,
    limits: Thresholds = DEFAULTS,
    *,
    most: float | None = None,
    left_nobody: bool | None = None,
) -> Verdict:
    """Judge queue by what blocked admission: KV usage while requests waited (mean, 0..1) and preemptions.

    ``most`` is the highest KV usage of any step, 0..1; ``left_nobody`` tells that no step left a request waiting.
    """
    phase = names.QUEUE
    if (small := v.too_small(phase, share, limits)) is not None:
        return small
    usage = (
        None if kv_usage_ratio is None else f"KV cache {v.percent(kv_usage_ratio)} full while requests waited"
    )
    evicted = (
        f"{preemptions:,} {'preemption' if preemptions == 1 else 'preemptions'}" if preemptions else None
    )
    full = kv_usage_ratio is not None and kv_usage_ratio >= limits.kv_usage_ratio
    if full or evicted:
        because = ", ".join(part for part in (usage, evicted) if part)
        confidence = v.HIGH if full and evicted else v.MEDIUM
        return Verdict(v.CAPACITY_BOUND, confidence, f"{phase} is capacity-bound: {because}")
    if usage is not None:
        text = f"{usage}, so requests waited for a slot"
        return Verdict(v.QUEUE_BOUND, v.MEDIUM, f"{phase} is queue-bound: {text}")
    most = None if most is None else max(most, _LEAST_SAID)
    if left_nobody:
        cache = "" if most is None else f" (KV cache at most {v.percent(most)} full)"
        text = f"each step took all who waited{cache}, so requests waited for the step under way to end"
        return Verdict(v.QUEUE_BOUND, v.MEDIUM, f"{phase} is queue-bound: {text}")
    if most is not None and most < limits.kv_usage_ratio:
        text = f"KV cache at most {v.percent(most)} full, so requests waited for a slot"
        return Verdict(v.QUEUE_BOUND, v.MEDIUM, f"{phase} is queue-bound: {text}")
    text = "KV usage while requests waited was not recorded, so that the cache cannot be ruled out"
    return Verdict(v.QUEUE_BOUND, v.LOW, f"{phase} is queue-bound: {text}")


def judge_transfer(
    seconds: float, bytes_moved: float | None, share: float | None = None, limits: Thresholds = DEFAULTS
) -> Verdict:
    """Judge transfer: moving embeddings or KV is communication; the sentence gives the rate where bytes are known."""
    phase = names.TRANSFER
    if (small := v.too_small(phase, share, limits)) is not None:
        return small
    if seconds <= 0 or not bytes_moved:
        return Verdict(v.COMM_BOUND, v.LOW, f"{phase} is comm-bound: its bytes were not recorded")
    rate = f"{v.number(bytes_moved / seconds / 1e9)} GB/s"
    return Verdict(
        v.COMM_BOUND, v.MEDIUM, f"{phase} is comm-bound: {v.number(bytes_moved / 1e6)} MB at {rate}"
    )
