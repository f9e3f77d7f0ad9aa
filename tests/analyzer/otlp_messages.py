"""OTLP protobuf for tests: documents of ``otlp_builder`` as messages, made by protobuf's own library, and framings."""

import base64
import struct
from typing import Any

from google.protobuf.json_format import ParseDict
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

_REQUESTS = {
    "resourceSpans": ExportTraceServiceRequest,
    "resourceMetrics": ExportMetricsServiceRequest,
    "resourceLogs": ExportLogsServiceRequest,
}
_IDS = ("traceId", "spanId", "parentSpanId")


def _with_base64_ids(item: Any) -> Any:
    """Return a document as protobuf's JSON has it: OTLP's own writes ids in hex."""
    if isinstance(item, list):
        return [_with_base64_ids(each) for each in item]
    if not isinstance(item, dict):
        return item
    return {
        key: base64.b64encode(bytes.fromhex(value)).decode() if key in _IDS else _with_base64_ids(value)
        for key, value in item.items()
    }


def message(document: dict[str, Any]) -> bytes:
    (signal,) = document
    data: bytes = ParseDict(_with_base64_ids(document), _REQUESTS[signal]()).SerializeToString()
    return data


def varint(number: int) -> bytes:
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def length32(*messages: bytes) -> bytes:
    """Frame messages as the Collector's file exporter does with ``format: proto``."""
    return b"".join(struct.pack(">I", len(each)) + each for each in messages)


def delimited(*messages: bytes) -> bytes:
    """Frame messages as ``writeDelimitedTo`` of the protobuf libraries does."""
    return b"".join(varint(len(each)) + each for each in messages)


def whole(*messages: bytes) -> bytes:
    """Put messages on end: protobuf merges them into one."""
    return b"".join(messages)


FRAMINGS = {"length32": length32, "varint": delimited, "whole": whole}
