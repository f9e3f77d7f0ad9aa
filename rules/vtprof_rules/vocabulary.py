"""The facts and evidence columns that rules may name, each with type, unit and meaning.

A fact is one value for the whole run, put there by the analyzer's stages; ``None`` is "not known" and never
looks like a pass. An evidence column is a column of the table that ``evidence.from`` names. Both are public
names: add, do not rename. A phase's time counts up to the first token only, as in the TTFT budget.
"""

from typing import Literal, NamedTuple

ColumnType = Literal["DOUBLE", "BIGINT", "VARCHAR", "BOOLEAN"]


class Column(NamedTuple):
    """One fact or evidence column."""

    type: ColumnType
    unit: str
    """``ratio`` is a share in 0..1; empty for names and plain counts without a unit."""
    label: str
    """A few words for a sentence in a report."""
    meaning: str


_TIMED = {
    "ttft": "arrival to first token",
    "preprocess": "arrival to the hand-over to the engine, before the first token",
    "queue": "waiting for the scheduler, before the first token",
    "encode": "vision and audio tower with adapter, before the first token",
    "prefill": "prompt through the language model, without the encoder's part",
}
_PHASES_IN_TTFT = ("preprocess", "queue", "encode", "prefill")


def _times() -> dict[str, Column]:
    facts: dict[str, Column] = {}
    for name, meaning in _TIMED.items():
        for statistic, word in (("p50", "median"), ("mean", "mean")):
            facts[f"{name}_ms_{statistic}"] = Column(
                "DOUBLE",
                "ms",
                f"{word} {name.upper() if name == 'ttft' else name} time",
                f"{word} over requests with a first token (a request without the phase counts 0): {meaning}",
            )
    for phase in _PHASES_IN_TTFT:
        facts[f"{phase}_share_of_ttft_p50"] = Column(
            "DOUBLE",
            "ratio",
            f"median {phase} share of TTFT",
            f"median over requests with a first token of {phase} time / TTFT of the same request",
        )
    return facts


FACTS: dict[str, Column] = {
    "engine": Column("VARCHAR", "", "engine", "transformers, vllm or sglang, as recorded"),
    "engine_version": Column("VARCHAR", "", "engine version", "version of the engine, as recorded"),
    "device_kind": Column("VARCHAR", "", "device kind", "cuda or cpu: where the model runs"),
    "cpu_cores": Column("BIGINT", "cores", "CPU cores", "CPU cores open to the inference process"),
    "kv_cache_dtype": Column(
        "VARCHAR", "", "KV data type", "data type of the KV cache, for example bfloat16"
    ),
    "n_requests": Column("BIGINT", "requests", "requests", "requests with status ok and a first token"),
    **_times(),
    "tpot_ms_p50": Column(
        "DOUBLE",
        "ms",
        "median TPOT",
        "median over requests with two or more output tokens of time per output token",
    ),
    "tpot_ms_mean": Column("DOUBLE", "ms", "mean TPOT", "mean over the same requests as tpot_ms_p50"),
    "preprocess_cpu_share": Column(
        "DOUBLE",
        "ratio",
        "CPU share of preprocess time",
        "sum of preprocess CPU time / sum of preprocess durations, over requests that recorded both; the rest is"
        " waiting for downloads or for a CPU worker. Above 1 when more than one thread worked",
    ),
    "encode_mfu": Column(
        "DOUBLE",
        "ratio",
        "encoder's share of peak compute",
        "FLOP/s reached over the steps that encoded (or the encode spans) / attainable peak of the roof in use",
    ),
    "encode_floor_ratio": Column(
        "DOUBLE",
        "ratio",
        "encoder's floor time over measured time",
        "sum of roofline floor times of encode work / sum of its measured times",
    ),
    "visual_tokens_per_image_p95": Column(
        "DOUBLE",
        "tokens",
        "visual tokens per image at p95",
        "95th percentile over requests with images of image tokens / images, each request once",
    ),
    "visual_token_share": Column(
        "DOUBLE",
        "ratio",
        "visual share of prompt tokens",
        "sum of image and video tokens / sum of prompt tokens",
    ),
    "visual_tokens_over_4096_share": Column(
        "DOUBLE",
        "ratio",
        "visual tokens beyond 4096 per image",
        "sum over requests of max(0, image tokens - 4096 x images) / sum of image and video tokens:"
        " the part that a cap of 4096 tokens per image removes",
    ),
    "output_tokens_p50": Column(
        "DOUBLE", "tokens", "median output tokens", "median over requests of output tokens"
    ),
    "kv_visual_share": Column(
        "DOUBLE",
        "ratio",
        "visual share of KV held",
        "token-seconds of visual KV / token-seconds of all KV held",
    ),
    "kv_read_share": Column(
        "DOUBLE",
        "ratio",
        "KV share of decode bytes",
        "KV bytes read by decode / all bytes that decode moved (cost model)",
    ),
    "unexplained_requests_share": Column(
        "DOUBLE",
        "ratio",
        "requests with over 25 % of TTFT unexplained",
        "share of the requests with a first token in which |unexplained| > 0.25 x TTFT",
    ),
    "unexplained_share_of_ttft": Column(
        "DOUBLE",
        "ratio",
        "unexplained share of TTFT",
        "sum of unexplained / sum of TTFT over requests with a first token",
    ),
}
"""Every fact that a rule may use in ``when``, ``unless``, ``saving`` and ``applies.requires``."""

EVIDENCE_COLUMNS: dict[str, dict[str, Column]] = {
    "requests": {
        "trace_id": Column("VARCHAR", "", "trace", "trace id, hexadecimal"),
        "request_id": Column("VARCHAR", "", "request", "the engine's or the caller's request id"),
        "start_unix_nano": Column("BIGINT", "ns", "arrival", "arrival, Unix time"),
        "model": Column("VARCHAR", "", "model", "model asked for"),
        "n_text_tokens": Column("BIGINT", "tokens", "text tokens", "prompt positions filled from text"),
        "n_visual_tokens": Column(
            "BIGINT", "tokens", "visual tokens", "positions filled from images and video"
        ),
        "n_output_tokens": Column("BIGINT", "tokens", "output tokens", "generated tokens"),
        "n_images": Column("BIGINT", "items", "images", "images in the prompt"),
        "cached_tokens": Column(
            "BIGINT", "tokens", "cached tokens", "prompt tokens found in the prefix cache"
        ),
        "queue_ms": Column("DOUBLE", "ms", "queue", "queue time before the first token"),
        "preprocess_ms": Column("DOUBLE", "ms", "preprocess", "preprocess time before the first token"),
        "encode_ms": Column("DOUBLE", "ms", "encode", "encode time before the first token"),
        "prefill_ms": Column("DOUBLE", "ms", "prefill", "prefill time before the first token"),
        "unexplained_ms": Column(
            "DOUBLE", "ms", "unexplained", "TTFT minus its phases, overlap counted once"
        ),
        "ttft_ms": Column("DOUBLE", "ms", "TTFT", "arrival to first token; NULL without one"),
        "tpot_ms": Column("DOUBLE", "ms", "TPOT", "time per output token after the first"),
        "kv_bytes": Column("BIGINT", "B", "KV bytes", "KV bytes of the request at its end"),
        "kv_visual_bytes": Column("BIGINT", "B", "visual KV bytes", "the image and video part of kv_bytes"),
    },
}
"""Tables that ``evidence.from`` may name, with the columns that rules may read; one row per ok request.

The analyzer may leave out a column that it does not have: it is NULL for the rule then.
"""
