"""OTLP over gRPC: generic calls with ready-made messages. Needs grpcio, which is imported only when it is asked for."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vtprof_agent.diagnosis import BROKEN_OFF, TO_HTTP, of_text
from vtprof_agent.export.destination import Outcome
from vtprof_agent.export.parcel import MAX_MESSAGE_BYTES, Parcel, Signal
from vtprof_agent.export.proxies import Proxy, of_grpc
from vtprof_agent.export.transport import (
    Answer,
    Certificates,
    TokenFile,
    certificates,
    headers,
    parse_endpoint,
    partial_success,
    shown,
)
from vtprof_schemas.errors import ConfigError

if TYPE_CHECKING:
    import grpc

_METHODS: Final = {
    Signal.TRACES: "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    Signal.METRICS: "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
}
_PORT: Final = 4317
_REFUSALS: Final = frozenset(("INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION"))
"""Codes that speak of the message; all others are of an endpoint that is away, not ready, or not yet ours."""
_RECONNECT_MS: Final = 5000
"""A Collector that comes back is looked for so often at least; the pauses between calls are our own."""
_ADVICE: Final = {
    "UNAUTHENTICATED": "set otlp_token_file",
    "UNIMPLEMENTED": f"nothing takes OTLP traces over gRPC there: {TO_HTTP}",
}
_LAST_ERROR: Final = "last error: "
"""Before it stands what gRPC says of every failed connection."""
_NO_TUNNEL: Final = re.compile(r"HTTP proxy returned response code (\d{3})")
_NO_NAME: Final = "errors resolving"
"""What is said where a name has no address: with a proxy it is the proxy's, which looks up the endpoint itself."""
_MOST_DETAILS: Final = 120
"""Characters of what the endpoint says that are logged."""
_TOO_LARGE: Final = "larger than max"
"""What gRPC libraries say with RESOURCE_EXHAUSTED when it is the message, not the endpoint, that is too much."""


class GrpcTransport:
    """One channel to an endpoint; headers and certificates may come from OTEL_EXPORTER_OTLP_*."""

    def __init__(
        self, endpoint: str, timeout_s: float, token_file: Path | None = None, ca_file: Path | None = None
    ) -> None:
        """Prepare; connects with the first message. Raises ConfigError."""
        try:
            import grpc
        except ImportError as error:
            raise ConfigError(
                "--otlp-protocol grpc needs the package grpcio; reinstall 'vtprof[agent]', or give http/protobuf"
            ) from error
        parts = parse_endpoint(endpoint, "http://collector:4317")
        if parts.path.strip("/"):
            raise ConfigError(
                f"--otlp-endpoint {endpoint!r}: gRPC has no path; give {shown(parts._replace(path=''))}, with the port"
                f" of OTLP over gRPC, {_PORT} as a rule, or --otlp-protocol http/protobuf"
            )
        self.target = shown(parts)
        self._timeout_s = timeout_s
        self._token = None if token_file is None else TokenFile(token_file, parts)
        self._metadata = {signal: list(headers(signal).items()) for signal in Signal}
        self._grpc = grpc
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        address = f"{host}:{parts.port or _PORT}"
        options = [
            ("grpc.initial_reconnect_backoff_ms", 500),
            ("grpc.min_reconnect_backoff_ms", 500),
            ("grpc.max_reconnect_backoff_ms", _RECONNECT_MS),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ("grpc.primary_user_agent", "vtprof-agent"),
        ]
        self.proxy = of_grpc(parts.hostname or "", os.environ)
        if parts.scheme == "https":
            secret = _credentials(certificates(Signal.TRACES, ca_file))
            self._channel = grpc.secure_channel(address, secret, options, grpc.Compression.Gzip)
        else:
            if self._token is not None:
                self.proxy = None
                options.append(("grpc.enable_http_proxy", 0))  # a proxy would see the token
            self._channel = grpc.insecure_channel(address, options, grpc.Compression.Gzip)
        self._calls = {signal: self._channel.unary_unary(method) for signal, method in _METHODS.items()}

    def send(self, parcel: Parcel) -> Answer:
        """Make one call."""
        metadata = list(self._metadata[parcel.signal])
        if self._token is not None:
            metadata = [item for item in metadata if item[0] != "authorization"]
            metadata.append(("authorization", self._token.authorization()))
        try:
            message = parcel.message()
        except ValueError as error:
            return Answer(Outcome.REFUSED, f"a message that is {error}")
        try:
            body = self._calls[parcel.signal](message, timeout=self._timeout_s, metadata=metadata)
        except self._grpc.RpcError as error:
            return _failure(parcel.signal, error, self.proxy)
        except ValueError as error:  # the channel is closed
            return Answer(Outcome.RETRY, str(error))
        return Answer(Outcome.DELIVERED, *(partial_success(parcel.signal, body) or ()))

    def close(self) -> None:
        """Close the channel, which breaks off a call under way."""
        self._channel.close()


def _credentials(found: Certificates) -> "grpc.ChannelCredentials":
    import grpc

    def content(path: str | None) -> bytes | None:
        return None if path is None else Path(path).read_bytes()

    return grpc.ssl_channel_credentials(
        content(found.ca_file), content(found.client_key_file), content(found.client_file)
    )


def _failure(signal: Signal, error: Any, proxy: Proxy | None) -> Answer:
    code = error.code().name
    details = error.details() or ""
    fault = of_text(details) if code == "UNAVAILABLE" else None
    if fault is BROKEN_OFF and proxy is not None:
        return Answer(Outcome.RETRY, f"it or the proxy {fault.what}", advice=proxy.advice)
    if fault is not None:
        return Answer(Outcome.RETRY, fault.what, advice=fault.advice)
    if proxy is not None and code == "UNAVAILABLE" and (refused := _NO_TUNNEL.search(details)):
        what, advice = proxy.refusal(int(refused[1]))
        return Answer(Outcome.RETRY, what, advice=advice)
    told = " ".join(details.rpartition(_LAST_ERROR)[2].split())
    if proxy is not None and code == "UNAVAILABLE" and (_LAST_ERROR in details or _NO_NAME in details):
        return Answer(
            Outcome.RETRY, f"the proxy cannot be used ({told[:_MOST_DETAILS]})", advice=proxy.advice
        )
    reason = f"gRPC {code}: {told[:_MOST_DETAILS]}"
    if code == "RESOURCE_EXHAUSTED" and _TOO_LARGE in details:
        return Answer(Outcome.REFUSED, reason, too_large=True)
    if code in _REFUSALS:
        return Answer(Outcome.REFUSED, reason)
    if code == "UNIMPLEMENTED" and signal is Signal.METRICS:
        return Answer(Outcome.REFUSED, reason)
    return Answer(Outcome.RETRY, reason, wait_s=_asked_s(error), advice=_ADVICE.get(code, ""))


def _asked_s(error: Any) -> float | None:
    """Return the pause that the endpoint asks for in the status details (google.rpc.RetryInfo)."""
    from google.protobuf.message import DecodeError
    from google.rpc.error_details_pb2 import RetryInfo
    from google.rpc.status_pb2 import Status

    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            info = RetryInfo()
            try:
                for detail in Status.FromString(value).details:
                    if detail.Unpack(info):
                        return float(max(0.0, info.retry_delay.seconds + info.retry_delay.nanos / 1e9))
            except DecodeError:
                return None
    return None
