"""A request that both the probe and the engine's own spans tell of counts once, as the probe tells it."""

from pathlib import Path

import pytest
from otlp_builder import request, span
from stage_fixture import staged
from store_fixture import fetch

from vtprof_analyzer.ingest.dialects import VLLM_REQUEST_SPAN
from vtprof_schemas import names

OURS = request(
    10, 1_000, {names.REQUEST_ID: "chatcmpl-1", names.INPUT_TOKENS: 40}, trace=1, prefill=(100, 500)
)
VLLM_KEYS = {"gen_ai.usage.prompt_tokens": 40, "gen_ai.latency.time_to_first_token": 4e-7}


@pytest.mark.parametrize("trace", [1, 2], ids=["in the caller's trace", "in a trace of its own"])
@pytest.mark.parametrize("own_id", ["chatcmpl-1", "chatcmpl-1-0123abcd"])
def test_the_engine_s_span_of_the_same_request_is_not_a_second_one(
    trace: int, own_id: str, tmp_path: Path
) -> None:
    theirs = span(
        VLLM_REQUEST_SPAN, 0, 990, {"gen_ai.request.id": own_id, **VLLM_KEYS}, trace=trace, span_id=50
    )
    with staged(tmp_path, [*OURS, theirs]) as db:
        assert fetch(db, "SELECT dialect, request_id, input_tokens FROM request_base") == [
            ("vtprof", "chatcmpl-1", 40)
        ]
        assert fetch(db, "SELECT phase FROM phase_intervals") == [("prefill",)]


def test_both_answers_to_one_request_of_two_choices_are_that_request(tmp_path: Path) -> None:
    theirs = [
        span(VLLM_REQUEST_SPAN, 0, 990, {"gen_ai.request.id": "chatcmpl-1"}, trace=trace, span_id=50)
        for trace in (5, 6)
    ]
    with staged(tmp_path, [*OURS, *theirs]) as db:
        assert fetch(db, "SELECT count(*) FROM request_base") == [(1,)]


@pytest.mark.parametrize(("trace", "requests"), [(1, 1), (2, 2)])
def test_without_an_id_the_trace_tells(trace: int, requests: int, tmp_path: Path) -> None:
    theirs = span(VLLM_REQUEST_SPAN, 0, 990, VLLM_KEYS, trace=trace, span_id=50)
    with staged(tmp_path, [*OURS, theirs]) as db:
        assert fetch(db, "SELECT count(*) FROM request_base") == [(requests,)]


def test_another_request_in_the_same_trace_stays(tmp_path: Path) -> None:
    theirs = span(VLLM_REQUEST_SPAN, 0, 990, {"gen_ai.request.id": "chatcmpl-2"}, trace=1, span_id=50)
    with staged(tmp_path, [*OURS, theirs]) as db:
        assert fetch(db, "SELECT dialect FROM request_base ORDER BY dialect") == [("vllm",), ("vtprof",)]


def test_an_id_that_comes_again_later_is_another_request(tmp_path: Path) -> None:
    theirs = span(VLLM_REQUEST_SPAN, 5_000, 6_000, {"gen_ai.request.id": "chatcmpl-1"}, trace=2, span_id=50)
    with staged(tmp_path, [*OURS, theirs]) as db:
        assert fetch(db, "SELECT count(*) FROM request_base") == [(2,)]
