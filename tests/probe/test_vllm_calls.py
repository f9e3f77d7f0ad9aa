"""What is known of one call to vLLM's API server, though one task serves it and another hands it to the engine."""

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from asgi_double import serve
from vllm_doubles import ImageMediaIO, call, image
from vllm_front_end import TRACEPARENT, Server, text_of

from vtprof_schemas import records


@pytest.fixture(params=["0.11.2", "0.32.0"])
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    running = Server(monkeypatch, request.param)
    yield running
    running.detach()
    assert running.ring.hook_errors == 0


def test_media_of_a_stream_are_its_own_though_another_task_hands_it_over(server: Server) -> None:
    async def both() -> None:
        def chat(name: str, url: str) -> Any:
            asked = call(name, urls=[url], images=[image(name, 10, 10)], tokens=40, stream=True)
            return lambda _headers: server.era.serving.create_chat_completion(asked, None)

        await asyncio.gather(
            serve(chat("web", "http://host/a.png"), {"traceparent": TRACEPARENT}),
            serve(chat("inline", "data:,x"), {}),
        )

    asyncio.run(both())
    labels = {fields["request"]: text_of(fields) for fields in server.ring.of("request_label")}
    ran = {labels[fields["request"]]: fields for fields in server.ring.of("preprocess")}
    assert ran["chatcmpl-web"]["fetch_ns"] > 0 == ran["chatcmpl-inline"]["fetch_ns"]
    for fields in ran.values():
        assert fields["fetch_ns"] + fields["decode_ns"] <= fields["end_ns"] - fields["start_ns"]
        assert fields["decode_ns"] > 0
    assert labels[server.ring.one("request_parent")["request"]] == "chatcmpl-web"


def test_endpoint_without_a_hook_of_its_own_keeps_trace_and_media(server: Server) -> None:
    async def pooling(_headers: Any) -> Any:
        await server.era.serving.connector.load_from_url_async("http://host/a.png", ImageMediaIO())
        prompt = SimpleNamespace(ids=list(range(40)), hashes=["a"])
        return await server.era.engine.add_request("embd-1", prompt, SimpleNamespace(n=1, stop=[]))

    server.http(pooling, traceparent=TRACEPARENT)
    assert text_of(server.ring.one("request_label")) == "embd-1"
    assert server.ring.one("request_parent")["span_id"].hex() == "00f067aa0ba902b7"
    ran = server.ring.one("preprocess")
    assert 0 < ran["fetch_ns"] < ran["end_ns"] - ran["start_ns"]

    async def unseen(_headers: Any) -> Any:
        prompt = SimpleNamespace(ids=list(range(40)), hashes=["b"])
        return await server.era.engine.add_request("score-1", prompt, SimpleNamespace(n=1, stop=[]))

    server.http(unseen)
    ran = server.ring.of("preprocess")[1]
    assert (ran["fetch_ns"], ran["decode_ns"]) == (records.UNKNOWN, records.UNKNOWN)


def test_next_turn_of_a_call_arrives_after_the_one_before(server: Server) -> None:
    async def turns(_headers: Any) -> Any:
        for name in ("resp_1", "resp_2"):
            prompt = SimpleNamespace(ids=[1, 2, 3], hashes=[])
            core = await server.era.engine.add_request(name, prompt, SimpleNamespace(n=1, stop=[]))
            server.run_out(core, 2)

    server.http(turns)
    arrived = [fields["time_ns"] for fields in server.ring.of("request_arrived")]
    # vLLM tells its own arrival in seconds, as a float: to a quarter of a microsecond.
    assert arrived[1] >= server.ring.of("request_finished")[0]["time_ns"] - 1_000


def test_request_of_a_kept_connection_is_not_taken_for_the_one_before(server: Server) -> None:
    async def both() -> None:
        def chat(name: str) -> Any:
            asked = call(name, stream=True)
            return lambda _headers: server.era.serving.create_chat_completion(asked, None)

        async def then(headers: Any) -> Any:
            answer = await chat("first")(headers)
            # Pipelined: its task is started by what the first one runs.
            await serve(chat("second"), {})
            return answer

        await serve(then, {"traceparent": TRACEPARENT})

    asyncio.run(both())
    labels = {fields["request"]: text_of(fields) for fields in server.ring.of("request_label")}
    assert set(labels.values()) == {"chatcmpl-first", "chatcmpl-second"}
    assert labels[server.ring.one("request_parent")["request"]] == "chatcmpl-first"


def test_malformed_traceparent_is_ignored_and_the_call_recorded(server: Server) -> None:
    """A client must not be able to raise the count of the probe's own errors."""
    server.chat(call(), traceparent="00-nonsense-01")
    assert len(server.ring.of("request_arrived")) == 1
    assert not server.ring.of("request_parent")
    assert server.ring.hook_errors == 0


def test_media_of_an_encoder_decoder_model_are_in_no_position_of_the_prompt(server: Server) -> None:
    async def transcription(_headers: Any) -> Any:
        # Four tokens begin the decoder's text; the ten of the clip's embeddings are the encoder's.
        prompt = SimpleNamespace(ids=[1, 2, 3, 4], hashes=["clip"])
        return await server.era.engine.add_request("transcription-1", prompt, SimpleNamespace(n=1, stop=[]))

    server.http(transcription)
    told = server.ring.one("request_input")
    assert (told["input_tokens"], told["text_tokens"]) == (4, 4)
    assert (told["image_tokens"], told["image_items"]) == (0, 1)
