"""What is common to OTLP over HTTP and gRPC: the answer to a message, the endpoint's address, token and certificates."""

import ipaddress
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import SplitResult, urlsplit

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.util.re import parse_env_headers

from vtprof_agent.export.destination import Outcome
from vtprof_agent.export.parcel import Parcel, Signal
from vtprof_agent.export.proxies import Proxy
from vtprof_schemas.errors import ConfigError

MOST_TOKEN_BYTES = 64 * 1024
_ENV = "OTEL_EXPORTER_OTLP_"


@dataclass(frozen=True)
class Answer:
    """What became of a message."""

    outcome: Outcome
    reason: str = ""
    rejected: int = 0
    """Of a message that was taken: spans or metric points that the endpoint would not have."""
    wait_s: float | None = None
    """How long the endpoint asks to be left alone."""
    advice: str = ""
    """What the user can do, where the failure tells; it does not pass by itself then."""
    too_large: bool = False
    """Of a message that was refused: for its size, so that its parts may be taken."""
    sure: bool = True
    """Of a message that was taken: whether it was by a receiver of OTLP, as far as its answer tells."""


class Transport(Protocol):
    """Delivers one message at a time."""

    target: str
    proxy: Proxy | None
    """Through which messages go; None: straight to the endpoint."""

    def send(self, parcel: Parcel) -> Answer:
        """Deliver a message and say what became of it."""

    def close(self) -> None:
        """Release the connection; a ``send`` under way returns soon."""


def route(transport: Transport) -> str:
    """Return where messages go, and through which proxy."""
    return transport.target + (f" through the proxy {transport.proxy.url}" if transport.proxy else "")


def parse_endpoint(endpoint: str, example: str) -> SplitResult:
    """Return the parts of an http(s) URL; raises ConfigError, naming an example."""
    try:
        parts = urlsplit(endpoint)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a bracket that is not closed, a port out of range
        sound = False
    if not sound or not endpoint.isprintable() or " " in endpoint:
        raise ConfigError(f"--otlp-endpoint {endpoint!r}: not an http(s) URL; give one such as {example}")
    if "?" in endpoint or "#" in endpoint:
        raise ConfigError(
            f"--otlp-endpoint {endpoint!r}: a query (from ? on) or fragment (from # on) is not taken; give a URL"
            f" without, such as {example}"
        )
    return parts


def shown(endpoint: SplitResult) -> str:
    """Return an endpoint as it may be logged: without user and password."""
    return endpoint._replace(netloc=endpoint.netloc.rpartition("@")[2]).geturl()


def partial_success(signal: Signal, body: bytes) -> tuple[str, int] | None:
    """Return what an endpoint says of a message that it took, and how many spans or points of it it rejected.

    None: the body is not OTLP's answer in protobuf.
    """
    try:
        if signal is Signal.TRACES:
            spans = ExportTraceServiceResponse.FromString(body).partial_success
            return spans.error_message, max(0, spans.rejected_spans)
        points = ExportMetricsServiceResponse.FromString(body).partial_success
        return points.error_message, max(0, points.rejected_data_points)
    except DecodeError:
        return None


class TokenFile:
    """A bearer token in a file, read again when the file changes."""

    def __init__(self, path: Path, endpoint: SplitResult) -> None:
        """Read it; raises ConfigError when that fails, or when it would cross the network unencrypted."""
        if endpoint.scheme != "https" and not _is_loopback(endpoint.hostname or ""):
            raise ConfigError(
                f"--otlp-token-file {path}: the token would cross the network unencrypted to"
                f" {shown(endpoint)}; give an https:// endpoint"
            )
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._token = ""
        try:
            self._read()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(
                f"--otlp-token-file {path}: cannot be used: {reason}; give a file with one token"
            ) from error

    def authorization(self) -> str:
        """Return the value of the Authorization header; while the file cannot be read, that of its last token."""
        try:
            self._read()
        except (OSError, ValueError):
            self._seen = None  # a file that is being replaced is read with the next message
        return f"Bearer {self._token}"

    def _read(self) -> None:
        found = self._path.stat()
        seen = (found.st_mtime_ns, found.st_ino, found.st_size)
        if seen == self._seen:
            return
        if found.st_size > MOST_TOKEN_BYTES:
            raise ValueError("too large for a token")
        token = self._path.read_text("ascii").strip()
        if not token or not token.isprintable() or " " in token:
            raise ValueError("not a token")
        self._token, self._seen = token, seen


@dataclass(frozen=True)
class Certificates:
    """PEM files for TLS; None: what the library trusts by itself, and no certificate of our own."""

    ca_file: str | None = None
    client_file: str | None = None
    client_key_file: str | None = None


def certificates(
    signal: Signal, ca_file: Path | None = None, env: Mapping[str, str] = os.environ
) -> Certificates:
    """Return the certificates for a signal, as OTEL_EXPORTER_OTLP_[TRACES_|METRICS_]CERTIFICATE, CLIENT_… say.

    Raises ConfigError for a file that cannot be read, or holds nothing of the kind.
    """

    def setting(name: str) -> str | None:
        return env.get(f"{_ENV}{signal.name}_{name}") or env.get(_ENV + name) or None

    found = Certificates(
        str(ca_file) if ca_file else setting("CERTIFICATE"),
        setting("CLIENT_CERTIFICATE"),
        setting("CLIENT_KEY"),
    )
    for path in (found.ca_file, found.client_file, found.client_key_file):
        if path is not None and not (Path(path).is_file() and os.access(path, os.R_OK)):
            raise ConfigError(f"{path}: certificate file for OTLP cannot be read; correct its path or rights")
    if found.ca_file is not None and (problem := no_certificates(Path(found.ca_file))):
        raise ConfigError(f"{found.ca_file}: {problem}; give the certificates to trust for OTLP, in PEM")
    if found.client_file is not None and (problem := _no_pair(found.client_file, found.client_key_file)):
        raise ConfigError(
            f"{found.client_file}: {problem}; give a certificate for OTLP and its key, without a passphrase, in PEM"
        )
    return found


def no_certificates(path: Path) -> str | None:
    """Return why a file cannot serve as a list of certificates to trust, None when it can."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(path)
    except ssl.SSLError:
        return "holds no certificate"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None if context.cert_store_stats()["x509"] else "holds no certificate"


def _no_pair(client_file: str, key_file: str | None) -> str | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_cert_chain(client_file, key_file, password=lambda: "")
    except (OSError, ValueError) as error:  # SSLError is an OSError
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or "unreadable"
        return f"cannot be used ({str(reason).replace('_', ' ').lower()})"
    return None


def headers(signal: Signal, env: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the headers for a signal, names in lower case, as OTEL_EXPORTER_OTLP_[TRACES_|METRICS_]HEADERS say."""
    text = env.get(f"{_ENV}{signal.name}_HEADERS") or env.get(f"{_ENV}HEADERS", "")
    return dict(parse_env_headers(text, liberal=True))


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
