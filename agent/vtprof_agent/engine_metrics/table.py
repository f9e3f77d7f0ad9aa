"""Which series of an engine's metrics page means what in our vocabulary, in which versions: data, nothing else.

Read in the source of vLLM 0.10.2 to 0.33.0 and SGLang 0.4.10 to 0.5.23; a test holds the table against it.
"""

from typing import Final, NamedTuple

from vtprof_schemas import names

VLLM, SGLANG = "vllm", "sglang"
PREFIXES: Final = {VLLM: "vllm:", SGLANG: "sglang:"}
"""What all series of an engine begin with."""


class Series(NamedTuple):
    """One series of an engine and what it is for us."""

    engine: str
    since: str
    """First version that has it with this meaning."""
    before: str | None
    """First version that has it no more, or only as a hidden leftover; None: it is there to the newest one read."""
    name: str
    """As in the engine's source; a counter's sample ends with ``_total`` besides."""
    ours: str
    """Attribute key of ``names``: the sum of a histogram when ``ours_count`` is given."""
    ours_count: str | None = None
    labels: tuple[tuple[str, str], ...] = ()
    """Only samples with these labels; over all other labels it is summed."""
    marker: str | None = None
    """A series first seen in ``since``: where the version is not known, it must be on the page too."""


def _times(engine: str, since: str, name: str, ours: str) -> Series:
    return Series(engine, since, None, name, *names.ENGINE_TIMES[ours])


_OLDEST_VLLM, _OLDEST_SGLANG = "0.10.0", "0.4.10"
SERIES: Final[tuple[Series, ...]] = (
    Series(VLLM, _OLDEST_VLLM, None, "vllm:kv_cache_usage_perc", names.ENGINE_KV_USED_RATIO),
    Series(VLLM, _OLDEST_VLLM, "0.12.0", "vllm:gpu_cache_usage_perc", names.ENGINE_KV_USED_RATIO),
    Series(VLLM, _OLDEST_VLLM, None, "vllm:num_requests_running", names.ENGINE_RUNNING),
    Series(VLLM, _OLDEST_VLLM, None, "vllm:num_requests_waiting", names.ENGINE_WAITING),
    Series(VLLM, _OLDEST_VLLM, None, "vllm:num_preemptions", names.ENGINE_PREEMPTIONS),
    Series(VLLM, _OLDEST_VLLM, None, "vllm:prompt_tokens", names.ENGINE_PROMPT_TOKENS),
    Series(VLLM, "0.16.0", None, "vllm:prompt_tokens_cached", names.ENGINE_CACHED_TOKENS),
    Series(VLLM, _OLDEST_VLLM, None, "vllm:generation_tokens", names.ENGINE_OUTPUT_TOKENS),
    Series(VLLM, _OLDEST_VLLM, None, "vllm:prefix_cache_queries", names.ENGINE_PREFIX_QUERIED_TOKENS),
    Series(VLLM, _OLDEST_VLLM, "0.12.0", "vllm:gpu_prefix_cache_queries", names.ENGINE_PREFIX_QUERIED_TOKENS),
    Series(VLLM, _OLDEST_VLLM, None, "vllm:prefix_cache_hits", names.ENGINE_PREFIX_HIT_TOKENS),
    Series(VLLM, _OLDEST_VLLM, "0.12.0", "vllm:gpu_prefix_cache_hits", names.ENGINE_PREFIX_HIT_TOKENS),
    Series(VLLM, "0.11.0", None, "vllm:mm_cache_queries", names.ENGINE_MM_QUERIED_ITEMS),
    Series(VLLM, "0.11.0", None, "vllm:mm_cache_hits", names.ENGINE_MM_HIT_ITEMS),
    _times(VLLM, _OLDEST_VLLM, "vllm:time_to_first_token_seconds", "ttft"),
    _times(VLLM, _OLDEST_VLLM, "vllm:e2e_request_latency_seconds", "e2e"),
    _times(VLLM, _OLDEST_VLLM, "vllm:request_queue_time_seconds", "queue"),
    _times(VLLM, _OLDEST_VLLM, "vllm:request_prefill_time_seconds", "scheduled_to_first_token"),
    _times(VLLM, _OLDEST_VLLM, "vllm:request_decode_time_seconds", "first_to_last_token"),
    Series(SGLANG, _OLDEST_SGLANG, None, "sglang:token_usage", names.ENGINE_KV_USED_RATIO),
    Series(SGLANG, _OLDEST_SGLANG, None, "sglang:num_running_reqs", names.ENGINE_RUNNING),
    Series(SGLANG, _OLDEST_SGLANG, None, "sglang:num_queue_reqs", names.ENGINE_WAITING),
    # Before, `num_retracted_reqs` told only those since the last look: it cannot be summed.
    Series(SGLANG, "0.5.8", None, "sglang:num_retracted_requests_total", names.ENGINE_PREEMPTIONS),
    Series(SGLANG, _OLDEST_SGLANG, None, "sglang:prompt_tokens_total", names.ENGINE_PROMPT_TOKENS),
    Series(SGLANG, _OLDEST_SGLANG, None, "sglang:cached_tokens_total", names.ENGINE_CACHED_TOKENS),
    Series(SGLANG, _OLDEST_SGLANG, None, "sglang:generation_tokens_total", names.ENGINE_OUTPUT_TOKENS),
    Series(SGLANG, "0.5.16", None, "sglang:encoder_cache_total_files_total", names.ENGINE_ENCODER_QUERIED_ITEMS),
    Series(SGLANG, "0.5.16", None, "sglang:encoder_cache_hit_files_total", names.ENGINE_ENCODER_HIT_ITEMS),
    _times(SGLANG, _OLDEST_SGLANG, "sglang:time_to_first_token_seconds", "ttft"),
    _times(SGLANG, _OLDEST_SGLANG, "sglang:e2e_request_latency_seconds", "e2e"),
    _times(SGLANG, "0.5.3", "sglang:queue_time_seconds", "queue"),
    # Before, this stage began at the last stage's end, whichever that was, and only in disaggregated servers.
    Series(
        SGLANG, "0.5.10", None, "sglang:per_stage_req_latency_seconds", *names.ENGINE_TIMES["prefill_forward"],
        labels=(("stage", "prefill_forward"),), marker="sglang:full_token_usage",
    ),
)  # fmt: skip
"""Of two series with one meaning the one that stands first here is taken where a page has both."""

GAUGES: Final = frozenset((names.ENGINE_KV_USED_RATIO, names.ENGINE_RUNNING, names.ENGINE_WAITING))
"""What is a state; all else is a running total."""
