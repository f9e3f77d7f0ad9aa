"""The page as a reader sees it over HTTP: formats, paths, methods, who is let in, and that slow readers hold nobody up."""

import http.client
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from metrics_filled import SPAN, TRACE, filled, served
from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from vtprof_agent.listening import Guard
from vtprof_agent.metric_points import Point
from vtprof_agent.metrics import page as page_module
from vtprof_agent.metrics import series
from vtprof_agent.metrics.metrics import ALIVE_S, Metrics
from vtprof_agent.metrics.page import MAX_CONNECTIONS, serve
from vtprof_agent.resource import agent_resource
from vtprof_agent.samplers.sampler import Sample
from vtprof_schemas import names
from vtprof_schemas.errors import ConfigError

OPENMETRICS = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3"


def ask(
    port: int, path: str = "/metrics", method: str = "GET", tls: ssl.SSLContext | None = None, **headers: str
) -> tuple[http.client.HTTPResponse, bytes]:
    connection = (
        http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        if tls is None
        else http.client.HTTPSConnection("127.0.0.1", port, timeout=20, context=tls)
    )
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


def wait_until(true: Callable[[], bool], seconds: float = 30.0) -> None:
    """Try until it is true; connections that are being closed at that moment count as not yet."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with suppress(OSError, http.client.HTTPException):
            if true():
                return
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds:g} s")


def test_the_older_text_is_the_default_and_has_all_series() -> None:
    with served(filled()) as (url, port):
        response, body = ask(port)
    assert url == f"http://127.0.0.1:{port}/metrics"
    assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    values = {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }
    assert values[names.PROM_TOKENS, ("image",)] == 20
    assert values[names.PROM_GPU_ENERGY, ("GPU-1",)] == 2.5  # 7.5 J - 5 J
    assert values[names.PROM_RECORDS_LOST, ()] == 2
    assert "trace_id" not in body.decode()


def test_openmetrics_comes_to_who_asks_for_it_with_exemplars() -> None:
    with served(filled()) as (_, port):
        response, body = ask(port, Accept=OPENMETRICS)
    assert response.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    families = {family.name: family for family in openmetrics_families(body.decode())}
    for name in (names.PROM_TTFT, names.PROM_TPOT, names.PROM_PHASE_DURATION):
        seen = [sample.exemplar for sample in families[name].samples if sample.exemplar is not None]
        assert seen and all(
            one.labels == {"trace_id": f"{TRACE:032x}", "span_id": f"{SPAN:016x}"} for one in seen
        )


@pytest.mark.promtool
@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian package prometheus)"
)
def test_promtool_finds_no_fault_with_the_page() -> None:
    with served(filled()) as (_, port):
        body = ask(port)[1]
    checked = subprocess.run(["promtool", "check", "metrics"], input=body, capture_output=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert checked.stderr == checked.stdout == b""


def test_a_head_has_the_length_and_no_body_and_other_methods_and_paths_are_refused() -> None:
    with served(filled()) as (_, port):
        head, nothing = ask(port, method="HEAD")
        assert (head.status, nothing) == (200, b"") and int(head.headers["Content-Length"]) > 1000
        with socket.create_connection(("127.0.0.1", port), timeout=20) as raw, raw.makefile("rb") as told:
            raw.sendall(b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            assert told.read().endswith(b"\r\n\r\n")
        for method in ("POST", "PUT", "DELETE", "BREW"):
            response, _ = ask(port, method=method)
            assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD")
        for path in ("/", "/metrics/", "/metrics/../etc/passwd", "/%6detrics"):
            assert ask(port, path)[0].status == 404
        assert ask(port, "/metrics?name[]=x")[0].status == 200


def test_health_is_that_the_loop_turns() -> None:
    clock_s = [100.0]
    metrics = Metrics("1", steady_s=lambda: clock_s[0])
    with served(metrics, alive=metrics.alive) as (_, port):
        assert ask(port, "/healthz")[1] == b"ok\n"
        clock_s[0] += ALIVE_S + 1
        assert ask(port, "/healthz")[0].status == 503
        metrics.refresh({}, {})
        assert ask(port, "/healthz")[0].status == 200


@pytest.fixture
def guarded(tmp_path: Path) -> tuple[Guard, ssl.SSLContext]:
    """A guard with certificate and token, and the TLS of a reader who trusts it."""
    cert, key, token = tmp_path / "a.crt", tmp_path / "a.key", tmp_path / "token"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-days", "2", "-subj", "/CN=agent", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", str(key), "-out", str(cert)],
        check=True, capture_output=True,
    )  # fmt: skip
    token.write_text("right-token\n")
    token.chmod(0o600)
    return Guard(cert, key, token), ssl.create_default_context(cafile=str(cert))


def test_beyond_this_machine_it_takes_tls_and_the_token(guarded: tuple[Guard, ssl.SSLContext]) -> None:
    guard, tls = guarded
    with served(filled(), "0.0.0.0:0", guard) as (url, port):
        assert url.startswith("https://")
        response, body = ask(port, tls=tls)
        assert response.status == 401 and response.headers["WWW-Authenticate"] == "Bearer"
        assert b"vtprof_" not in body
        assert ask(port, tls=tls, Authorization="Bearer wrong-token")[0].status == 401
        response, body = ask(port, tls=tls, Authorization="Bearer right-token")
        assert response.status == 200 and b"vtprof_ttft_seconds" in body
        assert ask(port, "/healthz", tls=tls)[0].status == 200


def test_who_speaks_no_tls_gets_no_answer_in_plain_text(guarded: tuple[Guard, ssl.SSLContext]) -> None:
    with served(filled(), "0.0.0.0:0", guarded[0]) as (_, port):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as plain:
            plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            told = b""
            try:
                while piece := plain.recv(4096):
                    told += piece
            except ConnectionError:
                pass
        assert b"HTTP/" not in told and b"ok" not in told
        assert ask(port, "/healthz", tls=guarded[1])[0].status == 200


def test_beyond_this_machine_without_tls_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match="open to the network") as refused:
        serve(Metrics("1").registry, "0.0.0.0:0")
    assert "\n" not in str(refused.value)


class Standstill(Collector):
    """A metric that is not there until it may be."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.reached = False

    def collect(self) -> Iterator[Metric]:
        self.reached = not self.go.is_set()
        assert self.go.wait(60)
        yield Metric("vtprof_standstill", "", "gauge")


def test_readers_under_way_are_bounded_and_who_is_beyond_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "MAX_CONNECTIONS", 2)
    metrics, standstill = filled(), Standstill()
    with served(metrics) as (_, port), ThreadPoolExecutor(2) as pool:
        standstill.go.set()
        metrics.registry.register(standstill)
        standstill.go.clear()
        under_way = [pool.submit(ask, port) for _ in range(2)]
        try:
            wait_until(lambda: standstill.reached)

            def turned_away() -> bool:
                with socket.create_connection(("127.0.0.1", port), timeout=1) as another:
                    return another.recv(64).startswith(b"HTTP/1.1 503")

            wait_until(turned_away)
        finally:
            standstill.go.set()
        assert 200 in [one.result()[0].status for one in under_way if one.exception() is None]
        wait_until(lambda: ask(port, "/healthz")[0].status == 200)


@pytest.mark.parametrize("begun", [b"", b"GET /metrics HTTP/1.1\r\n"])
def test_silent_connections_keep_no_reader_out(begun: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "REQUEST_S", 120.0)
    with served(filled()) as (_, port), ExitStack() as stack:
        for _ in range(MAX_CONNECTIONS + 40):
            silent = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
            silent.sendall(begun)
        wait_until(lambda: ask(port, "/healthz")[0].status == 200, 30.0)


def test_idle_handshakes_keep_no_reader_out(
    guarded: tuple[Guard, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_module, "REQUEST_S", 120.0)
    guard, tls = guarded
    with served(filled(), "0.0.0.0:0", guard) as (_, port), ExitStack() as stack:
        for _ in range(150):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
        wait_until(lambda: ask(port, tls=tls, Authorization="Bearer right-token")[0].status == 200, 30.0)


def test_a_silent_or_dripping_connection_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "REQUEST_S", 0.3)
    with served(filled()) as (_, port):
        for begun in (b"", b"GET /met", b"GET /metrics HTTP/1.1\r\nX: "):
            with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
                connection.sendall(begun)
                assert connection.recv(64) == b""


def test_hostile_requests_and_label_values_leave_the_page_whole() -> None:
    metrics = filled()
    hostile = ['a"} 1\nvtprof_evil 1\n', "\\", "\ud800", "GPU\x00", "x" * 5000]
    node = agent_resource("agent-test")
    metrics.gpu([Point(node, Sample(names.GPU_POWER_MW, 1000, hw_id=gpu), 1) for gpu in hostile])
    with served(metrics) as (_, port):
        for request in (
            b"\x16\x03\x01\x02\x00",
            b"GET " + b"/" * 70_000 + b" HTTP/1.1\r\n\r\n",
            b"\r\n" * 50,
        ):
            with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
                connection.sendall(request)
                connection.shutdown(socket.SHUT_WR)
                connection.recv(4096)
        for accept, families in (("", text_string_to_metric_families), (OPENMETRICS, openmetrics_families)):
            text = ask(port, Accept=accept)[1].decode()
            found = {family.name: family for family in families(text)}
            gpus = [sample.labels["gpu"] for sample in found["vtprof_gpu_power_watts"].samples]
            assert 'a"} 1\nvtprof_evil 1\n' in gpus and "\\" in gpus and len(gpus) == len(hostile) + 1
            assert max(map(len, gpus)) == 80
            assert "vtprof_evil" not in found


def test_an_address_that_is_taken_or_none_is_one_clear_line() -> None:
    registry = Metrics("1").registry
    with served(Metrics("1")) as (_, port), pytest.raises(ConfigError, match="cannot listen"):
        serve(registry, f"127.0.0.1:{port}")
    for wrong in ("", "host:", "host:port", "1:70000"):
        with pytest.raises(ConfigError, match="HOST:PORT"):
            serve(registry, wrong)
    with pytest.raises(ConfigError, match="cannot listen"):
        serve(registry, "a..b:0", Guard(insecure=True))


def test_no_label_holds_the_callers_text() -> None:
    """Request ids are the caller's text, of which there is no end: they label nothing. Of models there is a limit."""
    with served(filled()) as (_, port):
        text = ask(port, Accept=OPENMETRICS)[1].decode()
    labels = {
        name for family in openmetrics_families(text) for sample in family.samples for name in sample.labels
    }
    known = {label for one in series.SERIES.values() for label in one.labels} | {"le"}
    assert labels <= known
