"""OTLP in JSON: protobuf's own JSON but for the ids, which are hexadecimal; what would cost too much memory is refused."""

import base64
import json
from typing import Any, Final

from google.protobuf.json_format import ParseDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from vtprof_agent.receiver.intake import TooLarge
from vtprof_schemas.printable import one_line

MAX_VALUES: Final = 500_000
"""Brackets and commas of a request: a value may be two bytes on the wire and is some hundred as an object. Spans of
attributes of the shortest kind have 400,000 in as many bytes as a request may have."""
_IDS: Final = frozenset(("traceId", "spanId", "parentSpanId"))


def parse_json(body: bytes) -> ExportTraceServiceRequest:
    """Parse a request; raises TooLarge, or ValueError for what is no OTLP."""
    if sum(map(body.count, (b"[", b"{", b","))) > MAX_VALUES:
        raise TooLarge(f"more than {MAX_VALUES} values in one request")
    request = ExportTraceServiceRequest()
    try:
        document = json.loads(body, object_hook=_ids_to_base64)
        if not isinstance(document, dict):
            raise ValueError("not an object")
        ParseDict(document, request, ignore_unknown_fields=True)
    except (
        Exception
    ) as error:  # the parsers raise more kinds than they say: RecursionError, AttributeError, …
        raise ValueError(one_line(str(error), 200)) from error
    return request


def _ids_to_base64(value: dict[str, Any]) -> dict[str, Any]:
    for key in _IDS & value.keys():
        if isinstance(value[key], str):
            value[key] = base64.b64encode(bytes.fromhex(value[key])).decode()
    return value
