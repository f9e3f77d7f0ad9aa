"""Random OTLP documents, valid ones: spans, metrics and logs, with known, unknown and nested attributes."""

import random
from collections.abc import Callable
from typing import Any, Final

from vtprof_schemas import names

BASE_NS: Final = 1_795_000_000_000_000_000
SPAN_NS: Final = 3_600_000_000_000
"""Spans begin within an hour of ``BASE_NS``."""
SPANS_PER_DOCUMENT: Final = 4
Json = dict[str, Any]

_SPAN_NAMES: Final = (names.SPAN_REQUEST, names.SPAN_STEP, *names.PHASE_SPANS.values(), "GET /health")
_COUNTED: Final = (names.INPUT_TOKENS, names.OUTPUT_TOKENS, names.PREFILL_TOKENS, names.STEP_INDEX)
_TEXTS: Final = ("Qwen/Qwen2.5-VL-3B-Instruct", "", "模型", 'a "quoted" \\ one', "x" * 300, "{}[]\t\u2028")


def value(raw: Any) -> Json:
    """Wrap a Python value as OTLP's AnyValue: 64-bit integers are text in JSON."""
    if isinstance(raw, bool):
        return {"boolValue": raw}
    if isinstance(raw, int):
        return {"intValue": str(raw)}
    if isinstance(raw, float):
        return {"doubleValue": raw}
    if isinstance(raw, list):
        return {"arrayValue": {"values": [value(item) for item in raw]}}
    if isinstance(raw, dict):
        return {"kvlistValue": {"values": attributes(raw)}}
    return {"stringValue": raw}


def attributes(given: Json) -> list[Json]:
    """Return attributes as OTLP has them."""
    return [{"key": key, "value": value(raw)} for key, raw in given.items()]


def document(dice: random.Random) -> Json:
    """Return one document: mostly of spans, now and then of metrics or logs."""
    signal = dice.choices(("spans", "metrics", "logs"), (8, 1, 1))[0]
    return {"spans": _traces, "metrics": _metrics, "logs": _logs}[signal](dice)


def _resource(dice: random.Random) -> Json:
    given: Json = {names.SERVICE_INSTANCE_ID: f"engine-{dice.randrange(3)}", names.HOST_NAME: "node"}
    if dice.random() < 0.3:
        given["k8s.pod.labels"] = {"app": "vllm", "replicas": 2}
    return {"attributes": attributes(given)}


def _traces(dice: random.Random) -> Json:
    spans = [_span(dice) for _ in range(dice.randint(1, SPANS_PER_DOCUMENT))]
    for made in spans[1:]:
        made["traceId"] = spans[0]["traceId"]
        if dice.random() < 0.7:
            made["parentSpanId"] = spans[0]["spanId"]
    scopes = [{"scope": {"name": "vtprof"}, "spans": spans}]
    return {"resourceSpans": [{"resource": _resource(dice), "scopeSpans": scopes}]}


def _span(dice: random.Random) -> Json:
    start = BASE_NS + dice.randrange(SPAN_NS)
    made: Json = {
        "traceId": f"{dice.randrange(1, 2**128):032x}",
        "spanId": f"{dice.randrange(1, 2**64):016x}",
        "name": dice.choice(_SPAN_NAMES),
        "kind": dice.randint(1, 5),
        "startTimeUnixNano": str(start),
        "endTimeUnixNano": str(start + dice.randrange(10**10)),
        "attributes": attributes(_attributes(dice)),
        "status": dice.choice(({}, {"code": 2, "message": "oom"})),
    }
    if dice.random() < 0.3:
        made["links"] = [{"traceId": f"{dice.randrange(1, 2**128):032x}", "spanId": "00f067aa0ba902b7"}]
    if dice.random() < 0.2:
        made["events"] = [{"timeUnixNano": str(start), "name": "first token"}]
    return made


def _attributes(dice: random.Random) -> Json:
    found: Json = {key: dice.randrange(1, 50_000) for key in _COUNTED if dice.random() < 0.6}
    if dice.random() < 0.6:
        found[names.REQUEST_MODEL] = dice.choice(_TEXTS)
    if dice.random() < 0.4:
        found[names.STEP_RUNNING] = dice.random() * 100
    unknown: tuple[Callable[[], Any], ...] = (
        lambda: dice.random() < 0.5,
        lambda: [dice.randrange(9) for _ in range(dice.randrange(5))],
        lambda: {"a": {"b": [1, "two", 3.0]}},
        lambda: dice.choice(_TEXTS),
        lambda: -dice.randrange(2**63),
    )
    for number in range(dice.choice((0, 0, 1, 3))):
        found[f"custom.{number}"] = dice.choice(unknown)()
    items = list(found.items())
    dice.shuffle(items)
    return dict(items)


def _metrics(dice: random.Random) -> Json:
    points = [
        {"timeUnixNano": str(BASE_NS + dice.randrange(SPAN_NS)), "asDouble": dice.random() * 1e5}
        for _ in range(dice.randrange(1, 5))
    ]
    metric = {"name": dice.choice((names.GPU_POWER_MW, "process.cpu.time")), "gauge": {"dataPoints": points}}
    scopes = [{"scope": {}, "metrics": [metric]}]
    return {"resourceMetrics": [{"resource": _resource(dice), "scopeMetrics": scopes}]}


def _logs(dice: random.Random) -> Json:
    records = [{"timeUnixNano": str(BASE_NS), "body": {"stringValue": dice.choice(_TEXTS)}}]
    return {
        "resourceLogs": [{"resource": _resource(dice), "scopeLogs": [{"scope": {}, "logRecords": records}]}]
    }
