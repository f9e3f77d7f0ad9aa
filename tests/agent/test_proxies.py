"""A proxy of the environment is judged as the libraries judge that send, and told apart from the endpoint behind it."""

import logging
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import pytest
from collectors import Seen, batch, grpc_collector, http_collector, ids, make_certificate, speaking, wait_for

from vtprof_agent.cli.app import run
from vtprof_agent.config import Config
from vtprof_agent.endpoint_checks import Check, checks
from vtprof_agent.export.backoff import Backoff
from vtprof_agent.export.otlp import GRPC, HTTP, OtlpDestination, connect
from vtprof_agent.export.otlp_grpc import GrpcTransport
from vtprof_agent.export.parcel import Parcel, Signal, protobuf_spans

NAME = "collector.invalid"
"""A host that only a proxy can reach: no resolver knows it (RFC 2606)."""
NO_PROXY_ADVICE = "correct {} in the environment, or name the endpoint's host in no_proxy there"


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


class Proxy:
    """A proxy that takes everybody to one port, and keeps the request lines that it was sent."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.heard: list[str] = []
        self.answers: list[bytes] = []
        """What it answers first, each before it ends the connection."""
        self.url = ""

    def speak(self, client: socket.socket) -> None:
        """Serve one connection."""
        with client, suppress(OSError):
            heard = b""
            while b"\r\n\r\n" not in heard and (more := client.recv(1 << 16)):
                heard += more
            self.heard.append(heard.partition(b"\r\n")[0].decode())
            if self.answers:
                client.sendall(self.answers.pop(0))
                return
            with socket.create_connection(("127.0.0.1", self.port)) as endpoint:
                if heard.startswith(b"CONNECT "):
                    client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                else:
                    endpoint.sendall(heard)
                back = threading.Thread(target=_pour, args=(endpoint, client), daemon=True)
                back.start()
                _pour(client, endpoint)
                back.join()


def _pour(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while more := source.recv(1 << 16):
            sink.sendall(more)
        sink.shutdown(socket.SHUT_WR)


@contextmanager
def proxy_to(port: int) -> Iterator[Proxy]:
    proxy = Proxy(port)
    with speaking(proxy.speak) as proxy.url:
        yield proxy


def port_of(seen: Seen) -> int:
    return int(seen.url.rpartition(":")[2])


def asked(url: str, protocol: str, ca_file: Path | None = None) -> Check:
    """Return what `doctor` says of an endpoint."""
    config = Config(otlp_endpoint=url, otlp_protocol=protocol, otlp_ca_file=ca_file, spool_bytes=0)
    return checks(config, agent_runs=True)[0]


def status(code: int) -> bytes:
    return f"HTTP/1.1 {code} Told\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("protocol", [HTTP, GRPC])
def test_what_a_proxy_lets_through_arrives_and_doctor_and_log_name_it(
    protocol: str, tls: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    certificate, key = make_certificate(tmp_path, host=f"DNS:{NAME}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
    collector = (
        grpc_collector(tls=credentials if tls else None)
        if protocol == GRPC
        else http_collector(tls=context if tls else None)
    )
    trusted = certificate if tls else None
    with collector as seen, proxy_to(port_of(seen)) as proxy:
        url = f"http{'s' * tls}://{NAME}:4318"
        monkeypatch.setenv(
            "https_proxy" if tls else "http_proxy", proxy.url.replace("//", "//me:hidden@") + "/"
        )
        found = asked(url, protocol, trusted)
        assert (found.problem, found.target, found.proxy) == (None, url, proxy.url)
        caplog.set_level(logging.INFO)
        seen.away = True
        destination = OtlpDestination(url, protocol=protocol, ca_file=trusted, backoff=Backoff(0.01, 0.01))
        destination.submit(batch(1))
        wait_for(lambda: destination.problem)
        seen.away = False
        wait_for(lambda: seen.spans)
        wait_for(lambda: destination.problem is None)
        destination.close(20.0)
        assert seen.spans == ids(1)
        monkeypatch.setenv("VTPROF_AGENT_OTLP_CA_FILE", str(certificate))
        words = ["--otlp-endpoint", url, "--otlp-protocol", protocol, "--ring-dir", str(tmp_path / "r")]
        assert run(["doctor", *words]) == 0
    line = "POST http://" if protocol == HTTP and not tls else f"CONNECT {NAME}:4318 "
    assert proxy.heard and all(one.startswith(line) for one in proxy.heard)
    assert f"{url} through the proxy {proxy.url}: delivering again" in caplog.text
    shown = capsys.readouterr().out
    assert f"endpoint {url} through the proxy {proxy.url}: fine" in shown
    assert "hidden" not in caplog.text + shown


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("protocol", [HTTP, GRPC])
def test_doctor_goes_by_no_other_way_than_the_spans_will(
    protocol: str, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as endpoint, proxy_to(0) as proxy:
        endpoint.setblocking(False)
        proxy.answers = [status(407)] * 9
        monkeypatch.setenv(f"{scheme}_proxy", proxy.url)
        assert asked(f"{scheme}://127.0.0.1:{endpoint.getsockname()[1]}", protocol).problem == ASKS
        with pytest.raises(BlockingIOError):
            endpoint.accept()


ASKS = "the proxy asks for a user and a password"
REFUSES = "the proxy refuses with HTTP status 403"
EITHER = "HTTP status 403, of the proxy or from behind it"


@pytest.mark.parametrize(
    ("scheme", "protocol", "answer", "problem", "advice"),
    [
        ("http", HTTP, status(407), ASKS, "give them in {}, as http://USER:PASSWORD@HOST:PORT"),
        ("https", HTTP, status(407), ASKS, "give them in {}, as http://USER:PASSWORD@HOST:PORT"),
        ("http", GRPC, status(407), ASKS, "give them in {}, as http://USER:PASSWORD@HOST:PORT"),
        ("http", HTTP, status(403), EITHER, NO_PROXY_ADVICE),
        ("https", HTTP, status(403), REFUSES, NO_PROXY_ADVICE),
        ("http", GRPC, status(403), REFUSES, NO_PROXY_ADVICE),
        ("https", GRPC, status(403), REFUSES, NO_PROXY_ADVICE),
        ("http", HTTP, b"220 mail ESMTP\r\n", "the proxy does not speak HTTP", NO_PROXY_ADVICE),
        ("https", HTTP, b"220 mail ESMTP\r\n", "it or the proxy does not speak HTTP", NO_PROXY_ADVICE),
        ("http", HTTP, b"", "the proxy ends the connection without an answer", NO_PROXY_ADVICE),
        ("https", HTTP, b"", "it or the proxy ends the connection without an answer", NO_PROXY_ADVICE),
        ("http", GRPC, b"", "it or the proxy ends the connection without an answer", NO_PROXY_ADVICE),
    ],
)
def test_a_proxy_that_refuses_is_named_as_the_proxy_and_costs_no_span(
    scheme: str, protocol: str, answer: bytes, problem: str, advice: str,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """A 407 once counted as a word of the Collector about the message, which was dropped."""
    url = f"{scheme}://{NAME}:4318"
    advice = advice.format(f"{scheme}_proxy")
    with proxy_to(0) as proxy:
        monkeypatch.setenv(f"{scheme}_proxy", proxy.url)
        proxy.answers = [answer] * 1000
        assert asked(url, protocol).line() == (
            f"endpoint {url} through the proxy {proxy.url}: {problem}; nothing arrives: {advice}"
        )
        destination = OtlpDestination(url, protocol=protocol, backoff=Backoff(0.01, 0.01))
        destination.submit(batch(1))
        wait_for(lambda: destination.problem == problem)
        assert (destination.outbox.spans_dropped, destination.outbox.settled()) == (0, 0)
        destination.close(0.0)
    assert f"{url} through the proxy {proxy.url}: cannot deliver ({problem}; {advice})" in caplog.text


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("http://127.0.0.1:{}", "Connection refused"),
        ("127.0.0.1:{}", "Connection refused"),
        ("https://127.0.0.1:{}", "Connection refused"),
        ("http://nobody.invalid:{}", None),
        ("http://", "no URL"),
        ("http://[::1", "no URL"),
        ("http://me:hidden@[::1", "no URL"),
    ],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_is_not_there_or_no_url_is_named(
    scheme: str, named: str, said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if said is None:
        with pytest.raises(socket.gaierror) as unknown:
            socket.getaddrinfo("nobody.invalid", 1)
        said = unknown.value.strerror
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv(f"{scheme.upper()}_PROXY", named.format(port))
    found = asked(f"{scheme}://{NAME}:4318", HTTP)
    assert found.problem is not None and found.problem.startswith("the proxy cannot be used (")
    assert said in found.problem and "hidden" not in found.line()
    assert found.costs == f"nothing arrives: {NO_PROXY_ADVICE.format(f'{scheme.upper()}_PROXY')}"


def test_over_grpc_a_proxy_that_is_not_there_is_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("grpc_proxy", f"http://127.0.0.1:{port}")
    found = asked(f"http://{NAME}:4317", GRPC)
    assert found.problem is not None and found.problem.startswith("the proxy cannot be used (")
    assert found.costs == f"nothing arrives: {NO_PROXY_ADVICE.format('grpc_proxy')}"


class _NoName(grpc.RpcError):
    """What grpcio 1.85 raises for a proxy whose name nobody knows; a resolver may take longer than a test waits."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return "errors resolving nobody.invalid:3128: [field:hostname lookup error:address lookup failed]"

    def trailing_metadata(self) -> tuple[()]:
        return ()


def test_over_grpc_a_proxy_without_an_address_is_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def call(*_: object, **__: object) -> bytes:
        raise _NoName

    monkeypatch.setenv("grpc_proxy", "http://nobody.invalid:3128")
    transport = GrpcTransport(f"http://{NAME}:4317", 5.0)
    monkeypatch.setattr(transport, "_calls", dict.fromkeys(Signal, call))
    said = transport.send(Parcel(Signal.TRACES, 0, 0, protobuf_spans(())))
    transport.close()
    assert said.reason.startswith("the proxy cannot be used (errors resolving nobody.invalid:3128: ")
    assert said.advice == NO_PROXY_ADVICE.format("grpc_proxy")


PROXY = "<the proxy>"
ENVIRONMENTS = [
    {},
    {"http_proxy": PROXY},
    {"HTTP_PROXY": PROXY},
    {"https_proxy": PROXY},
    {"all_proxy": PROXY},
    {"grpc_proxy": PROXY},
    {"grpc_proxy": "", "http_proxy": PROXY},
    {"https_proxy": "", "http_proxy": PROXY},
    {"grpc_proxy": "socks5://127.0.0.1:9", "http_proxy": PROXY},
    {"http_proxy": PROXY, "HTTP_PROXY": "http://127.0.0.1:9"},
    {"http_proxy": PROXY, "no_proxy": "127.0.0.1"},
    {"http_proxy": PROXY, "NO_PROXY": "127.0.0.1"},
    {"http_proxy": PROXY, "no_proxy": "localhost, 127.0.0.1 ,x"},
    {"http_proxy": PROXY, "no_proxy": "127.0.0.0/8"},
    {"http_proxy": PROXY, "no_proxy": "127.0.0.1/x"},
    {"http_proxy": PROXY, "no_proxy": "128.0.0.0/8,::1/128"},
    {"http_proxy": PROXY, "no_proxy": "0.0.1"},
    {"http_proxy": PROXY, "no_proxy": "*"},
    {"http_proxy": PROXY, "no_proxy": ""},
    {"http_proxy": PROXY, "no_proxy": "a, ,b"},
    {"http_proxy": PROXY, "no_proxy": ",,"},
    {"http_proxy": PROXY, "no_grpc_proxy": "127.0.0.1"},
    {"http_proxy": PROXY, "no_grpc_proxy": "x", "no_proxy": "127.0.0.1"},
]


@pytest.mark.parametrize("protocol", [HTTP, GRPC])
@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=str)
def test_the_proxy_that_is_named_is_the_one_that_is_used(
    protocol: str, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    collector = grpc_collector() if protocol == GRPC else http_collector()
    with collector as seen, proxy_to(port_of(seen)) as proxy:
        for name, value in environment.items():
            monkeypatch.setenv(name, value.replace(PROXY, proxy.url))
        transport = connect(seen.url, protocol, 10.0, None, None)
        transport.send(Parcel(Signal.TRACES, 0, 0, protobuf_spans(())))
        transport.close()
        assert seen.calls == ["traces"]
        assert (transport.proxy is None, transport.proxy and transport.proxy.url) == (
            not proxy.heard, proxy.url if proxy.heard else None,
        )  # fmt: skip
        assert transport.proxy is None or environment[transport.proxy.variable] == PROXY


@pytest.mark.parametrize("protocol", [HTTP, GRPC])
def test_a_token_that_is_not_encrypted_goes_through_no_proxy(
    protocol: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    token.write_text("secret")
    collector = grpc_collector() if protocol == GRPC else http_collector()
    with collector as seen, proxy_to(port_of(seen)) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        config = Config(otlp_endpoint=seen.url, otlp_protocol=protocol, otlp_token_file=token, spool_bytes=0)
        found = checks(config, agent_runs=True)[0]
        assert (found.problem, found.proxy, proxy.heard) == (None, None, [])
