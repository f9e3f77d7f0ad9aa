"""OTLP that engines send arrives at the destinations as it was sent; what is no OTLP is answered, counted, and harmless."""

import gzip
import http.client
import json
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from vtprof_agent.config import Config, merge
from vtprof_agent.export.destination import Batch
from vtprof_agent.export.files import FileDestination
from vtprof_agent.export.rotating import Rotation
from vtprof_agent.receiver import grpc_server, http_server, intake
from vtprof_agent.receiver.decode import decode
from vtprof_agent.receiver.intake import (
    CONTENTS,
    MALFORMED,
    RECEIVED,
    REFUSED,
    TURNED_AWAY,
    Intake,
    TooLarge,
    Verdict,
    unpack,
)
from vtprof_agent.receiver.receiver import Receiver
from vtprof_schemas import names
from vtprof_schemas.errors import ConfigError

ANY_PORT = "127.0.0.1:0"
CAPTURE = Path(__file__).parents[1] / "fixtures" / "vllm" / "traces.jsonl"


def made_spans(count: int = 1, resource: dict[str, Any] | None = None) -> Sequence[ReadableSpan]:
    """Return spans of the SDK with everything that a span can have."""
    memory = InMemorySpanExporter()
    provider = TracerProvider(
        resource=Resource(resource or {"service.name": "s", "host.name": "far"}, "http://schema")
    )
    provider.add_span_processor(SimpleSpanProcessor(memory))
    tracer = provider.get_tracer("vllm.tracing.otel", "1.0", "http://scope", {"a": 1})
    for number in range(count):
        with tracer.start_as_current_span(f"outer {number}", kind=trace.SpanKind.SERVER) as outer:
            outer.add_event("happened", {"k": 2.5}, timestamp=77)
            outer.set_status(trace.StatusCode.ERROR)
            link = trace.Link(outer.get_span_context(), {"l": "v"})
            attributes = {"word": "ü", "int": 2**62, "float": 0.5, "flag": True, "list": ["a", "b"]}
            with tracer.start_as_current_span("inner", links=[link], attributes=attributes):
                pass
    return memory.get_finished_spans()


@pytest.fixture
def receiver() -> Iterator[tuple[Receiver, int]]:
    """A receiver over HTTP and its port."""
    found = Receiver(Config(otlp_receive_http=ANY_PORT))
    yield found, found.ports[0]
    found.close()


def post(port: int, body: bytes, path: str = "/v1/traces", **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    all_headers = {"Content-Type": "application/x-protobuf"} | {
        k.replace("_", "-"): v for k, v in headers.items()
    }
    connection.request("POST", path, body, all_headers)
    response = connection.getresponse()
    answer = response.status, response.read()
    connection.close()
    return answer


def normal(spans: Sequence[ReadableSpan]) -> dict[str, Any]:
    """Return spans as JSON by their ids, resource and scope with each."""
    found = {}
    for group in encode_spans(spans).resource_spans:
        for scope in group.scope_spans:
            for span in scope.spans:
                found[span.span_id] = (
                    str(group.resource),
                    group.schema_url,
                    str(scope.scope),
                    scope.schema_url,
                    str(span),
                )
    return found


def test_a_real_exporter_s_spans_arrive_as_they_were(receiver: tuple[Receiver, int]) -> None:
    feed, port = receiver
    sent = made_spans(3)
    exporter = OTLPSpanExporter(f"http://127.0.0.1:{port}/v1/traces", compression=Compression.Gzip)
    assert exporter.export(sent) is SpanExportResult.SUCCESS
    exporter.shutdown()
    got, points = feed.take()
    assert points == []
    assert {span.resource.attributes[names.ENGINE_NAME] for span in got} == {"vllm"}, "told by the scope"
    plain = [_without(span, names.ENGINE_NAME) for span in got]
    assert normal(plain) == normal(sent)
    assert feed.counts() == {RECEIVED: 6, REFUSED: 0, MALFORMED: 0, TURNED_AWAY: 0, CONTENTS: 0}


def _without(span: ReadableSpan, key: str) -> ReadableSpan:
    kept = {k: v for k, v in span.resource.attributes.items() if k != key}
    span._resource = Resource(kept, span.resource.schema_url)
    return span


def test_a_real_grpc_exporter_s_spans_arrive_as_they_were() -> None:

    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

    feed = Receiver(Config(otlp_receive_grpc=ANY_PORT))
    try:
        sent = made_spans(2)
        exporter = GrpcExporter(f"http://127.0.0.1:{feed.ports[0]}", insecure=True)
        assert exporter.export(sent) is SpanExportResult.SUCCESS
        exporter.shutdown()
        plain = [_without(span, names.ENGINE_NAME) for span in feed.take()[0]]
        assert normal(plain) == normal(sent)
    finally:
        feed.close()


def test_bytes_that_are_no_request_are_an_invalid_argument_over_grpc() -> None:
    import grpc

    feed = Receiver(Config(otlp_receive_grpc=ANY_PORT))
    try:
        with grpc.insecure_channel(f"127.0.0.1:{feed.ports[0]}") as channel:
            call = channel.unary_unary(f"/{grpc_server.SERVICE}/Export")
            with pytest.raises(grpc.RpcError) as caught:
                call(b"\xff\xff\xff", timeout=10)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            with pytest.raises(grpc.RpcError) as caught:
                call(b"\0" * (intake.MAX_REQUEST_BYTES + 1), timeout=30)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            packed = channel.unary_unary(f"/{grpc_server.SERVICE}/Export")
            with pytest.raises(grpc.RpcError) as caught:  # 64 MB of zeros travel as 64 kB
                packed(b"\0" * (64 << 20), timeout=30, compression=grpc.Compression.Gzip)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            metrics = channel.unary_unary("/opentelemetry.proto.collector.metrics.v1.MetricsService/Export")
            with pytest.raises(grpc.RpcError) as caught:
                metrics(b"", timeout=10)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert feed.counts()[MALFORMED] == 1
    finally:
        feed.close()


def test_without_grpcio_http_is_opened_and_grpc_is_refused_with_advice(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "grpc", None)
    monkeypatch.setattr(grpc_server, "find_spec", lambda _: None)
    with caplog.at_level("WARNING"):
        Receiver(Config(otlp_receive=True, otlp_receive_http=ANY_PORT)).close()
    assert "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/protobuf" in caplog.messages[0]
    with pytest.raises(ConfigError, match=r"--otlp-receive-grpc 127.0.0.1:0: .*vtprof\[agent\]"):
        Receiver(Config(otlp_receive_grpc=ANY_PORT))


def test_a_capture_of_vllm_in_json_arrives_whole_and_can_be_written(
    receiver: tuple[Receiver, int], tmp_path: Path
) -> None:
    feed, port = receiver
    lines = CAPTURE.read_text(encoding="utf-8").splitlines()
    for line in lines:
        assert post(port, line.encode(), Content_Type="application/json") == (200, b"{}")
    spans = feed.take()[0]
    files = FileDestination(tmp_path, "x", Rotation(1 << 30, 3600.0, None))
    files.submit(Batch(1, spans))
    files.close(1.0)
    written = "\n".join(path.read_text(encoding="utf-8") for path in tmp_path.glob("*.traces.jsonl"))
    assert _ids(written) == _ids("\n".join(lines))
    (resources,) = {
        (span.resource.attributes[names.ENGINE_NAME], span.resource.attributes[names.HOST_NAME])
        for span in spans
    }
    assert resources == ("vllm", socket.gethostname())


def _ids(text: str) -> dict[str, Any]:
    """Return each span by its id with all that an exporter may not change."""
    return {
        span["spanId"]: (
            span["traceId"], span.get("parentSpanId") or None, span["name"], int(span["startTimeUnixNano"]),
            int(span["endTimeUnixNano"]), {a["key"]: _plain(a["value"]) for a in span.get("attributes", ())},
        )
        for line in text.splitlines()
        for group in json.loads(line)["resourceSpans"]
        for scope in group["scopeSpans"]
        for span in scope["spans"]
    }  # fmt: skip


def _plain(value: dict[str, Any]) -> str:
    ((_, content),) = value.items()
    return str(content)


@pytest.mark.parametrize(
    ("body", "path", "headers", "status"),
    [
        (b"\xff\xff", "/v1/traces", {}, 400),
        (b"{", "/v1/traces", {"Content_Type": "application/json"}, 400),
        (b'{"resourceSpans": 5}', "/v1/traces", {"Content_Type": "application/json"}, 400),
        (b"[" * 100_000, "/v1/traces", {"Content_Type": "application/json"}, 400),
        (b"", "/v1/metrics", {}, 404),
        (b"", "/v1/logs", {}, 404),
        (b"", "/v1/traces", {"Content_Type": "text/plain"}, 415),
        (b"x", "/v1/traces", {"Content_Encoding": "zstd"}, 415),
        (b"x", "/v1/traces", {"Content_Encoding": "gzip"}, 400),
        (gzip.compress(b"x" * 100)[:-4], "/v1/traces", {"Content_Encoding": "gzip"}, 400),
        (b"x", "/v1/traces", {"Content_Length": str(1 << 40)}, 413),
        (b"x", "/v1/traces", {"Content_Length": "-1"}, 411),
        (gzip.compress(bytes(64 << 20)), "/v1/traces", {"Content_Encoding": "gzip"}, 413),
        (b"null", "/v1/traces", {"Content_Type": "application/json"}, 400),
        (b"5", "/v1/traces", {"Content_Type": "application/json"}, 400),
        (b"true", "/v1/traces", {"Content_Type": "application/json"}, 400),
        (b"1.5", "/v1/traces", {"Content_Type": "application/json"}, 400),
        (b'{"resourceSpans": [5]}', "/v1/traces", {"Content_Type": "application/json"}, 400),
        (b'{"a":[' + b"[]," * 500_000 + b"[]]}", "/v1/traces", {"Content_Type": "application/json"}, 413),
    ],
)
def test_what_is_not_taken_is_answered_and_counted(
    body: bytes, path: str, headers: dict[str, str], status: int, receiver: tuple[Receiver, int]
) -> None:
    feed, port = receiver
    found, answer = post(port, body, path, **headers)
    assert found == status
    assert answer, "the answer says why"
    assert feed.counts()[MALFORMED] == 1
    assert post(port, b"")[0] == 200, "the receiver goes on"


def test_who_sends_a_body_that_is_too_large_to_its_end_gets_the_answer(
    receiver: tuple[Receiver, int],
) -> None:
    """Closed with 36 MB on the wire, its connection would break and the answer be lost."""
    _, port = receiver
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("POST", "/v1/traces", bytes(40 << 20), {"Content-Type": http_server.PROTOBUF})
    answer = connection.getresponse()
    assert (answer.status, answer.headers["Connection"]) == (413, "close")
    assert b"more than 4194304 bytes" in answer.read()
    connection.close()
    assert post(port, b"")[0] == 200, "the receiver goes on"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_damage_to_a_request_is_worse_than_an_answer(data: st.DataObject) -> None:
    whole = bytearray(encode_spans(made_spans()).SerializeToString())
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    body = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    queue = Intake()
    answer = queue.offer_bytes(body)
    assert answer.verdict in (Verdict.TAKEN, Verdict.MALFORMED)
    encode_spans(queue.take())  # what was taken can be passed on


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_damaged_gzip_is_a_value_error(data: bytes) -> None:
    for body in (data, gzip.compress(data)[: len(data)]):
        try:
            unpack(body, 1000)
        except ValueError:
            continue


def test_a_bomb_is_not_unpacked() -> None:
    with pytest.raises(TooLarge):
        unpack(gzip.compress(bytes(10 << 20)), 1 << 20)


def test_a_full_queue_refuses_until_it_is_emptied() -> None:
    request = encode_spans(made_spans())
    size = request.ByteSize()
    queue = Intake(max_queued_bytes=size)
    assert queue.offer(request, size).verdict is Verdict.TAKEN
    assert queue.offer(request, size).verdict is Verdict.BUSY
    assert queue.counts() == {RECEIVED: 2, REFUSED: 2, MALFORMED: 0, TURNED_AWAY: 0, CONTENTS: 0}
    assert len(queue.take()) == 2
    assert queue.offer(request, size).verdict is Verdict.TAKEN


def test_bare_spans_without_number_are_refused_and_many_wait_only_so_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(intake, "MAX_QUEUED_SPANS", 3)
    queue = Intake()
    assert queue.offer(encode_spans(made_spans(2)), 1).verdict is Verdict.MALFORMED  # two each
    assert queue.offer(encode_spans(made_spans(1)), 1).verdict is Verdict.TAKEN
    assert queue.offer(encode_spans(made_spans(1)), 1).verdict is Verdict.BUSY


def test_a_busy_receiver_asks_to_try_again(receiver: tuple[Receiver, int]) -> None:
    feed, port = receiver
    feed._intake.close()
    assert post(port, encode_spans(made_spans()).SerializeToString())[0] == 503


def test_spans_without_valid_ids_are_left_out_and_said() -> None:
    request = encode_spans(made_spans(2))
    spans = request.resource_spans[0].scope_spans[0].spans
    spans[0].trace_id, spans[1].span_id = b"\0" * 16, b"short"
    queue = Intake()
    response = queue.offer(request, 1).response()
    assert response.partial_success.rejected_spans == 2
    assert len(queue.take()) == 2
    assert ExportTraceServiceResponse.FromString(response.SerializeToString()) == response


def test_a_host_name_that_the_engine_gave_stays_and_strangers_get_no_engine() -> None:
    request = encode_spans(made_spans(1, {"service.name": "s", "host.name": "far"}))
    request.resource_spans[0].scope_spans[0].scope.name = "vllmish"
    (resource,) = {span.resource for span in decode(request).spans}
    assert resource.attributes[names.HOST_NAME] == "far"
    assert names.ENGINE_NAME not in resource.attributes
    assert decode(ExportTraceServiceRequest()).spans == []


@pytest.mark.parametrize("address", ["0.0.0.0:4318", "[::]:4318", "192.168.1.4:4318", "example.com:4318"])
def test_the_network_is_not_listened_to(address: str) -> None:
    with pytest.raises(ConfigError, match=r"would be open to the network") as caught:
        Receiver(Config(otlp_receive_http=address))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("address", ["", "x", "127.0.0.1:", "127.0.0.1:99999", "127.0.0.1:٣"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="--otlp-receive-http"):
        Receiver(Config(otlp_receive_http=address or ":"))


@pytest.mark.parametrize("name", ["http", "grpc"])
def test_a_port_in_use_is_one_line(name: str) -> None:
    if name == "grpc":
        pytest.importorskip("grpc")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(
            ConfigError, match=f"--otlp-receive-{name} {address}: cannot listen there"
        ) as caught:
            Receiver(Config(**{f"otlp_receive_{name}": address}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["http", "grpc"])
def test_two_receivers_do_not_share_a_port(name: str) -> None:
    if name == "grpc":
        pytest.importorskip("grpc")
    first = Receiver(Config(**{f"otlp_receive_{name}": ANY_PORT}))
    try:
        with pytest.raises(ConfigError, match="cannot listen there"):
            Receiver(Config(**{f"otlp_receive_{name}": f"127.0.0.1:{first.ports[0]}"}))
    finally:
        first.close()


def test_settings_come_from_file_environment_and_flags() -> None:
    file = {"otlp_receive": True, "engine_metrics": ["http://a:1", "http://b:2"]}
    config = merge({}, {"VTPROF_AGENT_ENGINE_METRICS": "http://c:3, http://d:4"}, file, "f").config
    assert (config.otlp_receive, config.engine_metrics) == (True, ("http://c:3", "http://d:4"))
    assert merge({"engine_metrics": ["http://e:5"]}, {}, file, "f").config.engine_metrics == ("http://e:5",)
    with pytest.raises(ConfigError, match="not a list of texts"):
        merge({}, {}, {"engine_metrics": 5}, "f")


def test_every_kind_of_value_can_be_written_to_files(tmp_path: Path) -> None:
    request = encode_spans(made_spans())
    span = request.resource_spans[0].scope_spans[0].spans[0]
    span.ClearField("attributes")
    span.end_time_unix_nano, span.kind, span.status.code = 0, 99, 99
    span.attributes.add(key="nothing")
    span.attributes.add(key="bytes").value.bytes_value = b"\xff\0"
    span.attributes.add(key="nan").value.double_value = float("nan")
    span.attributes.add(key="map").value.kvlist_value.values.add(key="k").value.int_value = -5
    span.attributes.add(key="mixed").value.array_value.values.add().bool_value = True
    queue = Intake()
    queue.offer(request, 1)
    files = FileDestination(tmp_path, "x", Rotation(1 << 30, 3600.0, None))
    files.submit(Batch(1, queue.take()))
    files.close(1.0)
    assert files.outbox.spans_delivered > 0
    (path,) = tmp_path.glob("*.traces.jsonl")
    written = {
        one["spanId"]: one
        for group in json.loads(path.read_text(encoding="utf-8"))["resourceSpans"]
        for scope in group["scopeSpans"]
        for one in scope["spans"]
    }[span.span_id.hex()]
    values = {attribute["key"]: attribute["value"] for attribute in written["attributes"]}
    assert values["bytes"] == {"bytesValue": "/wA="}
    assert int(values["map"]["kvlistValue"]["values"][0]["value"]["intValue"]) == -5
    assert values["mixed"]["arrayValue"]["values"] == [{"boolValue": True}]


def test_where_it_receives_is_said_like_other_starts_once_all_is_open(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level("INFO"):
        with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigError):
            Receiver(
                Config(
                    otlp_receive_grpc="127.0.0.1:0", otlp_receive_http=f"127.0.0.1:{taken.getsockname()[1]}"
                )
            )
        assert caplog.messages == [], "of what was opened nothing is left"
        receiver = Receiver(Config(otlp_receive_grpc="127.0.0.1:0", otlp_receive_http="127.0.0.1:0"))
        receiver.close()
    over_grpc, over_http = receiver.ports
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", f"receiving OTLP traces at grpc://127.0.0.1:{over_grpc}"),
        ("INFO", f"receiving OTLP traces at http://127.0.0.1:{over_http}"),
    ]
    assert over_grpc and over_http
