"""Judge the phases off the device: preprocess by CPU time, queue by what blocked admission, transfer by its bytes."""

from collections.abc import Mapping

from vtprof_analyzer import verdict as v
from vtprof_analyzer.verdict import Thresholds, Verdict
from vtprof_schemas import names

_DEFAULTS = Thresholds()
_LEAST_SAID = 0.001
"""An upper bound is not said finer than this."""
_WITH_WORKERS = frozenset({"vllm", "sglang"})
"""Engines that hand preprocessing to workers, for which a request can wait."""
_ROOM = "capacity"
_WAITED_FOR = {
    "own_chunks": "their own earlier chunks",
    "text_prefill": "running prefill of text",
    "image_prefill": "running prefill of visual tokens",
    "image_encode": "running encode",
    "decode_batch": "running decode",
    _ROOM: "room",
}
"""What a request waited for, as the stage `queue_blame` names it."""


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
    decoded = (decode_seconds or 0.0) / seconds
    rest = max(0.0, 1.0 - max(ratio, decoded) - fetched)
    downloads, waiting = _named("downloads", fetched, limits), _named("waiting", rest, limits)
    if ratio >= limits.cpu_ratio:
        work = _cpu_work(ratio, decoded, limits, "", "other")
        inside = f" ({', '.join(work)})" if len(work) > 1 else ""
        text = ", ".join([f"CPU work of {v.percent(ratio)} of its duration{inside}", *downloads, *waiting])
        return Verdict(v.HOST_BOUND, v.MEDIUM, f"{phase} is host-bound: {text}")
    if fetched >= limits.cpu_ratio or fetched > max(ratio, rest):
        work = _cpu_work(ratio, decoded, limits, "into ")
        text = ", ".join([f"{v.percent(fetched)} of it went into downloads", *work, *waiting])
        return Verdict(v.COMM_BOUND, v.MEDIUM, f"{phase} is comm-bound: {text}")
    work = _cpu_work(ratio, decoded, limits, "")
    known = ", ".join([*work, *downloads])
    if engine not in _WITH_WORKERS:
        return v.not_judged(
            phase,
            f"{known}; the process was not running or waited for something else: other load on this host?",
        )
    remains = f"the rest, {v.percent(rest)}," if len(work) + len(downloads) > 1 else "the rest"
    text = f"{known}, {remains} is waiting for a worker"
    return Verdict(v.QUEUE_BOUND, v.MEDIUM, f"{phase} is queue-bound: {text}")


def _cpu_work(
    ratio: float, decoded: float, limits: Thresholds, into: str, other: str = "other CPU work"
) -> list[str]:
    """Name the CPU work in parts that add up, as in `request_parts`: decoding media apart where it matters."""
    if decoded < limits.phase_share:
        return [f"{v.percent(ratio)} {into}CPU work"]
    rest = _named(into + other, max(0.0, ratio - decoded), limits)
    return [f"{v.percent(decoded)} {into}decoding media", *rest]


def _named(words: str, ratio: float, limits: Thresholds) -> list[str]:
    """Name a part of the phase where it is large enough to matter."""
    return [f"{v.percent(ratio)} {words}"] if ratio >= limits.phase_share else []


def judge_queue(
    kv_usage_ratio: float | None,
    preemptions: int | None,
    share: float | None = None,
    limits: Thresholds = _DEFAULTS,
    *,
    most: float | None = None,
    left_nobody: bool | None = None,
    causes: Mapping[str, float] | None = None,
) -> Verdict:
    """Judge queue by what blocked admission: KV usage while requests waited (mean, 0..1) and preemptions.

    ``most`` is the highest KV usage of any step, 0..1; ``left_nobody`` tells that no step left a request waiting.
    ``causes`` are the causes of `queue_blame` with their shares of the time, 0..1: where most is explained they decide.
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
    because = ", ".join(part for part in (usage, evicted) if part)
    if causes and (first := max(causes, key=lambda cause: causes[cause])) in _WAITED_FOR:
        text = _waited(causes, limits) + (f"; {because}" if because else "")
        if first == _ROOM:
            confidence = v.HIGH if full and evicted else v.MEDIUM
            return Verdict(v.CAPACITY_BOUND, confidence, f"{phase} is capacity-bound: {text}")
        # A full cache, or one that was full at times, speaks against it.
        confidence = v.LOW if full or evicted else v.MEDIUM
        return Verdict(v.QUEUE_BOUND, confidence, f"{phase} is queue-bound: {text}")
    if full or evicted:
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


def _waited(causes: Mapping[str, float], limits: Thresholds) -> str:
    """Say what requests waited for, the longest first, and in any case how much of it for room."""
    told = sorted(_WAITED_FOR, key=lambda cause: -causes.get(cause, 0.0))
    told = [cause for cause in told if causes.get(cause, 0.0) >= limits.phase_share or cause == _ROOM]
    parts = [
        f"{v.percent(causes.get(cause, 0.0))} {'' if place else 'of it waited '}for {_WAITED_FOR[cause]}"
        for place, cause in enumerate(told)
    ]
    return ", ".join(parts)


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
