"""OTLP over gRPC against a real server with the service stubs of opentelemetry-proto."""

import builtins
from pathlib import Path
from typing import Any

import grpc
import pytest
from collectors import Seen, batch, grpc_collector, ids, make_certificate, metrics, wait_for
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from vtprof_agent.export.backoff import Backoff
from vtprof_agent.export.destination import Batch, Outcome
from vtprof_agent.export.otlp import GRPC, OtlpDestination
from vtprof_agent.export.otlp_grpc import GrpcTransport
from vtprof_agent.export.parcel import Parcel, Signal, encode
from vtprof_schemas.errors import ConfigError


def _open(seen: Seen, **more: Any) -> OtlpDestination:
    settings = {"timeout_s": 10.0, "queued_batches": 8, "backoff": Backoff(0.01, 0.01), **more}
    return OtlpDestination(seen.url, protocol=GRPC, **settings)


def test_spans_and_metrics_arrive() -> None:
    with grpc_collector() as seen:
        destination = _open(seen)
        destination.submit(batch(1, with_metrics=True))
        destination.submit(batch(2))
        destination.close(20.0)
        assert (seen.spans, seen.metrics) == (ids(1, 2), 1)
        assert (destination.outbox.spans_delivered, destination.outbox.settled()) == (4, 2)


@pytest.mark.parametrize(
    "code",
    ["CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS", "RESOURCE_EXHAUSTED",
     "UNAUTHENTICATED", "PERMISSION_DENIED", "UNIMPLEMENTED", "INTERNAL", "UNKNOWN"],
)  # fmt: skip
def test_a_collector_that_is_not_ready_gets_the_batch_again_and_once(code: str) -> None:
    with grpc_collector() as seen:
        seen.answers = [grpc.StatusCode[code]]
        destination = _open(seen)
        destination.submit(batch(1))
        destination.close(20.0)
        assert (seen.spans, seen.calls) == (ids(1), ["traces"] * 2)
        assert destination.outbox.spans_dropped == 0


@pytest.mark.parametrize("code", ["INVALID_ARGUMENT", "FAILED_PRECONDITION"])
def test_a_batch_that_is_refused_is_dropped_and_counted_and_the_next_arrives(code: str) -> None:
    with grpc_collector() as seen:
        seen.answers = [grpc.StatusCode[code]]
        destination = _open(seen)
        destination.submit(batch(1))
        destination.submit(batch(2))
        destination.close(20.0)
        assert seen.spans == ids(2)
        assert (destination.outbox.spans_dropped, destination.outbox.spans_delivered) == (2, 2)


def test_a_collector_without_metrics_gets_all_spans() -> None:
    with grpc_collector(with_metrics=False) as seen:
        destination = _open(seen)
        destination.submit(Batch(1, [], metrics()))
        destination.submit(batch(2, with_metrics=True))
        destination.close(20.0)
        assert seen.spans == ids(2)
        assert (destination.outbox.metrics_dropped, destination.outbox.spans_dropped) == (2, 0)


def test_a_message_that_is_too_large_for_the_collector_is_sent_in_halves() -> None:
    with grpc_collector(options=[("grpc.max_receive_message_length", 2000)]) as seen:
        destination = _open(seen)
        destination.submit(batch(1, spans=99))
        destination.submit(batch(2))
        destination.close(20.0)
        assert seen.spans == ids(1, spans=99) + ids(2)
        assert (destination.outbox.spans_dropped, destination.outbox.spans_delivered) == (0, 101)


def test_spans_that_are_rejected_of_a_batch_are_counted_as_lost() -> None:
    with grpc_collector() as seen:
        seen.rejects = 2
        destination = _open(seen)
        destination.submit(batch(1, spans=5))
        destination.close(20.0)
        assert (destination.outbox.spans_delivered, destination.outbox.spans_dropped) == (3, 2)


def test_the_pause_that_a_collector_asks_for_is_passed_on() -> None:
    detail = AnyMessage()
    detail.Pack(RetryInfo(retry_delay=Duration(seconds=7, nanos=500_000_000)))
    status = Status(code=grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], details=[detail])
    with grpc_collector() as seen:
        seen.answers = [grpc.StatusCode.RESOURCE_EXHAUSTED] * 2
        transport = GrpcTransport(seen.url, 10.0)
        (parcel,) = encode(batch(1)).parcels
        seen.trailers = (("grpc-status-details-bin", status.SerializeToString()),)
        answer = transport.send(parcel)
        assert (answer.outcome, answer.wait_s) == (Outcome.RETRY, 7.5)
        seen.trailers = (("grpc-status-details-bin", b"\xff\xff"),)
        assert transport.send(parcel).wait_s is None
        transport.close()


def test_a_collector_that_hangs_is_given_up_after_the_timeout() -> None:
    with grpc_collector() as seen:
        seen.hang.clear()
        destination = _open(seen, timeout_s=0.2)
        destination.submit(batch(1))
        wait_for(lambda: len(seen.calls) >= 2)
        seen.hang.set()
        wait_for(lambda: destination.outbox.spans_delivered == 2)
        destination.close(20.0)


def test_a_stop_breaks_off_a_call_under_way() -> None:
    with grpc_collector() as seen:
        seen.hang.clear()
        destination = _open(seen, timeout_s=3600.0)
        destination.submit(batch(1))
        wait_for(lambda: seen.calls)
        destination.close(0.1)
        wait_for(lambda: not destination._thread.is_alive())
        assert destination.outbox.spans_dropped == 2


def test_a_collector_that_restarts_gets_what_came_meanwhile_in_order() -> None:
    with grpc_collector() as seen:
        destination = _open(seen)
        destination.submit(batch(1))
        wait_for(lambda: destination.outbox.spans_delivered == 2)
        port = int(seen.url.rpartition(":")[2])
    destination.submit(batch(2))
    destination.submit(batch(3))
    wait_for(lambda: destination.outbox._away)
    with grpc_collector(seen, port=port):
        wait_for(lambda: destination.outbox.spans_delivered == 6)
        destination.close(20.0)
    assert seen.spans == ids(1, 2, 3)


def test_over_tls_with_a_token_and_the_headers_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = make_certificate(tmp_path)
    other, _ = make_certificate(tmp_path, "other")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "X-Tenant=blue,authorization=Basic%20xyz")
    token = tmp_path / "token"
    token.write_text("secret")
    tls = grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
    with grpc_collector(tls=tls) as seen:
        transport = GrpcTransport(seen.url, 10.0, ca_file=other)
        (parcel,) = encode(batch(1)).parcels
        assert transport.send(parcel).outcome is Outcome.RETRY
        transport.close()
        assert seen.calls == []
        destination = _open(seen, token_file=token, ca_file=certificate)
        destination.submit(batch(1))
        destination.close(20.0)
        assert seen.spans == ids(1)
        assert (seen.headers[0]["authorization"], seen.headers[0]["x-tenant"]) == ("Bearer secret", "blue")


def test_without_grpcio_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name == "grpc":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ConfigError, match="needs the package grpcio"):
        GrpcTransport("http://127.0.0.1:4317", 1.0)


@pytest.mark.parametrize("endpoint", ["collector:4317", "http://c:99999"])
def test_an_endpoint_that_is_none_is_one_clear_line(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="give one such as http://collector:4317"):
        GrpcTransport(endpoint, 1.0)


@pytest.mark.parametrize("payload", [b"", b"no gzip", encode(batch(1)).parcels[0].payload[:-9]])
def test_a_payload_that_holds_no_message_is_refused_and_not_sent(payload: bytes) -> None:
    transport = GrpcTransport("http://127.0.0.1:9", 1.0)
    assert transport.send(Parcel(Signal.TRACES, 1, 1, payload)).outcome is Outcome.REFUSED
    transport.close()
