"""Tells whether a port speaks TLS, and HTTP/2 within, by what it answers to a TLS client; certificates are not judged."""

import socket
import ssl
from contextlib import suppress
from typing import Final

_TLS_RECORDS: Final = (0x15, 0x16)
"""Alert and handshake (RFC 8446, 5.1): a server answers a greeting with one of them."""
_PROTOCOLS: Final = ("h2", "http/1.1")
_VERSION: Final = 0x03
"""The first byte of a record's version, the same since SSL 3."""


def speaks_tls(host: str, port: int, timeout_s: float) -> bool | None:
    """Greet a port as a TLS client does; None: it says nothing, or ends the connection. Raises OSError: nobody is there."""
    with socket.create_connection((host, port), timeout_s) as connection:
        answer = b""
        with suppress(OSError):  # a reset, or nothing in time
            connection.sendall(_greeting(host))
            while len(answer) < 2 and (more := connection.recv(2 - len(answer))):
                answer += more
    if not answer:
        return None
    return answer[0] in _TLS_RECORDS and answer[1:] == bytes((_VERSION,))


def speaks_http2(host: str, port: int, timeout_s: float) -> bool:
    """Tell whether a port that speaks TLS chooses HTTP/2 when it is offered; False also where there is no handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(_PROTOCOLS)
    try:
        with (
            socket.create_connection((host, port), timeout_s) as connection,
            context.wrap_socket(connection, server_hostname=host) as secured,
        ):
            return secured.selected_alpn_protocol() == _PROTOCOLS[0]
    except (OSError, ValueError):
        return False


def _greeting(host: str) -> bytes:
    """Return the first message of a handshake; HTTP/2 is among what it offers, which gRPC insists on."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(_PROTOCOLS)
    sent = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=host).do_handshake()
    return sent.read()
