"""SGLang's tokenizer manager hooks: every record of a request's life, from a call's arrival to its end."""

import asyncio
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from sglang_api_doubles import AbortReq, GenerateReqInput, TokenizerManager
from sglang_doubles import Modality, item
from sglang_doubles import engine as engine  # a fixture

from vtprof_schemas import names
from vtprof_schemas.names import request_number

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OK, ABORTED, REJECTED, ERROR = range(4)


def call(manager: TokenizerManager, obj: GenerateReqInput, request: Any = None) -> None:
    async def consume() -> None:
        async for _ in manager.generate_request(obj, request):
            pass

    asyncio.run(consume())


def output(manager: TokenizerManager, rid: str, tokens: int, reason: Any = None) -> None:
    word = SimpleNamespace(rids=[rid], finished_reasons=[reason], completion_tokens=[tokens])
    asyncio.run(manager._handle_batch_output(word))


STOP = {"type": "stop", "matched": 2}


def test_the_life_of_a_request_with_an_image(engine: Any) -> None:
    engine.attach()
    manager = TokenizerManager()
    image = SimpleNamespace(size=(280, 112))
    manager.prompts["a"] = (60, [item(10, 49, (1, 16, 10))], [image])
    arrived = engine.clock.now
    call(manager, GenerateReqInput("a"), SimpleNamespace(headers={"traceparent": TRACEPARENT}))
    sent = engine.clock.now
    output(manager, "a", 1)
    output(manager, "a", 2)
    output(manager, "a", 5, STOP)
    number = request_number("a")
    assert [kind for kind, _ in engine.ring.rows] == [
        "request_arrived", "request_label", "request_parent", "request_input", "preprocess", "first_token",
        "request_finished",
    ]  # fmt: skip
    assert {fields["request"] for _, fields in engine.ring.rows} == {number}
    arrival = engine.ring.one("request_arrived")["time_ns"]
    assert arrived < arrival < sent
    label = engine.ring.one("request_label")
    assert label["text"][: label["length"]] == b"a"
    assert engine.ring.one("request_parent")["trace_id"].hex() == "0af7651916cd43dd8448eb211c80319c"
    given = engine.ring.one("request_input")
    assert (given["input_tokens"], given["text_tokens"], given["image_tokens"], given["image_items"]) == (
        60,
        20,
        40,
        1,
    )
    prepared = engine.ring.one("preprocess")
    assert prepared["start_ns"] == arrival and arrival < prepared["end_ns"] <= sent
    assert prepared["pixels"] == 280 * 112 and prepared["fetch_ns"] > 0 and prepared["cpu_ns"] >= 0
    end = engine.ring.one("request_finished")
    assert (end["status"], end["output_tokens"]) == (OK, 5)


def test_text_video_and_audio_are_counted_apart(engine: Any) -> None:
    engine.attach()
    manager = TokenizerManager()
    video, audio = item(0, 29, modality=Modality.VIDEO), item(40, 44, modality=Modality.AUDIO)
    manager.prompts["a"] = (100, [video, audio], [])
    call(manager, GenerateReqInput("a"))
    given = engine.ring.one("request_input")
    keys = (
        "text_tokens",
        "image_tokens",
        "video_tokens",
        "audio_tokens",
        "video_items",
        "audio_items",
        "cached_tokens",
    )
    assert [given[key] for key in keys] == [65, 0, 30, 5, 1, 1, -1]


def test_samples_of_one_request_count_for_it(engine: Any) -> None:
    engine.attach()
    manager = TokenizerManager()
    manager.prompts["a"] = (20, [], [])
    call(manager, GenerateReqInput("a", n=2))
    prefix, first, second = (sent.rid for sent in manager.sent)
    output(manager, prefix, 0, {"type": "length", "length": 0})
    output(manager, first, 1)
    output(manager, second, 1)
    output(manager, first, 4, STOP)
    assert engine.ring.of("request_finished") == []
    output(manager, second, 6, STOP)
    number = request_number("a")
    assert len(engine.ring.of("request_arrived")) == len(engine.ring.of("preprocess")) == 1
    assert [(row["sequence"], row["request"]) for row in engine.ring.of("sequence")] == [
        (request_number(rid), number) for rid in (prefix, first, second)
    ]
    assert engine.ring.one("first_token")["request"] == number
    end = engine.ring.one("request_finished")
    assert (end["request"], end["status"], end["output_tokens"]) == (number, OK, 10)


def test_who_does_not_stream_has_its_first_token_from_the_scheduler(engine: Any) -> None:
    engine.attach()
    manager = TokenizerManager()
    manager.prompts["a"] = (20, [], [])
    call(manager, GenerateReqInput("a", stream=False))
    output(manager, "a", 5, STOP)
    assert engine.ring.of("first_token") == [] and engine.ring.one("request_finished")["output_tokens"] == 5


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        ({"type": "abort", "message": "Aborted", "status_code": None}, ABORTED),
        ({"type": "abort", "message": "too long", "status_code": 400}, REJECTED),
        ({"type": "abort", "message": "The request queue is full.", "status_code": 503}, REJECTED),
        ({"type": "abort", "message": "NaN", "status_code": 500}, ERROR),
        ({"type": "length", "length": 8}, OK),
    ],
)
def test_a_finish_reason_says_how_it_ended(engine: Any, reason: Any, status: int) -> None:
    engine.attach()
    manager = TokenizerManager()
    manager.prompts["a"] = (20, [], [])
    call(manager, GenerateReqInput("a"))
    output(manager, "a", 2, reason)
    assert engine.ring.one("request_finished")["status"] == status


def test_a_request_dropped_from_the_queue_is_aborted_although_its_handler_was_bound_before(
    engine: Any,
) -> None:
    manager = TokenizerManager()
    engine.attach()
    manager.prompts["a"] = (20, [], [])
    call(manager, GenerateReqInput("a"))
    manager.rid_to_state["a"].output_ids = [1, 2, 3]
    manager.result_dispatcher(AbortReq("a"))
    end = engine.ring.one("request_finished")
    assert (end["status"], end["output_tokens"]) == (ABORTED, 3)
    assert manager.rid_to_state == {}


def test_refused_calls_are_rejected_with_and_without_an_id(engine: Any) -> None:
    engine.attach()
    manager = TokenizerManager()
    manager.prompts["long"] = (2000, [], [])
    for obj in (GenerateReqInput("long"), GenerateReqInput(bad=True)):
        with pytest.raises(ValueError, match=r"longer|Either"):
            call(manager, obj)
    assert [row["status"] for row in engine.ring.of("request_finished")] == [REJECTED, REJECTED]
    assert len({row["request"] for row in engine.ring.of("request_arrived")}) == 2


def test_a_client_that_goes_while_its_media_load_aborts(engine: Any) -> None:
    engine.attach()
    manager = TokenizerManager()
    manager.prompts["a"] = (20, [item(0, 9)], [SimpleNamespace(size=(10, 10))])

    async def consume() -> None:
        async for _ in manager.generate_request(GenerateReqInput("a")):
            pass

    async def leave() -> None:
        task = asyncio.ensure_future(consume())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(leave())
    assert engine.ring.one("request_finished")["status"] == ABORTED
    assert engine.ring.of("preprocess") == []


def test_health_checks_are_nobodys_requests(engine: Any) -> None:
    engine.attach()
    manager = TokenizerManager()
    manager.prompts["HEALTH_CHECK_1.5"] = (1, [], [])
    call(manager, GenerateReqInput("HEALTH_CHECK_1.5"))
    assert engine.ring.rows == [] and len(manager.sent) == 1


def test_requests_at_work_before_the_hooks_leave_no_half_records(engine: Any) -> None:
    manager = TokenizerManager()
    manager.prompts["a"] = manager.prompts["b"] = (20, [], [])
    call(manager, GenerateReqInput("a"))
    engine.attach()
    output(manager, "a", 3, STOP)
    assert engine.ring.rows == []
    call(manager, GenerateReqInput("b"))
    assert engine.ring.one("request_arrived")["request"] == request_number("b")
    engine.detach()
    call(manager, GenerateReqInput("b"))
    assert len(engine.ring.of("request_arrived")) == 1
    assert (engine.ring.info[names.ROLE], engine.ring.info[names.REQUEST_MODEL]) == ("api", "org/tiny")


def test_results_come_through_the_dispatcher_in_older_versions(
    engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["sglang"], "__version__", "0.5.10")
    engine.attach()
    manager = TokenizerManager()
    word = SimpleNamespace(rids=["a"], finished_reasons=[STOP], completion_tokens=[4])
    manager.result_dispatcher.handlers[SimpleNamespace] = lambda _word: None
    manager.prompts["a"] = (20, [], [])
    call(manager, GenerateReqInput("a"))
    manager.result_dispatcher(word)
    assert engine.ring.one("request_finished")["output_tokens"] == 4
