"""OTLP over HTTP against a real server that decodes with OpenTelemetry's own protobuf."""

import socket
import ssl
import time
from pathlib import Path

import pytest
from collectors import Seen, batch, dripping, http_collector, ids, make_certificate, metrics, wait_for
from hypothesis import given
from hypothesis import strategies as st

from vtprof_agent.export.backoff import Backoff
from vtprof_agent.export.destination import Batch, Outcome
from vtprof_agent.export.otlp import OtlpDestination
from vtprof_agent.export.otlp_http import HttpTransport, retry_after_s, signal_urls
from vtprof_agent.export.parcel import encode
from vtprof_schemas.errors import ConfigError

AT_ONCE = {"backoff": Backoff(0.01, 0.01)}


def _open(seen: Seen, **more: object) -> OtlpDestination:
    return OtlpDestination(seen.url, **{"timeout_s": 10.0, "queued_batches": 8, **AT_ONCE, **more})  # type: ignore[arg-type]


def test_spans_and_metrics_arrive_at_the_collector_compressed() -> None:
    with http_collector() as seen:
        destination = _open(seen)
        destination.submit(batch(1, with_metrics=True))
        destination.submit(batch(2))
        destination.close(20.0)
        assert (seen.spans, seen.metrics) == (ids(1, 2), 1)
        assert seen.encodings == ["gzip"] * 3
        assert (destination.outbox.spans_delivered, destination.outbox.settled()) == (4, 2)
        assert (destination.outbox.spans_dropped, destination.outbox.metrics_dropped) == (0, 0)


def test_a_batch_that_the_collector_refuses_is_dropped_and_the_next_arrives() -> None:
    with http_collector() as seen:
        seen.answers = [400]
        destination = _open(seen)
        destination.submit(batch(1))
        destination.submit(batch(2))
        destination.close(20.0)
        assert seen.spans == ids(2)
        assert (destination.outbox.spans_dropped, destination.outbox.spans_delivered) == (2, 2)


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
def test_a_redirect_is_not_followed_and_the_batch_kept_until_it_is_gone(status: int) -> None:
    with http_collector() as seen:
        seen.answers = [status, status]
        seen.answer_headers = {"Location": "/elsewhere"}
        destination = _open(seen)
        destination.submit(batch(1))
        destination.submit(batch(2))
        destination.close(20.0)
        assert (seen.spans, seen.calls) == (ids(1, 2), ["traces"] * 4)
        assert (destination.outbox.spans_dropped, destination.outbox.spans_delivered) == (0, 4)


@pytest.mark.parametrize("status", [203, 205, 206, 207, 226, 299])
def test_a_success_that_otlp_does_not_know_is_none_and_the_batch_comes_again(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    with http_collector() as seen:
        seen.answers = [status]
        destination = _open(seen)
        destination.submit(batch(1))
        destination.close(20.0)
        assert (seen.spans, seen.calls) == (ids(1), ["traces"] * 2)
        assert (destination.outbox.spans_delivered, destination.outbox.spans_dropped) == (2, 0)
    assert f"cannot deliver (HTTP status {status}; OTLP answers 200 to what it took" in caplog.text


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_what_gateways_answer_to_what_they_took_is_success(status: int) -> None:
    with http_collector() as seen:
        seen.answers = [status]
        destination = _open(seen)
        destination.submit(batch(1))
        destination.close(20.0)
        assert (seen.calls, destination.outbox.spans_delivered) == (["traces"], 2)


@pytest.mark.parametrize(
    ("status", "words"), [(413, b""), (400, b"\x08\x03\x12\x1ahttp: request body too large")]
)
def test_a_batch_that_is_too_large_for_the_collector_arrives_in_parts(
    status: int, words: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with http_collector() as seen:
        seen.most_bytes, seen.too_large, seen.refusal = 2000, status, words
        destination = _open(seen)
        destination.submit(batch(1, spans=99, with_metrics=True))
        destination.submit(batch(2, spans=99))
        destination.close(20.0)
        assert (seen.spans, seen.metrics) == (ids(1, 2, spans=99), 1)
        assert (destination.outbox.spans_delivered, destination.outbox.spans_dropped) == (198, 0)
        assert destination.outbox.settled() == 2
    (said,) = caplog.messages
    assert said == (
        f"{seen.url}: a message is too large for it; sending it in halves: raise its limit, or set a smaller batch_spans"
    )


@pytest.mark.parametrize("status", [401, 403, 404, 407, 408, 429, 500, 502, 503, 504])
def test_a_collector_that_is_not_ready_gets_the_batch_again_and_once(status: int) -> None:
    with http_collector() as seen:
        seen.answers = [status]
        destination = _open(seen)
        destination.submit(batch(1))
        destination.close(20.0)
        assert (seen.spans, seen.calls) == (ids(1), ["traces"] * 2)
        assert (destination.outbox.settled(), destination.outbox.spans_dropped) == (1, 0)


@pytest.mark.parametrize("status", [400, 404, 415])
def test_a_collector_without_metrics_gets_all_spans(status: int) -> None:
    with http_collector() as seen:
        seen.answer_metrics = status
        destination = _open(seen)
        destination.submit(Batch(1, [], metrics()))
        destination.submit(batch(2, with_metrics=True))
        destination.close(20.0)
        assert (seen.spans, seen.metrics) == (ids(2), 0)
        assert (destination.outbox.metrics_dropped, destination.outbox.spans_dropped) == (2, 0)


def test_spans_that_a_collector_rejects_of_a_batch_are_counted_as_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with http_collector() as seen:
        seen.rejects = 1
        destination = _open(seen)
        destination.submit(batch(1, spans=3))
        destination.submit(batch(2, spans=3))
        destination.close(20.0)
        assert (destination.outbox.spans_delivered, destination.outbox.spans_dropped) == (4, 2)
    said = [record.getMessage() for record in caplog.records if "rejected" in record.getMessage()]
    assert said == [f"{seen.url}: took a message but rejected 1 of it (too old); said once, counted"]


def test_an_absent_collector_does_not_hold_up_the_stop_and_the_loss_is_counted() -> None:
    destination = OtlpDestination("http://127.0.0.1:9", timeout_s=0.2, queued_batches=2, **AT_ONCE)  # type: ignore[arg-type]
    for number in (1, 2, 3):
        destination.submit(batch(number))
    destination.close(1.0)
    assert destination.outbox.spans_dropped == 6
    assert destination.outbox.spans_delivered == 0


def test_a_collector_that_hangs_is_given_up_after_the_timeout_and_holds_up_nobody() -> None:
    with http_collector() as seen:
        seen.hang.clear()
        destination = _open(seen, timeout_s=0.1)
        destination.submit(batch(1))
        wait_for(lambda: len(seen.calls) >= 2)
        seen.hang.set()
        wait_for(lambda: destination.outbox.spans_delivered == 2)
        destination.close(20.0)
        assert set(seen.spans) == set(ids(1))


def test_a_connection_that_the_collector_closed_while_idle_costs_no_retry(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with http_collector() as seen:
        destination = _open(seen)
        destination.submit(batch(1))
        wait_for(lambda: destination.outbox.spans_delivered == 2)
        port = int(seen.url.rpartition(":")[2])
    with http_collector(seen, port=port):
        destination.submit(batch(2))
        destination.close(20.0)
        assert seen.spans == ids(1, 2)


def test_the_pause_that_a_collector_asks_for_is_passed_on() -> None:
    with http_collector() as seen:
        seen.answers = [429]
        seen.answer_headers = {"Retry-After": "17"}
        transport = HttpTransport(seen.url, 10.0)
        (parcel,) = encode(batch(1)).parcels
        answer = transport.send(parcel)
        assert (answer.outcome, answer.wait_s) == (Outcome.RETRY, 17.0)
        transport.close()


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, None), ("3", 3.0), ("-3", 0.0), ("soon", None), ("inf", None), ("nan", None),
     ("Wed, 21 Oct 2015 07:28:00 GMT", 60.0), ("Wed, 21 Oct 2015 07:26:00 GMT", 0.0)],
)  # fmt: skip
def test_retry_after_is_seconds_or_a_date(value: str | None, expected: float | None) -> None:
    # 2015-10-21 07:27:00 UTC, by `date -d @1445412420 -u`
    assert retry_after_s(value, 1445412420.0) == expected


@given(st.text())
def test_any_retry_after_is_read_or_left(value: str) -> None:
    found = retry_after_s(value, time.time())
    assert found is None or found >= 0


def test_over_tls_the_token_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    token = tmp_path / "token"
    token.write_text("first\n")
    with http_collector(tls=context) as seen:
        destination = _open(seen, token_file=token, ca_file=certificate)
        destination.submit(batch(1))
        wait_for(lambda: destination.outbox.spans_delivered == 2)
        (tmp_path / "next").write_text("second-longer\n")
        (tmp_path / "next").replace(token)
        destination.submit(batch(2))
        wait_for(lambda: destination.outbox.spans_delivered == 4)
        token.unlink()
        destination.submit(batch(3))
        destination.close(20.0)
        assert seen.spans == ids(1, 2, 3)
        assert [headers["authorization"] for headers in seen.headers] == [
            "Bearer first", "Bearer second-longer", "Bearer second-longer",
        ]  # fmt: skip


def test_a_collector_with_a_certificate_that_is_not_trusted_gets_nothing(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    other, _ = make_certificate(tmp_path, "other")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with http_collector(tls=context) as seen:
        transport = HttpTransport(seen.url, 10.0, ca_file=other)
        (parcel,) = encode(batch(1)).parcels
        assert transport.send(parcel).outcome is Outcome.RETRY
        assert seen.calls == []
        transport.close()


def test_headers_and_client_certificate_come_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = make_certificate(tmp_path)
    client, client_key = make_certificate(tmp_path, "client")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(client)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "X-Tenant=a%20b,authorization=Basic%20xyz")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "x-tenant=m")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(certificate))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", str(client))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CLIENT_KEY", str(client_key))
    with http_collector(tls=context) as seen:
        destination = _open(seen)
        destination.submit(batch(1, with_metrics=True))
        destination.close(20.0)
        assert seen.spans == ids(1)
        assert [headers["x-tenant"] for headers in seen.headers] == ["a b", "m"]
        assert seen.headers[0]["authorization"] == "Basic xyz"


def test_a_token_never_crosses_the_network_unencrypted(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret")
    for protocol in ("http/protobuf", "grpc"):
        with pytest.raises(
            ConfigError, match="unencrypted to http://collector:4318; give an https"
        ) as caught:
            OtlpDestination("http://collector:4318", protocol=protocol, token_file=token)
        assert "secret" not in str(caught.value)
    for endpoint in ("http://127.0.0.1:4318", "http://[::1]:4318", "http://localhost:4318"):
        HttpTransport(endpoint, 1.0, token).close()


@pytest.mark.parametrize("content", [None, "", "two words", "é", "x" * 70_000])
def test_a_token_file_that_holds_no_token_is_one_clear_line(tmp_path: Path, content: str | None) -> None:
    token = tmp_path / "token"
    if content is not None:
        token.write_text(content)
    with pytest.raises(ConfigError, match=r"--otlp-token-file .*: cannot be used: .*; give a file") as caught:
        HttpTransport("https://c:4318", 1.0, token)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


def test_a_certificate_file_that_is_missing_is_one_clear_line(tmp_path: Path) -> None:
    for protocol in ("http/protobuf", "grpc"):
        with pytest.raises(ConfigError, match=r"ca.pem: certificate file for OTLP cannot be read"):
            OtlpDestination("https://c:4318", protocol=protocol, ca_file=tmp_path / "ca.pem")


def test_an_unknown_protocol_is_one_clear_line() -> None:
    with pytest.raises(ConfigError, match="--otlp-protocol 'http/json': give http/protobuf or grpc"):
        OtlpDestination("http://c:4318", protocol="http/json")


def test_the_endpoint_is_a_base_url_or_that_of_a_signal() -> None:
    expected = ("http://c:4318/v1/traces", "http://c:4318/v1/metrics")
    assert (
        signal_urls("http://c:4318")
        == signal_urls("http://c:4318/")
        == signal_urls("http://c:4318/v1/traces")
        == signal_urls("http://c:4318/v1/metrics/")
        == expected
    )


@pytest.mark.parametrize(
    "endpoint",
    ["collector:4318", "http://[::1", "http://c:99999", "http://c:port", "http://my collector:4318",
     "http://", "ftp://c", "http://c\0:1"],
)  # fmt: skip
def test_an_endpoint_that_is_no_url_is_one_clear_line(endpoint: str) -> None:
    with pytest.raises(ConfigError, match=r"not an http\(s\) URL") as caught:
        signal_urls(endpoint)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("rest", ["#frag", "?a=b", "/v1/traces?a=b#frag", "/?", "#"])
def test_a_query_or_fragment_of_an_endpoint_is_said_not_to_be_taken(rest: str) -> None:
    with pytest.raises(ConfigError) as caught:
        signal_urls(f"http://127.0.0.1:4318{rest}")
    assert str(caught.value) == (
        f"--otlp-endpoint 'http://127.0.0.1:4318{rest}': a query (from ? on) or fragment (from # on) is not taken;"
        " give a URL without, such as http://collector:4318"
    )


def test_the_password_of_an_endpoint_is_sent_and_never_logged(caplog: pytest.LogCaptureFixture) -> None:
    with http_collector() as seen:
        seen.answers = [503, 400]
        url = seen.url.replace("//", "//me:hidden@")
        destination = OtlpDestination(url, **AT_ONCE)  # type: ignore[arg-type]
        destination.submit(batch(1))
        destination.close(20.0)
        assert [headers["authorization"] for headers in seen.headers] == ["Basic bWU6aGlkZGVu"] * 2
    assert seen.url in caplog.text
    assert "hidden" not in caplog.text


def test_a_server_that_speaks_no_http_is_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        transport = HttpTransport(f"http://127.0.0.1:{listener.getsockname()[1]}", 0.2)
        (parcel,) = encode(batch(1)).parcels
        assert transport.send(parcel).outcome is Outcome.RETRY
        transport.close()


@pytest.mark.parametrize(
    "begun",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2328\r\n",
        b"HTTP/1.1 200 OK\r\nX-Header: ",
        b"HTTP/1.1 200 ",
    ],
)
def test_an_answer_that_drips_is_given_up_at_the_timeout_and_comes_again(begun: bytes) -> None:
    with dripping(begun) as url:
        transport = HttpTransport(url, 0.3)
        (parcel,) = encode(batch(1)).parcels
        assert transport.send(parcel).outcome is Outcome.RETRY
        transport.close()
