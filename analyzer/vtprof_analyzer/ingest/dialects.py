"""Foreign span dialects: the keys of engines' own spans and the columns that hold them until a stage maps them.

What such a span cannot tell stays NULL. vLLM: one ``llm_request`` span a request (read in vLLM 0.10 to 0.33),
latencies in float seconds; its "prefill" runs from first scheduling to first token and so holds the vision encoder
and other requests' steps. The keys are the same in all of these versions.

SGLang (read in 0.5.3 to 0.5.23): a root span ``[role] Req <id>`` a request, under it a span for each thread that it
passed, under those its stages as slices. Since 0.5.10 the root has vLLM's keys, but its "prefill" there runs from
dispatch to first token, queueing included: it is not read, the slices tell it better. The slice "prefill" of 0.5.3
and 0.5.4 holds the queue too and stays unread: there the time is unexplained.
"""

from typing import Final, NamedTuple

from vtprof_schemas import names

VTPROF: Final = "vtprof"
VLLM: Final = "vllm"
SGLANG: Final = "sglang"

VLLM_REQUEST_SPAN: Final = "llm_request"
VLLM_PROCESS_KIND: Final = "vllm.process_kind"
SGLANG_ROOT: Final = r"(\S* )?Req .{0,8}"
"""Full name of a request's span; the first part is its role, empty in a server that does all."""
SGLANG_THREAD: Final = r".*\(host:[^|()]{0,8} ?\| ?pid:\d+\)"
"""Full name of a thread's span: label, ranks, host and PID."""
SGLANG_PHASES: Final[dict[str, str]] = {
    "tokenize": names.PREPROCESS,  # with loading and preprocessing of media
    "dispatch": names.PREPROCESS,  # until 0.5.9
    "api_server_dispatch": names.PREPROCESS,
    "dc_dispatch": names.QUEUE,
    "dpc_dispatch": names.QUEUE,
    "process req": names.QUEUE,  # 0.5.3, 0.5.4
    "request_process": names.QUEUE,
    "prefill_waiting": names.QUEUE,
    "prefill_forward": names.PREFILL,  # first scheduling to the end of the prompt: encode and others' steps included
    "chunked_prefill": names.PREFILL,  # its parts
    "decode_waiting": names.QUEUE,
    "decode_forward": names.DECODE,
    "decode loop": names.DECODE,  # 0.5.3, 0.5.4
    "decode_loop": names.DECODE,  # its parts, from trace level 3
}
"""Slices and the phase that each lies in; an instant that several of one phase claim counts once."""


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

SGLANG_KEYS: Final[tuple[ForeignKey, ...]] = (
    ForeignKey("rid", "sglang_rid", names.STRING),
    ForeignKey("gen_ai.request.id", "sglang_request_id", names.STRING),
    ForeignKey("gen_ai.response.model", "sglang_model", names.STRING),
    ForeignKey("gen_ai.response.finish_reasons", "sglang_finish_reasons", names.STRING),
    ForeignKey("gen_ai.usage.prompt_tokens", "sglang_prompt_tokens", names.INT),
    ForeignKey("gen_ai.usage.completion_tokens", "sglang_completion_tokens", names.INT),
    ForeignKey("gen_ai.usage.cached_tokens", "sglang_cached_tokens", names.INT),
    ForeignKey("gen_ai.latency.time_to_first_token", "sglang_ttft_s", names.DOUBLE),
    ForeignKey("gen_ai.latency.e2e", "sglang_e2e_s", names.DOUBLE),
)
"""What is taken from a SGLang request span; its threads' spans and slices carry nothing that is needed."""

FOREIGN_KEYS: Final = VLLM_KEYS + SGLANG_KEYS

IGNORED_KEYS: Final[frozenset[str]] = frozenset(
    {
        "gen_ai.latency.time_in_model_inference",
        "gen_ai.request.max_tokens",
        "gen_ai.request.n",
        "gen_ai.request.temperature",
        "gen_ai.request.top_k",
        "gen_ai.request.top_p",
        "bootstrap_room",
        "module",
        # Of SGLang's threads and slices.
        "bid",
        "batch_size",
        "decode_ct",
        "dp_rank",
        "forward_mode",
        "host_id",
        "pid",
        "pp_rank",
        "thread_label",
        "tp_rank",
    }
)
"""Known, and not used: no unknown attributes."""
