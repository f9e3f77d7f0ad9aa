"""Stages `engine_work`, `exposures` and `visual_waits`: what ran while a request waited, prefilled or decoded, by hand."""

from pathlib import Path
from typing import Any

import pytest
from otlp_builder import document, request, span, write
from stage_fixture import staged
from store_fixture import fetch, loaded

from vtprof_analyzer import pipeline, step_cost
from vtprof_schemas import names

EXPOSED = (
    "SELECT during, encode_ns, image_prefill_ns, text_prefill_ns, decode_ns, steps_ns FROM exposures"
    " ORDER BY list_position(['queue', 'prefill', 'decode'], during)"
)


def step(start: int, end: int | None, trace: int, **more: float) -> dict[str, Any]:
    attrs: dict[str, Any] = {names.STEP_COUNT: 1}
    attrs |= {getattr(names, "STEP_" + key.upper()): value for key, value in more.items()}
    return span(names.SPAN_STEP, start, end, attrs, trace=trace)


#  step 5:  0..50, encoder 0..20, then 10 visual and 20 other prompt tokens
#  step 6: 50..90, 20 other prompt tokens beside 20 decoding requests: 20 ns each
#  step 7: 90..130, decode alone
STEPS = [
    step(0, 50, 5, prefill_tokens=30, prefill_visual_tokens=10, encode_ns=20, encode_patches=40),
    step(50, 90, 6, prefill_tokens=20, decode_requests=20, decode_context_tokens=400),
    step(90, 130, 7, decode_requests=20),
]
TEXT = {names.TTFT_NS: 90, names.INPUT_TOKENS: 20, names.TOKENS_IMAGE: 0, names.OUTPUT_TOKENS: 2}


def test_what_ran_is_told_by_part_and_the_requests_own_tokens_are_taken_out(tmp_path: Path) -> None:
    text = request(0, 130, TEXT, queue=(10, 50), prefill=(50, 90), decode=(90, 130))
    with staged(tmp_path, [*text, *STEPS]) as db:
        assert fetch(db, EXPOSED) == [
            ("queue", 10, 10, 20, 0, 40),  # from 10 on: half of the encoder's 20, then 30 ns split 10 : 20
            ("prefill", 0, 0, 0, 20, 40),  # all 20 prompt tokens of the step are its own
            ("decode", 0, 0, 0, 40, 40),
        ]
        work = (
            "SELECT patches, visual_tokens, text_tokens, decodes, context_tokens, iterations FROM exposures"
        )
        assert fetch(db, f"{work} WHERE during = 'queue'") == [(20, 10, 20, 0, 0, pytest.approx(0.8))]
        assert fetch(db, f"{work} WHERE during = 'prefill'") == [(0, 0, 0, 20, 400, 1)]


def test_of_a_shared_prefill_the_neighbours_tokens_remain(tmp_path: Path) -> None:
    text = request(0, 90, TEXT | {names.INPUT_TOKENS: 5}, prefill=(50, 90))
    with staged(tmp_path, [*text, *STEPS]) as db:
        # 20 ns of prefill for 20 tokens, 5 of them its own
        assert fetch(db, "SELECT text_prefill_ns, text_tokens FROM exposures") == [(15, 15)]


def test_the_cost_model_tells_prefill_from_decode_and_visual_from_other_tokens_where_it_can(
    tmp_path: Path,
) -> None:
    text = request(0, 90, TEXT | {names.INPUT_TOKENS: 0}, queue=(0, 90))
    steps = [step(0, 80, 5, prefill_tokens=30, prefill_visual_tokens=15, decode_requests=10)]
    costs = [
        {"step_id": 1, "phase": "prefill", "flops": 8.0, "visual_flops": 6.0, "time_s": 3.0, "mixed": True},
        {"step_id": 1, "phase": "decode", "time_s": 1.0, "mixed": True},
    ]
    with staged(tmp_path, [*text, *steps], costs=costs) as db:
        # 80 x 3/4 = 60 prefill, of which 6/8 visual
        assert fetch(db, EXPOSED) == [("queue", 0, 45, 15, 20, 80)]


def test_steps_that_overlap_take_their_time_once_and_one_without_end_takes_none(tmp_path: Path) -> None:
    text = request(0, 90, TEXT | {names.INPUT_TOKENS: 0}, queue=(0, 90))
    steps = [
        step(0, 60, 5, decode_requests=1),
        step(40, 80, 6, prefill_tokens=4),
        step(10, None, 7, prefill_tokens=9),
    ]
    with staged(tmp_path, [*text, *steps]) as db:
        assert fetch(db, EXPOSED) == [("queue", 0, 0, 40, 40, 80)]


def test_folded_iterations_tell_their_tokens_and_no_times_of_parts(tmp_path: Path) -> None:
    text = request(0, 90, TEXT | {names.INPUT_TOKENS: 0}, queue=(0, 50))
    folded = step(0, 100, 5, count=4, prefill_tokens=40, prefill_visual_tokens=8, encode_ns=20)
    with staged(tmp_path, [*text, folded]) as db:
        assert fetch(db, EXPOSED) == [("queue", 0, 0, 0, 0, 50)]
        assert fetch(db, "SELECT iterations, visual_tokens, text_tokens FROM exposures") == [(2, 4, 16)]


def test_without_steps_or_without_a_first_token_nothing_is_told(tmp_path: Path) -> None:
    with staged(tmp_path, request(0, 130, TEXT, queue=(10, 50))) as db:
        assert fetch(db, "SELECT count(*) FROM exposures") == [(0,)]
    unfinished = request(0, 130, {names.INPUT_TOKENS: 20}, queue=(10, 50))
    with staged(tmp_path, [*unfinished, *STEPS]) as db:
        assert fetch(db, "SELECT count(*) FROM exposures") == [(0,)]
    with staged(tmp_path, []) as db:
        for table in ("engine_work", "exposures", "visual_waits", "ttft_segments", "queue_blame"):
            assert fetch(db, f"SELECT count(*) FROM {table}") == [(0,)]


def test_each_process_is_told_by_its_own_steps(tmp_path: Path) -> None:
    # `b` runs at the times of `a`; its request comes before its first step and leaves after its last.
    first = [
        *request(0, 130, TEXT | {names.INPUT_TOKENS: 0}, trace=1, queue=(0, 60)),
        step(0, 40, 5, prefill_tokens=7), step(50, 70, 6, decode_requests=3),
    ]  # fmt: skip
    second = [
        *request(0, 130, TEXT | {names.INPUT_TOKENS: 0}, trace=2, queue=(0, 80)),
        step(30, 60, 7, prefill_tokens=9), step(70, 90, 8, prefill_tokens=2),
    ]  # fmt: skip
    told = {names.SERVICE_INSTANCE_ID: "a"}, {names.SERVICE_INSTANCE_ID: "b"}
    path = write(
        tmp_path / "t.jsonl", document(*first, resource=told[0]), document(*second, resource=told[1])
    )
    with loaded(path) as db:
        pipeline.run(db, pipeline.Settings(), {step_cost.STAGE: step_cost.create_table})
        totals = "SELECT instance, busy_total, text_total, text_tokens_total FROM engine_work ORDER BY instance, start_ns"
        assert fetch(db, totals) == [("a", 40, 40, 7), ("a", 60, 40, 7), ("b", 30, 30, 9), ("b", 50, 50, 11)]
        waited = (
            "SELECT text_prefill_ns, decode_ns, e.text_tokens"
            " FROM exposures AS e JOIN request_base USING (request_number)"
        )
        order = "WHERE during = 'queue' ORDER BY trace_id"
        # Of each all of its first step, and half of the second one.
        assert fetch(db, f"{waited} {order}") == [(40, 10, 7), (40, 0, 10)]
