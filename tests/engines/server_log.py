"""What vLLM says of itself: the steps in its log, the counters of its ``/metrics``, its own spans of requests."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from capture import get, spans

ITERATION: Final = re.compile(
    r"Iteration\((\d+)\): (\d+) context requests, (\d+) context tokens, (\d+) generation requests, (\d+) generation tokens"
    r"(?:.*?encoder inputs: (\d+), encoder output embeddings: (\d+))?"
)
SAMPLE: Final = re.compile(r"^(vllm:\w+)(?:\{([^}]*)\})? (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Iteration:
    """One step as `--enable-logging-iteration-details` logs it."""

    index: int
    context_requests: int
    context_tokens: int
    generation_requests: int
    generation_tokens: int
    encoder_inputs: int
    encoder_tokens: int


def iterations(log: str) -> list[Iteration]:
    """Return the steps of a log, in their order."""
    return [
        Iteration(*(int(text or 0) for text in match.groups()))
        for line in log.splitlines()
        if (match := ITERATION.search(line))
    ]


def metrics(port: int) -> dict[str, float]:
    """Return the server's counters by name, summed over labels; buckets are left out."""
    totals: dict[str, float] = {}
    for name, _labels, value in SAMPLE.findall(get(port, "/metrics")[1].decode()):
        if not name.endswith(("_bucket", "_created")):
            totals[name] = totals.get(name, 0.0) + float(value)
    return totals


def engine_ttft_ns(exports: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Return what vLLM's own spans say of arrival to first token, by request id; the first of each id."""
    found: dict[str, int] = {}
    for export in exports:
        for span in spans(dict(export)):
            values = {item["key"]: item["value"] for item in span["attributes"]}
            seconds = values.get("gen_ai.latency.time_to_first_token")
            if span["name"] == "llm_request" and seconds is not None:
                found.setdefault(
                    values["gen_ai.request.id"]["stringValue"], round(float(seconds["doubleValue"]) * 1e9)
                )
    return found
