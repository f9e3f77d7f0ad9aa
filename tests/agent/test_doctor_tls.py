"""`doctor` says when an endpoint's scheme and what answers at its port differ, over HTTP and gRPC, and else nothing."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import grpc
import pytest
from collectors import grpc_collector, http_collector, make_certificate
from hypothesis import given, settings
from hypothesis import strategies as st

from vtprof_agent.config import Config
from vtprof_agent.endpoint_checks import Check, checks
from vtprof_agent.export.otlp import GRPC, HTTP
from vtprof_agent.tls_probe import speaks_tls

WAIT_S = 30.0


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a certificate and its key."""
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def ports(pair: tuple[Path, Path]) -> Iterator[dict[tuple[str, bool], int]]:
    """Return the port of a real collector by protocol and whether it speaks TLS."""
    certificate, key = pair
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
    with ExitStack() as stack:
        seen = {
            (HTTP, False): http_collector(),
            (HTTP, True): http_collector(tls=context),
            (GRPC, False): grpc_collector(),
            (GRPC, True): grpc_collector(tls=credentials),
        }
        yield {
            of: int(stack.enter_context(one).url.rpartition(":")[2].rstrip("/")) for of, one in seen.items()
        }


def endpoint(url: str, protocol: str, ca_file: Path | None = None) -> Check:
    config = Config(otlp_endpoint=url, otlp_protocol=protocol, otlp_ca_file=ca_file, spool_bytes=0)
    return checks(config, agent_runs=True)[0]


@pytest.mark.parametrize("protocol", [HTTP, GRPC])
@pytest.mark.parametrize("tls", [False, True])
def test_a_scheme_that_the_port_does_not_speak_is_one_line_with_what_to_do(
    ports: dict[tuple[str, bool], int], pair: tuple[Path, Path], protocol: str, tls: bool
) -> None:
    port = ports[protocol, tls]
    right, wrong = ("https", "http") if tls else ("http", "https")
    assert endpoint(f"{right}://127.0.0.1:{port}", protocol, pair[0]).problem is None
    said = {
        False: "does not speak TLS, as https:// asks for; nothing arrives: give http://, or turn TLS on there",
        True: "speaks TLS, which http:// does not; nothing arrives: give https://, or turn TLS off there",
    }
    url = f"{wrong}://127.0.0.1:{port}"
    assert endpoint(url, protocol).line() == f"endpoint {url}: {said[tls]}"


def test_the_password_of_such_a_url_is_not_shown(ports: dict[tuple[str, bool], int]) -> None:
    assert "hunter2" not in endpoint(f"https://me:hunter2@127.0.0.1:{ports[HTTP, False]}", HTTP).line()


def test_pages_over_https_are_greeted_and_those_over_http_are_not(
    ports: dict[tuple[str, bool], int], tmp_path: Path
) -> None:
    """An engine would log a greeting that it does not understand."""
    config = Config(
        out_dir=tmp_path, dcgm_url=f"https://127.0.0.1:{ports[HTTP, False]}/metrics",
        engine_metrics=(f"https://127.0.0.1:{ports[HTTP, True]}/metrics",),
    )  # fmt: skip
    problems = {check.what: check.problem for check in checks(config, agent_runs=True)}
    assert problems["dcgm-exporter"] == "does not speak TLS, as https:// asks for"
    assert problems["engine metrics"] == "its certificate is signed by nobody who is trusted here"
    page = b"vllm:num_requests_running 1\n"
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(page), page), 2) as (
        port,
        heard,
    ):
        config = Config(out_dir=tmp_path, engine_metrics=(f"http://127.0.0.1:{port}/metrics",))
        problems = {check.what: check.problem for check in checks(config, agent_runs=True)}
    assert problems["engine metrics"] is None
    assert [one.partition(b" HTTP/1.1\r\n")[0] for one in heard] == [b"", b"GET /metrics"]


def test_an_endpoint_without_port_is_looked_for_where_the_exporter_sends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """requests sends to 80 and 443, the channel of gRPC is made for 4317."""
    asked = []

    def refuse(address: tuple[str, int], *_: object) -> socket.socket:
        asked.append(address)
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(socket, "create_connection", refuse)
    for url, protocol in (("http://c", HTTP), ("https://c", HTTP), ("http://c", GRPC), ("https://c", GRPC)):
        assert endpoint(url, protocol).problem == "nobody answers (Connection refused)"
    assert asked == [("c", 80), ("c", 443), ("c", 4317), ("c", 4317)]


@contextmanager
def answering(answer: bytes, connections: int = 1) -> Iterator[tuple[int, list[bytes]]]:
    """Give a port that answers so many connections so, ends each, and keeps what it was sent first."""
    heard: list[bytes] = []

    def serve() -> None:
        for _ in range(connections):
            with (
                listener.accept()[0] as connection,
                suppress(ConnectionError),
            ):  # one that only looked is gone
                heard.append(connection.recv(1 << 16))
                connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1], heard
        thread.join(WAIT_S)


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=40))
def test_only_a_record_of_tls_is_taken_for_it(answer: bytes) -> None:
    """A record begins with its kind, 21 for an alert and 22 for a handshake, and version 3 (RFC 8446, 5.1)."""
    with answering(answer) as (port, _):
        spoken = speaks_tls("127.0.0.1", port, WAIT_S)
    assert spoken is (None if not answer else answer[:2] in (b"\x15\x03", b"\x16\x03"))


@pytest.mark.parametrize("record", [b"\x15\x03\x01\x00\x02\x02\x28", b"\x16\x03\x03\x00\x7a"])
def test_an_alert_is_tls_as_well(record: bytes) -> None:
    with answering(record) as (port, heard):
        assert speaks_tls("localhost", port, WAIT_S) is True
    assert heard[0][:2] == b"\x16\x03" and b"localhost" in heard[0] and b"\x02h2" in heard[0]
