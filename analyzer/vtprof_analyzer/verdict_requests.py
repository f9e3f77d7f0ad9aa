"""Judge the phases off the device: preprocess by CPU time, queue by what blocked admission, transfer by its bytes."""

from vtprof_analyzer import verdict as v
from vtprof_analyzer.verdict import Thresholds, Verdict
from vtprof_schemas import names

_DEFAULTS = Thresholds()
_LEAST_SAID = 0.001
"""An upper bound is not said finer than this."""
_WITH_WORKERS = frozenset({"vllm", "sglang"})
"""Engines that hand preprocessing to workers, for which a request can wait."""


def judge_preprocess(
    seconds: float,
    cpu_seconds: float | None,
    fetch_seconds: float | None = None,
    share: float | None = None,
    engine: str | None = None,
    limits: Thresholds = _DEFAULTS,
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
    limits: Thresholds = _DEFAULTS,
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
    seconds: float, bytes_moved: float | None, share: float | None = None, limits: Thresholds = _DEFAULTS
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
