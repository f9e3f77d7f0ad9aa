"""HTTP sessions whose read timeout is one for the whole answer, its headers among it, however slowly its bytes drip."""

import http.client
import io
import socket
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from vtprof_agent.receiver.deadline import DeadlineReader


def limit_answers(session: requests.Session) -> requests.Session:
    """Have every answer in the session read within the timeout of its request, as a whole; return the session."""
    for scheme in ("http://", "https://"):
        session.mount(scheme, _Adapter())
    return session


class _Answer(DeadlineReader):
    """The receiving side of a connection for one answer; the connection lives as long, whoever closed it before."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(connection)
        self._held = connection.makefile("rb", buffering=0)
        # urllib3 has just set it to what the request may wait for its answer.
        self.allow(connection.gettimeout() or 0.0)

    def close(self) -> None:
        self._held.close()
        super().close()


class _Connection:
    """What ``http.client`` asks of a connection to read an answer."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def makefile(self, mode: str) -> io.BufferedReader:
        assert mode == "rb"
        return io.BufferedReader(_Answer(self._connection))


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(_Connection(sock), *args, **kwargs)  # type: ignore[arg-type]  # only ``makefile`` is used


class _Http(HTTPConnection):
    response_class = _Response


class _Https(HTTPSConnection):
    response_class = _Response


class _Adapter(HTTPAdapter):
    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> HTTPConnectionPool:
        pool = super().get_connection_with_tls_context(*args, **kwargs)
        pool.ConnectionCls = _Https if isinstance(pool, HTTPSConnectionPool) else _Http
        return pool
