"""Says in words what is wrong between the agent and a server, and what to do, from what the libraries say of a failure."""

import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import BadStatusLine, LineTooLong, RemoteDisconnected, UnknownProtocol
from typing import Final


@dataclass(frozen=True)
class Fault:
    """What is wrong with a server."""

    what: str
    advice: str
    """What to do where it is the OTLP endpoint."""


BASE_URL: Final = "give the base URL of an OTLP receiver, as http://collector:4318"
TO_GRPC: Final = "set otlp_protocol to grpc, or give the port of OTLP over HTTP, 4318 as a rule"
TO_HTTP: Final = "set otlp_protocol to http/protobuf, or give the port of OTLP over gRPC, 4317 as a rule"
NO_TLS: Final = Fault("does not speak TLS, as https:// asks for", "give http://, or turn TLS on there")
TLS: Final = Fault("speaks TLS, which http:// does not", "give https://, or turn TLS off there")
HTTP2_ONLY: Final = Fault("speaks HTTP/2 only, as gRPC does, and not HTTP/1.1", TO_GRPC)
NO_HTTP: Final = Fault("does not speak HTTP", BASE_URL)
NO_OTLP: Final = Fault("answers as a web server does, not as OTLP asks", BASE_URL)
NOT_SURE: Final = Fault(
    "answers with success, but not as an OTLP receiver does, which names application/x-protobuf",
    "see whether spans arrive; if none do, " + BASE_URL,
)
"""Some receivers answer so too: no fault, and messages count as delivered."""
NO_GRPC: Final = Fault("does not speak gRPC", TO_HTTP)
_EXPIRED: Final = Fault("its certificate has expired", "renew it there, or set this machine's clock")
_NOT_YET: Final = Fault(
    "its certificate is not valid yet", "set the clock of this machine, or renew it there"
)
_OTHER_HOST: Final = Fault(
    "its certificate is of another host",
    "give the host name that it was made for, or renew it there with this one",
)
_UNKNOWN_CA: Final = Fault(
    "its certificate is signed by nobody who is trusted here",
    "give the certificate of that CA with otlp_ca_file",
)
_NO_CLIENT: Final = Fault(
    "asks for a client certificate", "name one in OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and …_CLIENT_KEY"
)
BROKEN_OFF: Final = Fault(
    "ends the connection without an answer",
    "if it goes on, `vtprof-agent doctor` with the same settings looks closer",
)
_SAID: Final = (
    ("certificate has expired", _EXPIRED),
    ("certificate is not yet valid", _NOT_YET),
    ("ip address mismatch", _OTHER_HOST),
    ("hostname mismatch", _OTHER_HOST),
    ("hostname verification check failed", _OTHER_HOST),
    ("is not in peer certificate", _OTHER_HOST),
    ("certificate_verify_failed", _UNKNOWN_CA),
    ("certificate_required", _NO_CLIENT),
    ("wrong_version_number", NO_TLS),
    ("record_layer_failure", NO_TLS),
    ("failed parsing http/2", NO_GRPC),
    ("http1.x server", NO_GRPC),
    ("missing selected alpn property", NO_GRPC),
    ("socket closed", BROKEN_OFF),
    ("connection reset", BROKEN_OFF),
)
"""What OpenSSL, BoringSSL and gRPC say, in lower case; the first that is found holds."""
_PLAIN_TO_TLS: Final = (
    b"HTTP request to an HTTPS server",  # Go, as the Collector
    b"plain HTTP request was sent to HTTPS port",  # nginx
    b"speaking plain HTTP to an SSL-enabled server port",  # Apache
)
_SETTINGS: Final = "\x00\x00", "\x04"
"""A server of HTTP/2 begins with a frame of settings: three bytes of length, then the kind (RFC 9113, 4.1 and 6.5)."""
_TLS_ALERT: Final = "\x15\x03"
_NO_PROTOCOL: Final = "no_application_protocol"
"""TLS's alert to a client that offers HTTP/1.1 alone."""


def of_text(text: str) -> Fault | None:
    """Return the fault that a library's words speak of; None: they tell no more than themselves."""
    said = text.lower()
    return next((fault for words, fault in _SAID if words in said), None)


def of_error(error: BaseException) -> Fault | None:
    """Return the fault behind an exception of requests, None when it tells none."""
    for inner in causes(error):
        if isinstance(inner, RemoteDisconnected | ssl.SSLEOFError):
            return BROKEN_OFF
        if isinstance(inner, BadStatusLine):
            line = str(inner.args[0])
            if line.startswith(_SETTINGS[0]) and line[3:4] == _SETTINGS[1]:
                return HTTP2_ONLY
            if line.startswith(_TLS_ALERT):
                return TLS
            return NO_HTTP
        if isinstance(inner, LineTooLong | UnknownProtocol):
            return NO_HTTP
        if isinstance(inner, ssl.SSLError) and _NO_PROTOCOL in str(inner).lower():
            return HTTP2_ONLY
        if isinstance(inner, OSError) and (fault := of_text(str(inner))) is not None:
            return fault
    return None


def is_plain_to_tls(body: bytes) -> bool:
    """Tell whether a server answers that it was spoken to without TLS."""
    return any(words in body for words in _PLAIN_TO_TLS)


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and those within it, the innermost last: requests wraps several times."""
    seen: set[int] = set()
    inner: BaseException | None = error
    while inner is not None and id(inner) not in seen:
        seen.add(id(inner))
        yield inner
        within = (one for one in inner.args if isinstance(one, BaseException))
        inner = inner.__cause__ or inner.__context__ or next(within, None)
