"""What the engine says of itself, in lines of text that every renderer shows alike."""

from vtprof_analyzer.report.format import count, duration, known, percent, plain, safe
from vtprof_analyzer.report.model import Engine

TITLE = "What the engine says of itself"
_NAMES = {"vllm": "vLLM", "sglang": "SGLang"}


def lines(engine: Engine) -> list[str]:
    """Return one line for its state, one for its work, one for its caches; what it did not tell is left out."""
    who = safe(_NAMES.get(engine.name or "", engine.name or "engine"), 24)
    version = f" {safe(engine.version, 24)}" if engine.version else ""
    ranks = f", {count(engine.ranks)} ranks" if engine.ranks > 1 else ""
    told = [
        _joined(
            _pair("KV in use", known(engine.kv_used_ratio_p50, percent), known(engine.kv_used_ratio_max, percent))
            if engine.kv_used_ratio_max is not None else None,
            _pair("running", known(engine.running_p50, plain), known(engine.running_max, count))
            if engine.running_max is not None else None,
            _pair("waiting", known(engine.waiting_p50, plain), known(engine.waiting_max, count))
            if engine.waiting_max is not None else None,
            None if engine.preemptions is None else f"preemptions {count(engine.preemptions)}",
        ),
        _joined(
            None if engine.prompt_tokens is None else f"prompt tokens {count(engine.prompt_tokens)}",
            None if engine.output_tokens is None else f"generated {count(engine.output_tokens)}",
            None if engine.ttft_ms_mean is None else f"TTFT mean {duration(engine.ttft_ms_mean)}",
            None if engine.queue_ms_mean is None else f"queue mean {duration(engine.queue_ms_mean)}",
        ),
        _joined(
            _hits("prefix cache", "tokens", engine.prefix_hit_rate),
            _hits("preprocessed media", "items", engine.mm_cache_hit_rate),
            _hits("encoder outputs", "items", engine.encoder_cache_hit_rate),
        ),
    ]  # fmt: skip
    readings = "1 reading" if engine.readings == 1 else f"{count(engine.readings)} readings"
    head = f"{who}{version}{ranks}, {readings} of its metrics page"
    if engine.since_start is False:
        # What it did before is in its totals too, but nobody knows how much of that was this run.
        grown = f"totals are what grew within {duration(1e3 * engine.seconds)}"
        head += f"; its start was not seen: {grown if engine.seconds else 'no totals'}"
    return [head, *(line for line in told if line)]


def _joined(*parts: str | None) -> str:
    return "; ".join(part for part in parts if part)


def _pair(what: str, median: str, most: str) -> str:
    return f"{what} p50 {median}, most {most}"


def _hits(cache: str, unit: str, rate: float | None) -> str | None:
    return None if rate is None else f"{cache}: {percent(rate)} of {unit} found"
