"""Spans that engines send: what the ring of their process knows is added, what users wrote or showed is left out, and
senders beyond this machine need TLS and the token."""

import base64
import http.client
import socket
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export import SpanExportResult
from test_listening import TOKEN, make_pair, token_file
from test_otlp_receive import CAPTURE, made_spans

from vtprof_agent.config import Config
from vtprof_agent.listening import Guard
from vtprof_agent.receiver.content import is_content, is_content_event, is_content_text, is_free_text
from vtprof_agent.receiver.decode import LEFT_OUT, decode
from vtprof_agent.receiver.intake import CONTENTS, MALFORMED, RECEIVED, Intake
from vtprof_agent.receiver.otlp_json import parse_json
from vtprof_agent.receiver.receiver import Receiver
from vtprof_schemas import names

RING: Mapping[str, Any] = {
    names.HOST_NAME: "gpu-node-7", names.HW_ID: "GPU-1", names.HW_NAME: "NVIDIA H200", names.ENGINE_NAME: "vllm",
    names.MODEL_CONFIG: "{}", names.KV_DTYPE: "fp8", names.SERVICE_NAME: "vtprof", names.SERVICE_INSTANCE_ID: "ring",
    names.RING_CREATED_NS: 5, names.PROCESS_PID: 4242, names.RESOURCE_SCHEMA_VERSION: 1,
}  # fmt: skip
PNG = base64.b64encode(bytes(range(256)) * 4).decode()


def lookup(pid: int) -> Mapping[str, Any] | None:
    return RING if pid == 4242 else None


def resource_of(sent: dict[str, Any], local: bool = True) -> dict[str, Any]:
    (resource,) = {span.resource for span in decode(encode_spans(made_spans(1, sent)), lookup, local).spans}
    return dict(resource.attributes)


@pytest.mark.parametrize("pid", [{"process.pid": 4242}, {"vllm.process_id": "4242"}])
def test_what_the_ring_of_the_process_knows_and_the_sender_did_not_say_is_added(pid: dict[str, Any]) -> None:
    found = resource_of({"service.name": "engine", names.KV_DTYPE: "auto", **pid})
    assert (found[names.HOST_NAME], found[names.HW_ID], found[names.HW_NAME]) == (
        "gpu-node-7",
        "GPU-1",
        "NVIDIA H200",
    )
    assert found[names.MODEL_CONFIG] == "{}"
    assert (found[names.SERVICE_NAME], found[names.KV_DTYPE]) == ("engine", "auto"), "its own word stands"
    assert (
        not {names.SERVICE_INSTANCE_ID, names.RING_CREATED_NS, names.RESOURCE_SCHEMA_VERSION} & found.keys()
    )


@pytest.mark.parametrize(
    "sent",
    [{}, {"process.pid": 4243}, {"process.pid": "x"}, {"process.pid": -1}, {"vllm.process_id": "9" * 30}],
)
def test_a_process_without_a_ring_gets_the_host_alone(sent: dict[str, Any]) -> None:
    found = resource_of({"service.name": "engine", **sent})
    assert found[names.HOST_NAME] == socket.gethostname()
    assert names.HW_ID not in found


def test_a_sender_on_another_machine_is_not_taken_for_a_process_here() -> None:
    found = resource_of({"service.name": "engine", "process.pid": 4242}, local=False)
    assert not {names.HW_ID, names.HOST_NAME} & found.keys()


def test_a_process_of_another_engine_under_the_same_pid_is_not_mistaken_for_it() -> None:
    request = encode_spans(made_spans(1, {"service.name": "engine", "process.pid": 4242}))
    request.resource_spans[0].scope_spans[0].scope.name = "sglang server"
    (resource,) = {span.resource for span in decode(request, lookup).spans}
    assert names.HW_ID not in resource.attributes
    assert resource.attributes[names.ENGINE_NAME] == "sglang"


CONTENT_KEYS = [
    "gen_ai.prompt", "gen_ai.prompt.0.content", "gen_ai.completion.3.content", "gen_ai.input.messages",
    "gen_ai.output.messages", "gen_ai.system_instructions", "gen_ai.tool.definitions", "gen_ai.tool.call.arguments",
    "gen_ai.tool.call.result", "gen_ai.retrieval.query.text", "gen_ai.retrieval.documents", "llm.prompts", "llm.completions",
    "llm.prompts.0.content", "llm.input_messages.0.message.content", "llm.output_messages.0.message.tool_calls",
    "llm.prompt_template.variables", "llm.request.functions.0.arguments", "input.value", "output.value",
    "retrieval.documents.0.document.content", "embedding.embeddings.0.embedding.text", "image.url",
    "llm.input_messages.0.message.contents.1.message_content.image.image.url", "input.audio.transcript",
    "traceloop.entity.input", "traceloop.entity.output", "traceloop.association.properties.user", "Gen_AI.Prompt",
    "langfuse.observation.input", "langfuse.trace.output", "mlflow.spanInputs", "mlflow.spanOutputs", "ai.prompt.messages",
    "ai.response.text", "ai.response.toolCalls", "ai.toolCall.args", "http.request.body", "vllm.prompt_token_ids",
    "exception.message", "exception.stacktrace", "error.message", "user.question", "rag.query", "app.answer",
    "chat.text", "my.prompt_text", "my.system_prompt", "raw.input", "raw.inputs.0", "raw.output", "raw.outputs", "query",
    "raw.completion", "log.llm_request", "log.llm_response", "http.request_body", "http.response_body", "Final.Answer",
]  # fmt: skip
PLAIN = {
    "gen_ai.usage.prompt_tokens": 12, "gen_ai.usage.completion_tokens": 7, "gen_ai.request.id": "cmpl-1",
    "gen_ai.request.model": "m", "gen_ai.operation.name": "chat", "gen_ai.response.finish_reasons": ["stop"],
    "gen_ai.output.type": "text", "gen_ai.input.tokens": 4, "exception.type": "ValueError",
    "vtprof.tokens.audio": 5,
    "gen_ai.prompt.tokens": 9, "input.mime_type": "text/plain", "openinference.span.kind": "LLM",
    "http.request.header.content-type": "application/json", "traceloop.workflow.name": "w", "code.file.path": "/a/b.py",
    "vtprof.model.config": '{"hidden_size": 4096, "torch_dtype": "bfloat16"}',
}  # fmt: skip


@pytest.mark.parametrize("key", CONTENT_KEYS)
def test_every_convention_s_content_is_known(key: str) -> None:
    assert is_content(key, "What do you see?")
    assert is_content(key, ["What do you see?"])


@pytest.mark.parametrize("key", PLAIN)
def test_numbers_names_and_states_pass(key: str) -> None:
    assert not is_content(key, PLAIN[key])


@pytest.mark.parametrize(
    "value",
    [
        "data:image/png;base64,iVBORw0KGgo=",
        "see DATA:image/svg+xml;charset=utf-8;base64,PHN2Zz4= here",
        PNG,
        "\n".join(PNG[at : at + 76] for at in range(0, len(PNG), 76)),
        f'{{"image": "{PNG}"}}',
        ["short", PNG],
        {"inner": {"deep": PNG}},
        {"gen_ai": "x", "prompt": "What?"},
        bytes(65),
    ],
)
def test_media_are_content_under_any_key(value: Any) -> None:
    assert is_content("custom", value)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=256) | st.text(alphabet="0123456789abcdef", max_size=256))
def test_short_text_without_a_data_url_is_not_taken_for_media(text: str) -> None:
    assert is_content_text(text) == (";base64," in text.lower() and "data:" in text.lower())


def test_content_events_are_known_and_others_stay() -> None:
    details = "gen_ai.client.inference.operation.details"
    for name in (
        "gen_ai.content.prompt",
        "gen_ai.user.message",
        "gen_ai.choice",
        details,
        "prompt",
        "llm.completion",
    ):
        assert is_content_event(name)
    for name in ("exception", "first_token", "scheduled", "request completion"):
        assert not is_content_event(name)
        assert not is_free_text(name)
    for name in ("What is my password?", "tell me all you know about me", "x" * 65, "two\nlines", "病歴"):
        assert is_free_text(name)


def test_long_text_is_content_unless_its_key_is_of_a_model_or_a_configuration() -> None:
    prose = "a patient of ours said " * 12
    assert len(prose) > 256
    for value in (prose, ["short", prose], {"inner": prose}):
        assert is_content("custom.note", value)
    assert not is_content("custom.note", prose[:256])
    for key in (names.MODEL_CONFIG, names.ENGINE_CONFIG, "process.command_line", "gen_ai.request.model"):
        assert not is_content(key, prose)
        assert is_content(key, PNG)


def test_texts_of_errors_and_events_that_are_text_go_no_further() -> None:
    request = encode_spans(made_spans(1))
    for span in request.resource_spans[0].scope_spans[0].spans:
        span.status.code, span.status.message = 2, "cannot answer secret"
        event = span.events.add(name="exception")
        for key in ("exception.type", "exception.message", "exception.stacktrace"):
            event.attributes.add(key=key).value.string_value = "E" if key.endswith("type") else "of secret"
        span.events.add(name="the user wrote secret, and more")
    intake = Intake()
    intake.offer(request, 1)
    spans = intake.take()
    assert b"secret" not in encode_spans(spans).SerializeToString()
    assert intake.counts()[CONTENTS] == 2 * 4
    for span in spans:
        assert (span.status.status_code.name, span.status.description) == ("ERROR", LEFT_OUT)
        exception, told = span.events[-2:]
        assert (dict(exception.attributes or {}), told.name) == ({"exception.type": "E"}, LEFT_OUT)


def test_a_span_loses_its_content_wherever_it_stands_and_keeps_the_rest() -> None:
    request = encode_spans(made_spans(1, {"service.name": "s", "gen_ai.prompt": "secret"}))
    group = request.resource_spans[0]
    group.scope_spans[0].scope.attributes.add(key="llm.prompts").value.string_value = "secret"
    for span in group.scope_spans[0].spans:
        span.attributes.add(key="gen_ai.completion.0.content").value.string_value = "secret"
        span.events.add(name="gen_ai.content.prompt").attributes.add(key="any").value.string_value = "secret"
        span.events.add(name="kept").attributes.add(key="gen_ai.prompt").value.string_value = "secret"
        span.links.add(trace_id=b"1" * 16, span_id=b"1" * 8).attributes.add(
            key="input.value"
        ).value.string_value = "secret"
        span.status.code, span.status.message = 2, "bad image data:image/png;base64,c2VjcmV0"
    intake = Intake()
    intake.offer(request, 1)
    spans = intake.take()
    sent_on = encode_spans(spans).SerializeToString()
    assert b"secret" not in sent_on and b"c2VjcmV0" not in sent_on
    assert intake.counts()[CONTENTS] == 2 + 2 * 5
    assert {span.status.description for span in spans} == {LEFT_OUT}
    assert all("kept" in {event.name for event in span.events} for span in spans)
    assert {key for span in spans for key in span.attributes or ()} == {
        "word",
        "int",
        "float",
        "flag",
        "list",
    }


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_what_engines_really_send_holds_no_content_and_loses_nothing(engine: str) -> None:
    intake = Intake()
    for line in (CAPTURE.parents[1] / engine / "traces.jsonl").read_bytes().splitlines():
        intake.offer(parse_json(line), len(line))
    assert intake.counts()[RECEIVED] > 10
    assert intake.counts()[CONTENTS] == 0


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for localhost and its key."""
    return make_pair(tmp_path_factory.mktemp("tls"), "receiver")


@pytest.fixture
def guarded(pair: tuple[Path, Path], tmp_path: Path) -> Iterator[Receiver]:
    """Receivers that listen beyond this machine."""
    guard = Guard(*pair, token_file(tmp_path))
    config = Config(otlp_receive_grpc="0.0.0.0:0", otlp_receive_http="0.0.0.0:0")
    found = Receiver(config, guard, lookup)
    yield found
    found.close()


@pytest.mark.parametrize(("header", "status"), [(f"Bearer {TOKEN}", 200), ("Bearer wrong", 401), (None, 401)])
def test_over_http_from_beyond_this_machine_tls_and_token_are_needed(
    header: str | None, status: int, guarded: Receiver, pair: tuple[Path, Path]
) -> None:
    context = ssl.create_default_context(cafile=str(pair[0]))
    connection = http.client.HTTPSConnection("localhost", guarded.ports[1], timeout=20, context=context)
    headers = {"Content-Type": "application/x-protobuf"} | ({"Authorization": header} if header else {})
    connection.request("POST", "/v1/traces", encode_spans(made_spans()).SerializeToString(), headers)
    answer = connection.getresponse()
    assert answer.status == status
    assert (answer.getheader("WWW-Authenticate") == "Bearer") == (status == 401)
    connection.close()
    taken, _ = guarded.take()
    assert len(taken) == (2 if status == 200 else 0)
    assert guarded.counts()[MALFORMED] == (status == 401)


def test_plain_http_gets_no_answer_there(guarded: Receiver) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", guarded.ports[1], timeout=20)
    with pytest.raises((ConnectionError, http.client.BadStatusLine)):
        connection.request("POST", "/v1/traces", b"{}", {"Content-Type": "application/json"})
        connection.getresponse()
    connection.close()


@pytest.mark.parametrize("token", [TOKEN, "wrong", None])
def test_over_grpc_from_beyond_this_machine_tls_and_token_are_needed(
    token: str | None, guarded: Receiver, pair: tuple[Path, Path]
) -> None:
    grpc = pytest.importorskip("grpc")
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    exporter = OTLPSpanExporter(
        f"https://localhost:{guarded.ports[0]}",
        credentials=grpc.ssl_channel_credentials(pair[0].read_bytes()),
        headers=(("authorization", f"Bearer {token}"),) if token else None,
        timeout=20,
    )
    sent = exporter.export(made_spans())
    exporter.shutdown()
    assert (sent is SpanExportResult.SUCCESS) == (token == TOKEN)
    assert len(guarded.take()[0]) == (2 if token == TOKEN else 0)


def test_plain_grpc_gets_no_answer_there(guarded: Receiver) -> None:
    grpc = pytest.importorskip("grpc")
    with grpc.insecure_channel(f"127.0.0.1:{guarded.ports[0]}") as channel:
        export = channel.unary_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")
        with pytest.raises(grpc.RpcError):
            export(ExportTraceServiceRequest().SerializeToString(), timeout=5)
    assert guarded.counts()[RECEIVED] == 0


def test_on_this_machine_s_own_address_neither_is_asked_for(pair: tuple[Path, Path], tmp_path: Path) -> None:
    receiver = Receiver(Config(otlp_receive_http="127.0.0.1:0"), Guard(*pair, token_file(tmp_path)), lookup)
    try:
        connection = http.client.HTTPConnection("127.0.0.1", receiver.ports[0], timeout=20)
        body = encode_spans(made_spans(1, {"service.name": "s", "process.pid": 4242})).SerializeToString()
        connection.request("POST", "/v1/traces", body, {"Content-Type": "application/x-protobuf"})
        assert connection.getresponse().status == 200
        connection.close()
        spans, _ = receiver.take()
        assert {span.resource.attributes[names.HW_ID] for span in spans} == {"GPU-1"}
    finally:
        receiver.close()
