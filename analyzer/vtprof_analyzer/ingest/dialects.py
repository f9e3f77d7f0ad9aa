"""Foreign span dialects: the keys of engines' own spans and the columns that hold them until a stage maps them.

What such a span cannot tell stays NULL. vLLM: one ``llm_request`` span a request (read in vLLM 0.10 to 0.33),
latencies in float seconds; its "prefill" runs from first scheduling to first token and so holds the vision encoder
and other requests' steps.
"""

from typing import Final, NamedTuple

from vtprof_schemas import names

VTPROF: Final = "vtprof"
VLLM: Final = "vllm"

VLLM_REQUEST_SPAN: Final = "llm_request"
VLLM_PROCESS_KIND: Final = "vllm.process_kind"


class ForeignKey(NamedTuple):
    """One attribute of a foreign dialect and the column of table ``spans`` that holds it."""

    key: str
    column: str
    type: str


VLLM_KEYS: Final[tuple[ForeignKey, ...]] = (
    ForeignKey("gen_ai.request.id", "vllm_request_id", names.STRING),
    ForeignKey("gen_ai.usage.prompt_tokens", "vllm_prompt_tokens", names.INT),
    ForeignKey("gen_ai.usage.completion_tokens", "vllm_completion_tokens", names.INT),
    ForeignKey("gen_ai.latency.time_to_first_token", "vllm_ttft_s", names.DOUBLE),
    ForeignKey("gen_ai.latency.e2e", "vllm_e2e_s", names.DOUBLE),
    ForeignKey("gen_ai.latency.time_in_queue", "vllm_queue_s", names.DOUBLE),
    ForeignKey("gen_ai.latency.time_in_model_prefill", "vllm_prefill_s", names.DOUBLE),
    ForeignKey("gen_ai.latency.time_in_model_decode", "vllm_decode_s", names.DOUBLE),
)
"""What is taken from a vLLM request span."""

VLLM_IGNORED_KEYS: Final[frozenset[str]] = frozenset(
    {
        "gen_ai.latency.time_in_model_inference",
        "gen_ai.request.max_tokens",
        "gen_ai.request.n",
        "gen_ai.request.temperature",
        "gen_ai.request.top_p",
    }
)
"""Known, and not used: no unknown attributes."""
