"""vLLM's API server under the hooks, in the shapes of two eras: what each request of a client leaves in the ring."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from asgi_double import Starlette
from probe_doubles import ListRing
from vllm_doubles import EngineDeadError, call, image, output
from vllm_front_end import ABORTED, ERROR, OK, REJECTED, TRACEPARENT, Server, finished, text_of

from vtprof_probe.engines.vllm_api import install_api
from vtprof_probe.engines.vllm_media import MediaHooks, MediaWork
from vtprof_probe.recorder import Recorder
from vtprof_schemas import names, records


@pytest.fixture(params=["0.11.2", "0.32.0"])
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    running = Server(monkeypatch, request.param)
    yield running
    running.detach()
    assert running.ring.hook_errors == 0


def test_hooks_are_set_where_the_era_has_their_targets(server: Server) -> None:
    states = {name: state for name, state in server.setter.states.items() if state != "waiting"}
    expected = {
        "http", "chat", "add_request", "load_media", "fetch_media", "decode_data_url", "decode_file_url", "decode_image",
        "process_media", "processor_cache", "hand_over", "outputs", "abort", "engine_died",
    }  # fmt: skip
    assert states == {"vllm." + name: "set" for name in expected}


def test_text_request_leaves_one_record_of_each_kind(server: Server) -> None:
    before = time.monotonic_ns()
    core = server.chat(call())
    server.run_out(core, 5)
    kinds = [kind for kind, _ in server.ring.rows]
    assert kinds == [
        "request_arrived", "request_label", "request_input", "preprocess", "first_token", "request_finished",
    ]  # fmt: skip
    number = names.request_number(core.request_id)
    assert {fields["request"] for _, fields in server.ring.rows} == {number}
    assert text_of(server.ring.one("request_label")) == "chatcmpl-abc"
    prompt = server.ring.one("request_input")
    assert (prompt["input_tokens"], prompt["text_tokens"], prompt["image_tokens"]) == (10, 10, 0)
    assert prompt["cached_tokens"] == records.UNKNOWN
    ran = server.ring.one("preprocess")
    arrived = server.ring.one("request_arrived")["time_ns"]
    assert before <= arrived == ran["start_ns"] <= ran["end_ns"] <= server.ring.one("first_token")["time_ns"]
    assert (ran["fetch_ns"], ran["decode_ns"], ran["pixels"], ran["cache_hits"]) == (0, 0, 0, 0)
    assert finished(server) == (OK, 5)
    assert server.recorder.role == "api"


def test_images_are_counted_by_their_own_positions_and_joined_by_hash(server: Server) -> None:
    urls = ["data:image/png;base64,xx", "http://host/b.png"]
    images = [image("a", 640, 480), image("b", 100, 50)]
    core = server.chat(call(urls=urls, images=images, tokens=50))
    prompt = server.ring.one("request_input")
    # Of the 12 positions of each image 2 are tags: text.
    assert (prompt["input_tokens"], prompt["text_tokens"], prompt["image_tokens"]) == (50, 30, 20)
    assert (prompt["image_items"], prompt["video_items"], prompt["audio_items"]) == (2, 0, 0)
    ran = server.ring.one("preprocess")
    assert ran["pixels"] == 640 * 480 + 100 * 50
    assert ran["cache_hits"] == 0
    assert min(ran["fetch_ns"], ran["decode_ns"], ran["cpu_ns"]) > 0
    assert ran["fetch_ns"] + ran["decode_ns"] <= ran["end_ns"] - ran["start_ns"]
    server.run_out(core, 1)
    again = server.chat(call("def", images=[image("b", 100, 50), image("c", 10, 10)], tokens=50))
    assert server.ring.of("preprocess")[1]["cache_hits"] == 1
    assert server.ring.of("preprocess")[1]["request"] == names.request_number(again.request_id)


@pytest.mark.parametrize("stream", [False, True])
def test_callers_ids_and_trace_context_come_from_the_headers(server: Server, stream: bool) -> None:
    server.chat(call(stream=stream), traceparent=TRACEPARENT, X_Request_Id="mine")
    assert text_of(server.ring.one("request_label")) == "chatcmpl-mine"
    parent = server.ring.one("request_parent")
    assert parent["trace_id"].hex() == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert (parent["span_id"].hex(), parent["trace_flags"]) == ("00f067aa0ba902b7", 1)


def test_parallel_samples_are_one_request_with_its_sequences(server: Server) -> None:
    server.chat(call(n=3))
    children = list(server.era.engine.submitted)
    parent = server.ring.one("request_arrived")["request"]
    assert parent == names.request_number(children[0].partition("_")[2])
    assert server.ring.of("sequence") == [
        {"sequence": names.request_number(child), "request": parent} for child in children
    ]
    server.engine_says(*(output(child) for child in children))
    server.engine_says(output(children[1], finish_reason="stop"))
    server.engine_says(output(children[0], 2, "stop"))
    assert not server.ring.of("request_finished")
    server.engine_says(output(children[2], finish_reason="length"))
    assert len(server.ring.of("first_token")) == len(server.ring.of("request_input")) == 1
    # 1 + 1, 1 + 2 and 1 + 1 tokens.
    assert finished(server) == (OK, 7)


def test_first_of_two_samples_may_end_before_the_second_begins(server: Server) -> None:
    def ends_at_once() -> None:
        server.engine_says(output(server.era.engine.submitted[-1], 2, "stop"))

    server.era.engine.between = ends_at_once
    server.chat(call(n=2))
    assert finished(server) == (OK, 4)
    assert len(server.ring.of("request_arrived")) == 1


def test_stop_text_that_only_the_front_end_finds_ends_the_request(server: Server) -> None:
    core = server.chat(call(stop=["never mind"]))
    for _ in range(3):
        server.engine_says(output(core.request_id))
    assert finished(server) == (OK, 3)


@pytest.mark.parametrize("samples", [1, 2])
def test_aborted_request_counts_what_was_generated(server: Server, samples: int) -> None:
    core = server.chat(call(n=samples))
    ids = list(server.era.engine.submitted)
    server.engine_says(*(output(id_) for id_ in ids))
    by_caller = server.era.version != "0.11.2" and samples == 1
    server.era.outputs.abort_requests(
        ["chatcmpl-abc"] if by_caller or server.era.version == "0.11.2" else [core.request_id],
        **({} if by_caller or server.era.version == "0.11.2" else {"internal": True}),
    )
    assert finished(server) == (ABORTED, samples)
    server.engine_says(*(output(id_) for id_ in ids))
    assert len(server.ring.of("request_finished")) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_prompt_that_is_too_long_is_rejected_with_its_length(server: Server, stream: bool) -> None:
    with pytest.raises(Exception, match="longer") if stream or server.era.serving.raises else nullcontext():
        server.chat(call(tokens=120, stream=stream))
    assert finished(server) == (REJECTED, 0)
    assert text_of(server.ring.one("request_label")) == "chatcmpl-abc"
    assert server.ring.one("request_input")["input_tokens"] == 120
    assert server.ring.one("request_arrived")["time_ns"] <= server.ring.one("request_finished")["time_ns"]


def test_broken_image_is_rejected_without_the_engine(server: Server) -> None:
    with pytest.raises(Exception, match="load image") if server.era.serving.raises else nullcontext():
        server.chat(call(urls=["data:image/png;base64,"]), X_Request_Id="mine", traceparent=TRACEPARENT)
    assert finished(server) == (REJECTED, 0)
    assert text_of(server.ring.one("request_label")) == "chatcmpl-mine"
    assert server.ring.one("request_parent")["span_id"].hex() == "00f067aa0ba902b7"
    assert not server.ring.of("request_input")


def test_work_on_media_of_a_refused_call_is_nobody_elses(server: Server) -> None:
    with pytest.raises(Exception, match="longer") if server.era.serving.raises else nullcontext():
        server.chat(call(images=[image("a", 1000, 1000)], tokens=120))
    server.chat(call("next", images=[image("b", 10, 10)], tokens=30))
    assert server.ring.one("preprocess")["pixels"] == 100


def test_decoding_within_a_decoding_is_counted_once() -> None:
    work, connector, media_io = MediaWork(), object(), object()
    hooks = MediaHooks(Recorder(ListRing), lambda: work)
    loading = hooks.load_begins(connector, ("data:,x",), {"media_io": media_io})
    token = hooks.decode_begins(connector, ("data:,x", media_io), {})
    assert hooks.decode_begins(media_io, (b"x",), {}) is None
    assert work.decode.depth == 1
    hooks.decode_ends(token, None, None)
    assert (work.decode.depth, work.decode.ns > 0, work.cpu_ns > 0) == (0, True, True)
    hooks.load_ends(loading, None, None)
    assert hooks.decode_begins(media_io, (b"x",), {}) is None


def test_equal_refused_calls_are_requests_of_their_own(server: Server) -> None:
    for _ in range(2):
        with pytest.raises(Exception, match="longer") if server.era.serving.raises else nullcontext():
            server.chat(call(tokens=120), X_Request_Id="mine")
    assert {text_of(fields) for fields in server.ring.of("request_label")} == {"chatcmpl-mine"}
    assert len({fields["request"] for fields in server.ring.of("request_finished")}) == 2


def test_unknown_model_is_no_request(server: Server) -> None:
    server.chat(call(model="unknown"))
    assert not server.ring.rows


def test_caller_that_hangs_up_before_the_engine_is_aborted(server: Server) -> None:
    async def hang_up() -> None:
        task = asyncio.ensure_future(server.era.serving.create_chat_completion(call(), None))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(hang_up())
    assert finished(server) == (ABORTED, 0)


def test_dead_engine_fails_what_runs_and_what_comes(server: Server) -> None:
    server.chat(call())
    server.era.outputs.propagate_error(EngineDeadError())
    assert finished(server) == (ERROR, 0)

    def dead() -> None:
        raise EngineDeadError

    server.era.serving.before_engine = dead
    with pytest.raises(EngineDeadError):
        server.chat(call("later"))
    assert [fields["status"] for fields in server.ring.of("request_finished")] == [ERROR, ERROR]


def test_engine_client_used_without_a_server_is_recorded_too(server: Server) -> None:
    prompt, params = SimpleNamespace(ids=[1, 2, 3], hashes=[]), SimpleNamespace(n=1, stop=[])
    wall_before = time.time()
    core = asyncio.run(server.era.engine.add_request("mine", prompt, params, wall_before - 0.5))
    ran = server.ring.one("preprocess")
    # The engine's own arrival was half a second before.
    assert 0.5e9 <= ran["end_ns"] - ran["start_ns"] <= 0.5e9 + (time.time() - wall_before) * 1e9 + 1e6
    assert text_of(server.ring.one("request_label")) == "mine"
    server.run_out(core, 2)
    assert finished(server) == (OK, 2)
    with pytest.raises(ValueError, match="longer"):
        asyncio.run(server.era.engine.add_request("x", SimpleNamespace(ids=[0] * 101, hashes=[]), params))
    assert server.ring.of("request_finished")[1]["status"] == REJECTED


def test_concurrent_calls_keep_their_media_apart(server: Server) -> None:
    async def both() -> None:
        await asyncio.gather(
            server.era.serving.create_chat_completion(
                call("web", urls=["http://host/a.png"], images=[image("a", 10, 10)], tokens=40), None
            ),
            server.era.serving.create_chat_completion(
                call("inline", urls=["data:,x"], images=[image("b", 20, 20)], tokens=40), None
            ),
        )

    asyncio.run(both())
    labels = {fields["request"]: text_of(fields) for fields in server.ring.of("request_label")}
    ran = {labels[fields["request"]]: fields for fields in server.ring.of("preprocess")}
    assert (ran["chatcmpl-web"]["pixels"], ran["chatcmpl-inline"]["pixels"]) == (100, 400)
    assert ran["chatcmpl-web"]["fetch_ns"] > 0 == ran["chatcmpl-inline"]["fetch_ns"]
    assert ran["chatcmpl-inline"]["decode_ns"] > 0


def test_requests_in_flight_at_attach_are_left_alone(server: Server) -> None:
    server.patches.undo()
    core = server.chat(call())
    install_api(server.setter, server.recorder, server.detach)
    server.run_out(core, 3)
    server.era.outputs.abort_requests(["nobody"])
    assert not server.ring.rows


def test_detach_in_mid_flight_restores_all_and_breaks_nothing(server: Server) -> None:
    classes = [type(server.era.outputs), type(server.era.engine), type(server.era.serving), Starlette]
    core = server.chat(call())
    rows = len(server.ring.rows)
    server.ring.word = (records.DETAIL_DEFAULT, True)
    server.recorder.control_due = 0
    server.run_out(core, 3)
    assert not server.era.outputs.request_states
    assert len(server.ring.rows) == rows
    assert server.ring.closed
    patched = [name for cls in classes for name, value in vars(cls).items() if hasattr(value, "__wrapped__")]
    assert not patched
