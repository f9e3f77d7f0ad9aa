"""Symptoms that no trace can show yet: rules that are judged by the facts of a healthy deployment with these changed."""

from typing import NamedTuple


class ByFacts(NamedTuple):
    """What is changed, and why a deployment cannot show it."""

    unrecorded: str
    """The fact that is missing."""
    why: str
    facts: dict[str, float | int | bool]


BY_FACTS: dict[str, ByFacts] = {
    "KV003": ByFacts(
        "image_position_after_changing_text_share",
        "what text stands before an image is not recorded",
        {
            "repeat_image_share": 0.5,
            "mm_cache_hit_rate": 0.5,
            "prefix_hit_rate": 0.02,
            "image_position_after_changing_text_share": 0.9,
        },
    ),
    "KV005": ByFacts(
        "reserve_by_max_len",
        "vLLM and SGLang have paged caches; of other engines it is not told",
        {"reserve_by_max_len": True},
    ),
    "KV006": ByFacts(
        "evicted_then_missed_share",
        "engines do not tell which of the evicted blocks were asked for again",
        {"kv_reuse_gap_p50_s": 60.0, "evicted_then_missed_share": 0.3},
    ),
    "MM005": ByFacts(
        "encode_cudagraph_hit_rate",
        "engines do not tell which steps of the encoder ran as graphs",
        {"distinct_visual_token_counts": 205, "encode_cudagraph_hit_rate": 0.1},
    ),
    "PF007": ByFacts(
        "repeat_prefix_share",
        "digests of prompt blocks are not recorded",
        {"repeat_prefix_share": 0.6, "prefix_hit_rate": 0.05},
    ),
    "SYS006": ByFacts(
        "expert_load_max_over_mean",
        "engines do not tell how full each rank's experts are",
        {"expert_load_max_over_mean": 2.0, "ep": 8},
    ),
}
