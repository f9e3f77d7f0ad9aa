"""What is wrong with an endpoint, and what to write instead, is one line in `doctor` and once in the log of the agent."""

import json
import logging
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import grpc
import pytest
from collectors import (
    Seen,
    batch,
    dripping,
    grpc_collector,
    http_collector,
    ids,
    make_certificate,
    speaking,
    wait_for,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)

from vtprof_agent import node_report
from vtprof_agent.cli.app import run
from vtprof_agent.config import Config
from vtprof_agent.endpoint_checks import Check, checks
from vtprof_agent.export.backoff import Backoff
from vtprof_agent.export.destination import Outcome
from vtprof_agent.export.otlp import GRPC, HTTP, OtlpDestination
from vtprof_agent.export.otlp_http import HttpTransport
from vtprof_agent.export.parcel import encode

DAY_2020, DAY_2090 = ("20200101000000Z", "20200102000000Z"), ("20900101000000Z", "20900102000000Z")
CERTIFICATES = {
    "expired": ("its certificate has expired", "renew it there, or set this machine's clock"),
    "future": ("its certificate is not valid yet", "set the clock of this machine, or renew it there"),
    "other host": (
        "its certificate is of another host",
        "give the host name that it was made for, or renew it there with this one",
    ),
    "unknown CA": (
        "its certificate is signed by nobody who is trusted here",
        "give the certificate of that CA with otlp_ca_file",
    ),
}
TO_GRPC = "set otlp_protocol to grpc, or give the port of OTLP over HTTP, 4318 as a rule"
TO_HTTP = "set otlp_protocol to http/protobuf, or give the port of OTLP over gRPC, 4317 as a rule"
HTTP2_ONLY = "speaks HTTP/2 only, as gRPC does, and not HTTP/1.1"
OTHER = {HTTP: GRPC, GRPC: HTTP}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Return certificates and their keys by what is wrong with them."""
    folder = tmp_path_factory.mktemp("certificates")
    return {
        "good": make_certificate(folder, "good"),
        "expired": make_certificate(folder, "expired", valid=DAY_2020),
        "future": make_certificate(folder, "future", valid=DAY_2090),
        "other host": make_certificate(folder, "other", "DNS:collector.example"),
    }


def collector(
    protocol: str, pair: tuple[Path, Path] | None = None, seen: Seen | None = None, port: int = 0
) -> AbstractContextManager[Seen]:
    """Return a real collector, with TLS when it is given a certificate."""
    if protocol == GRPC:
        credentials = pair and grpc.ssl_server_credentials([(pair[1].read_bytes(), pair[0].read_bytes())])
        return grpc_collector(seen, port, credentials)
    context = None
    if pair is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*pair)
    return http_collector(seen, context, port)


def asked(url: str, protocol: str, ca_file: Path | None = None) -> Check:
    """Return what `doctor` says of an endpoint."""
    config = Config(otlp_endpoint=url, otlp_protocol=protocol, otlp_ca_file=ca_file, spool_bytes=0)
    return checks(config, agent_runs=True)[0]


@contextmanager
def sending(url: str, protocol: str, ca_file: Path | None = None) -> Iterator[OtlpDestination]:
    """Give a destination, as the running agent has it, with one batch on its way."""
    destination = OtlpDestination(url, protocol=protocol, ca_file=ca_file, backoff=Backoff(0.01, 0.01))
    destination.submit(batch(1))
    try:
        yield destination
    finally:
        destination.close(0.0)


def listen_to(connection: socket.socket) -> None:
    """Read a whole request, or the greeting of TLS: what is left unread resets the connection when it is closed."""
    heard = connection.recv(1 << 16)
    while heard[:1].isalpha() and (left := _unheard(heard)) and (more := connection.recv(left)):
        heard += more


def _unheard(heard: bytes) -> int:
    head, end, body = heard.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0] or 0)
    return max(0, length - len(body)) if end else 1 << 16


@contextmanager
def saying(answer: bytes, endless: bytes = b"") -> Iterator[str]:
    """Give the URL of a server that says the same to everybody, once it is sent something, and then goes on endlessly."""
    over = threading.Event()

    def say(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            listen_to(connection)
            connection.sendall(answer)
            while endless and not over.is_set():
                connection.sendall(endless)

    with speaking(say) as url:
        try:
            yield url
        finally:
            over.set()


def page(kind: str | None, body: bytes, status: str = "200 OK") -> bytes:
    """Return an answer of HTTP."""
    about = "" if kind is None else f"Content-Type: {kind}\r\n"
    return (
        f"HTTP/1.1 {status}\r\n{about}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
        + body
    )


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if "cannot deliver" in one.getMessage()]


@pytest.mark.parametrize("protocol", [HTTP, GRPC])
@pytest.mark.parametrize("wrong", CERTIFICATES)
def test_what_is_wrong_with_a_certificate_is_said_with_what_to_do(
    pairs: dict[str, tuple[Path, Path]], caplog: pytest.LogCaptureFixture, protocol: str, wrong: str
) -> None:
    pair = pairs.get(wrong, pairs["good"])
    trusted = None if wrong == "unknown CA" else pair[0]
    what, advice = CERTIFICATES[wrong]
    with collector(protocol, pair) as seen:
        found = asked(seen.url, protocol, trusted)
        assert (found.problem, found.costs) == (what, f"nothing arrives: {advice}")
        with sending(seen.url, protocol, trusted) as destination:
            wait_for(lambda: destination.problem)
        assert seen.spans == []
    assert f"cannot deliver ({what}; {advice})" in logged(caplog)[0]


@pytest.mark.parametrize("protocol", [HTTP, GRPC])
def test_a_certificate_of_another_ca_than_the_one_given_is_said(
    pairs: dict[str, tuple[Path, Path]], protocol: str
) -> None:
    with collector(protocol, pairs["good"]) as seen:
        assert asked(seen.url, protocol, pairs["good"][0]).problem is None
        assert asked(seen.url, protocol, pairs["other host"][0]).problem == CERTIFICATES["unknown CA"][0]


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize(
    ("protocol", "what", "advice"), [(HTTP, HTTP2_ONLY, TO_GRPC), (GRPC, "does not speak gRPC", TO_HTTP)]
)
def test_the_port_of_the_other_protocol_is_said_with_both_ways_out(
    pairs: dict[str, tuple[Path, Path]], caplog: pytest.LogCaptureFixture, protocol: str, what: str, advice: str, tls: bool
) -> None:  # fmt: skip
    pair = pairs["good"] if tls else None
    trusted = None if pair is None else pair[0]
    with collector(OTHER[protocol], pair) as seen:
        assert asked(seen.url, protocol, trusted).line() == (
            f"endpoint {seen.url}: {what}; nothing arrives: {advice}"
        )
        with sending(seen.url, protocol, trusted) as destination:
            wait_for(lambda: destination.problem)
    if tls and protocol == HTTP:  # gRPC's server ends the connection without a word
        what = "ends the connection without an answer"
        advice = "if it goes on, `vtprof-agent doctor` with the same settings looks closer"
    assert f"cannot deliver ({what}; {advice})" in logged(caplog)[0]


@pytest.mark.parametrize("protocol", [HTTP, GRPC])
def test_https_at_a_plain_port_is_said_by_the_agent_too(
    caplog: pytest.LogCaptureFixture, protocol: str
) -> None:
    with collector(protocol) as seen:
        with sending(seen.url.replace("http:", "https:"), protocol) as destination:
            wait_for(lambda: destination.problem)
        assert seen.calls == []
    assert (
        "cannot deliver (does not speak TLS, as https:// asks for; give http://, or turn TLS on there)"
        in logged(caplog)[0]
    )


@pytest.mark.parametrize("path", ["/v1/traces", "/v1/traces/", "/v1/metrics"])
def test_the_url_of_a_signal_is_taken_over_http_and_over_grpc_what_to_write_is_said(path: str) -> None:
    with collector(HTTP) as seen:
        assert asked(seen.url + path, HTTP).problem is None
        with sending(seen.url + path, HTTP):
            wait_for(lambda: seen.spans == ids(1))
        found = asked(seen.url + path, GRPC)
    assert found.costs == "the agent does not start with it"
    assert found.problem == (
        f"--otlp-endpoint '{seen.url}{path}': gRPC has no path; give {seen.url}, with the port of OTLP over gRPC,"
        " 4317 as a rule, or --otlp-protocol http/protobuf"
    )


def test_a_server_that_takes_no_traces_there_is_said_as_is_a_token_that_it_wants() -> None:
    base = "give the base URL of an OTLP receiver, as http://collector:4318"
    said = {
        404: f"nothing arrives: nothing takes traces at /v1/traces below it: {base}",
        401: "nothing arrives: set otlp_token_file",
        503: "nothing arrives: see its log, or correct otlp_endpoint",
        405: "what it refuses is dropped: see its log, or correct otlp_endpoint",
    }
    with collector(HTTP) as seen:
        for status, costs in said.items():
            seen.answers = [status]
            found = asked(seen.url, HTTP)
            assert (str(status) in str(found.problem), found.costs) == (True, costs)
    said = {
        "UNAUTHENTICATED": "nothing arrives: set otlp_token_file",
        "UNIMPLEMENTED": f"nothing arrives: nothing takes OTLP traces over gRPC there: {TO_HTTP}",
    }  # type: ignore[assignment]
    with collector(GRPC) as seen:
        for code, costs in said.items():
            seen.answers = [grpc.StatusCode[code]]  # type: ignore[misc]
            assert asked(seen.url, GRPC).costs == costs


BASE_URL = "give the base URL of an OTLP receiver, as http://collector:4318"
WEB_SERVER = "answers as a web server does, not as OTLP asks"
NOT_SURE = "answers with success, but not as an OTLP receiver does, which names application/x-protobuf"
HTML = b"<html>hi</html>"
REJECTED = ExportTraceServiceResponse(
    partial_success=ExportTracePartialSuccess(rejected_spans=1, error_message="too old")
).SerializeToString()
LONG = ExportTraceServiceResponse(
    partial_success=ExportTracePartialSuccess(error_message="x" * 70_000)
).SerializeToString()


@pytest.mark.parametrize(
    ("answer", "endless"),
    [
        (page("text/html", HTML), b""),
        (page("Text/HTML; charset=utf-8", HTML, "201 Created"), b""),
        (page(None, HTML), b""),
        (page("application/x-protobuf", HTML), b""),
        (page("text/plain", b" \n" + HTML), b""),
        (page("text/html", b"OK"), b""),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n", b"a" * 65536),
    ],
    ids=["html", "html created", "html unnamed", "html as protobuf", "html as text", "text as html", "endless text"],
)  # fmt: skip
def test_a_web_server_that_answers_everything_with_success_is_no_collector_and_spans_are_kept(
    caplog: pytest.LogCaptureFixture, answer: bytes, endless: bytes
) -> None:
    with saying(answer, endless) as url:
        assert asked(url, HTTP).line() == f"endpoint {url}: {WEB_SERVER}; nothing arrives: {BASE_URL}"
        with sending(url, HTTP) as destination:
            wait_for(lambda: destination.problem)
            assert (destination.outbox.spans_delivered, destination.outbox.spans_dropped) == (0, 0)
            assert destination.outbox.settled() == 0
    (said,) = logged(caplog)
    assert f"cannot deliver ({WEB_SERVER}; {BASE_URL})" in said


@pytest.mark.parametrize(
    ("answer", "rejected", "sure"),
    [
        (page(None, b""), 0, False),
        (page("application/x-protobuf", b""), 0, True),  # the Collector's, to a message with or without spans
        (page("text/plain; charset=utf-8", b""), 0, False),
        (page(None, b"", "201 Created"), 0, False),  # Fluent Bit's, if it is not set otherwise
        (page(None, b"", "204 No Content"), 0, False),
        (page("application/x-protobuf; charset=utf-8", REJECTED), 1, True),
        (page("Application/X-Protobuf", REJECTED), 1, True),
        (page("application/octet-stream", REJECTED), 1, False),
        (page(None, REJECTED), 1, False),
        (page("Application/X-Protobuf", LONG), 0, True),  # it is not read to its end
        (page("application/json", b"{}"), 0, True),
        (page("application/json; charset=utf-8", b'{"partialSuccess":{}}'), 0, True),
        (page("application/json", b'{"status":"ok"}'), 0, False),
        (page("application/json", b"[" * 9999), 0, False),
        (page("application/json", b""), 0, False),
        (page("text/plain; charset=utf-8", b"{}"), 0, False),
        (page("application/json", b'"OK"'), 0, False),
        (page("text/plain", b"OK"), 0, False),
        (page("Text/Plain", b"a" * 9), 0, False),  # in protobuf field 12, fixed64, which nobody knows
    ],
)
def test_what_receivers_answer_is_taken_for_success_and_told_where_it_is_not_as_otlp_asks(
    caplog: pytest.LogCaptureFixture, answer: bytes, rejected: int, sure: bool
) -> None:
    """OTLP/HTTP Response: "The server MUST use the same Content-Type in the response as it received in the request"."""
    with saying(answer) as url:
        found = asked(url, HTTP)
        assert found.problem is None
        with sending(url, HTTP) as destination:
            destination.submit(batch(2))
            wait_for(lambda: destination.outbox.settled() == 2)
            outbox = destination.outbox
            assert (outbox.spans_delivered, outbox.spans_dropped) == (4 - 2 * rejected, 2 * rejected)
            assert destination.problem is None
    said = [one.getMessage() for one in caplog.records if "not as an OTLP receiver does" in one.getMessage()]
    if sure:
        assert (found.warning, said) == (None, [])
        return
    assert found.warning == NOT_SURE
    assert found.costs == f"see whether spans arrive; if none do, {BASE_URL}"
    assert said == [f"{url}: {found.warning}; {found.costs}"]


def test_doctor_prints_a_warning_and_ends_with_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(node_report, "_permissions", lambda _config: [])
    monkeypatch.setattr(node_report, "gpu_problems", lambda _looked, _config: [])
    with saying(page(None, b"")) as url:
        words = [
            "doctor",
            "--check",
            "--ring-dir",
            str(tmp_path),
            "--samplers",
            "host",
            "--otlp-endpoint",
            url,
        ]
        monkeypatch.setenv("VTPROF_AGENT_SPOOL_BYTES", "0")
        assert run(words) == 0
        lines = capsys.readouterr().out.splitlines()
        advice = f"see whether spans arrive; if none do, {BASE_URL}"
        assert lines[:2] == ["no problem found", f"warning: endpoint {url}: {NOT_SURE}; {advice}"]
        assert f"endpoint {url}: {NOT_SURE}" in lines
        assert run([*words, "--format", "json"]) == 0
        document = json.loads(capsys.readouterr().out)
    assert (document["problems"], document["warnings"]) == ([], [lines[1].removeprefix("warning: ")])


def test_metrics_that_a_web_server_takes_do_not_hold_up_the_spans_of_a_collector_before_it() -> None:
    with saying(page("text/html", HTML)) as url:
        transport = HttpTransport(url, 5.0)
        _, metrics = encode(batch(1, with_metrics=True)).parcels
        assert transport.send(metrics).outcome is Outcome.REFUSED
        transport.close()


@pytest.mark.parametrize(
    "answer",
    [b"\0\xff\x1b[31mGARBAGE\r\n\r\n", b"220 mail ESMTP\r\n", b"HTTP/9 200 OK\r\n\r\n", b"x" * 70_000 + b"\r\n"],
    ids=["garbage", "mail", "another version", "no line"],
)  # fmt: skip
def test_a_server_that_does_not_speak_http_is_said(caplog: pytest.LogCaptureFixture, answer: bytes) -> None:
    with saying(answer) as url:
        assert asked(url, HTTP).line() == (
            f"endpoint {url}: does not speak HTTP; nothing arrives: {BASE_URL}"
        )
        with sending(url, HTTP) as destination:
            wait_for(lambda: destination.problem)
    assert f"cannot deliver (does not speak HTTP; {BASE_URL})" in logged(caplog)[0]


def test_a_server_that_answers_slower_than_doctor_waits_is_said() -> None:
    with dripping(b"HTTP/1.1 ") as url:
        config = Config(otlp_endpoint=url, otlp_timeout_s=0.3, spool_bytes=0)
        assert checks(config, agent_runs=True)[0].problem == "no answer within 0.3 s"


@pytest.mark.parametrize(
    "words",
    [
        b"Client sent an HTTP request to an HTTPS server.\n",
        b"<title>400 The plain HTTP request was sent to HTTPS port</title>",
        b"Reason: You're speaking plain HTTP to an SSL-enabled server port.<br />",
    ],
)
def test_spans_that_were_sent_to_a_tls_port_without_tls_are_kept_until_it_is_mended(
    caplog: pytest.LogCaptureFixture, words: bytes
) -> None:
    """Go's server, nginx and Apache answer 400 then, which else is of the message: it would be dropped."""
    with collector(HTTP) as seen:
        seen.refusal, seen.answers = words, [400, 400]
        with sending(seen.url, HTTP):
            wait_for(lambda: seen.spans)
        assert seen.spans == ids(1)
    (said,) = logged(caplog)
    assert "(speaks TLS, which http:// does not; give https://, or turn TLS off there)" in said


def test_a_collector_that_comes_up_with_another_fault_is_said_once_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with sending(f"http://127.0.0.1:{port}", HTTP) as destination:
        wait_for(lambda: destination.problem)
        with collector(GRPC, port=port):
            wait_for(lambda: destination.problem == HTTP2_ONLY)
        wait_for(lambda: destination.problem == "Connection refused")
        with collector(GRPC, port=port):
            wait_for(lambda: destination.problem == HTTP2_ONLY)
        with collector(HTTP, port=port) as seen:
            wait_for(lambda: seen.spans)
            wait_for(lambda: destination.problem is None)
    about = [line for line in logged(caplog) if "ends the connection" not in line]
    assert [line.partition("(")[2].partition(";")[0] for line in about] == [
        "Connection refused)",
        HTTP2_ONLY,
    ]


def test_the_agent_says_what_is_wrong_with_the_certificate_of_a_page_too(
    pairs: dict[str, tuple[Path, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with collector(HTTP, pairs["expired"]) as seen:
        config = Config(out_dir=tmp_path, dcgm_url=seen.url, engine_metrics=(seen.url,))
        monkeypatch.setattr("requests.adapters.DEFAULT_CA_BUNDLE_PATH", str(pairs["expired"][0]))
        _, dcgm, engine = checks(config, agent_runs=True)
    assert dcgm.line() == (
        f"dcgm-exporter {seen.url}: its certificate has expired; no DRAM and tensor counters from DCGM: start"
        " dcgm-exporter or correct dcgm_url"
    )
    assert engine.problem == "its certificate has expired"


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=60))
@example(b"\0\0\x18\x04\0\0\0\0\0")
@example(b"\0\0\x18\x06\0\0\0\0\0")
def test_whatever_answers_is_a_reason_to_wait(answer: bytes) -> None:
    """No answer but a status of HTTP takes a message, or drops it."""

    def serve() -> None:
        for _ in range(2):  # a connection that ended is tried once more
            try:
                with listener.accept()[0] as connection:
                    listen_to(connection)
                    connection.sendall(answer)
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        transport = HttpTransport(f"http://127.0.0.1:{listener.getsockname()[1]}", 5.0)
        (parcel,) = encode(batch(1)).parcels
        said = transport.send(parcel)
        transport.close()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert answer.startswith(b"HTTP/") or said.outcome is Outcome.RETRY
    assert said.reason or answer.startswith(b"HTTP/")
    assert (said.reason == HTTP2_ONLY) == (answer[:2] == b"\0\0" and answer[3:4] == b"\x04")
