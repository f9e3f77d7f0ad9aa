"""Stage `queue_blame`: what a request waited for in the queue, by hand; the causes always add up."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pytest
from otlp_builder import document, request, span, write
from stage_fixture import staged
from store_fixture import fetch, loaded

from vtprof_analyzer import pipeline, step_cost
from vtprof_analyzer.report.build_ttft_detail import build_ttft_detail
from vtprof_schemas import names

TEXT = {names.TTFT_NS: 100, names.INPUT_TOKENS: 5, names.TOKENS_IMAGE: 0}


def step(start: int, end: int, trace: int, **more: float) -> dict[str, Any]:
    attrs: dict[str, Any] = {names.STEP_COUNT: 1}
    attrs |= {getattr(names, "STEP_" + key.upper()): value for key, value in more.items()}
    return span(names.SPAN_STEP, start, end, attrs, trace=trace)


@contextmanager
def staged_processes(folder: Path, processes: list[dict[str, Any]]) -> Iterator[duckdb.DuckDBPyConnection]:
    with loaded(write(folder / "t.jsonl", *processes)) as db:
        pipeline.run(db, pipeline.Settings(), {step_cost.STAGE: step_cost.create_table})
        yield db


def blame(folder: Path, *spans: dict[str, Any]) -> dict[str, int]:
    with staged(folder, spans) as db:
        ((queued,),) = fetch(db, "SELECT queue_ns FROM request_budget")
        causes = dict(fetch(db, "SELECT cause, ns FROM queue_blame"))
        assert sum(causes.values()) == queued
        return {cause: ns for cause, ns in causes.items() if ns}


def test_the_queue_is_split_by_what_ran_meanwhile_and_gaps_are_unexplained(tmp_path: Path) -> None:
    #  queue 10..95    step 0..50: encoder 0..20, rest 10 visual and 20 other tokens    gap    step 60..90: decode
    spans = request(0, 200, TEXT, queue=(10, 95), prefill=(95, 100))
    steps = [
        step(0, 50, 5, prefill_tokens=30, prefill_visual_tokens=10, encode_ns=20, encode_patches=9),
        step(60, 90, 6, decode_requests=4),
    ]
    found = blame(tmp_path, *spans, *steps)
    assert found == {
        "image_encode": 10, "image_prefill": 10, "text_prefill": 20, "decode_batch": 30, "unexplained": 10 + 5,
    }  # fmt: skip


def test_only_the_queue_before_the_first_token_counts_and_what_preprocessing_claims_is_its(
    tmp_path: Path,
) -> None:
    spans = request(0, 200, TEXT, preprocess=(0, 30), queue=(20, 60), queue_2=(120, 180))
    assert blame(tmp_path, *spans, step(0, 200, 5, decode_requests=4)) == {"decode_batch": 30}


def test_time_in_which_its_own_chunks_ran_is_its_own(tmp_path: Path) -> None:
    spans = request(0, 200, TEXT, queue=(10, 50), prefill=(30, 100))
    assert blame(tmp_path, *spans, step(0, 100, 5, prefill_tokens=5)) == {
        "text_prefill": 20,
        "own_chunks": 20,
    }


CROWDED: list[tuple[dict[str, float], dict[str, Any], str]] = [
    # Decode alone, and somebody waits: whoever could have been admitted would have been.
    ({"waiting": 1.0}, {}, "capacity"),
    ({"waiting": 0.1}, {}, "decode_batch"),  # most iterations of the window had nobody to pass over
    ({"waiting": 0.0, "preemptions": 1}, {}, "decode_batch"),
    ({"prefill_tokens": 8, "waiting": 1.0, "preemptions": 1}, {}, "capacity"),
    ({"prefill_tokens": 8, "waiting": 1.0, "kv_used_tokens": 99}, {names.KV_CAPACITY_TOKENS: 100}, "capacity"),
    ({"prefill_tokens": 8, "waiting": 1.0, "kv_used_tokens": 90}, {names.KV_CAPACITY_TOKENS: 100}, "text_prefill"),
    ({"prefill_tokens": 8, "waiting": 1.0, "running": 4.0}, {names.ENGINE_CONFIG: '{"max_num_seqs": 4}'}, "capacity"),
    ({"prefill_tokens": 8, "waiting": 1.0, "running": 3.0}, {names.ENGINE_CONFIG: '{"max_num_seqs": 4}'}, "text_prefill"),
    # A prompt stopped short of the step's tokens, and no encoder held it up.
    ({"prefill_tokens": 8, "waiting": 1.0}, {names.ENGINE_CONFIG: '{"chunked_prefill_size": 10}'}, "capacity"),
    ({"prefill_tokens": 10, "waiting": 1.0}, {names.ENGINE_CONFIG: '{"chunked_prefill_size": 10}'}, "text_prefill"),
    ({"prefill_tokens": 8, "waiting": 1.0}, {names.ENGINE_CONFIG: "no JSON"}, "text_prefill"),
]  # fmt: skip


def test_who_is_passed_over_for_want_of_room_waits_for_capacity(tmp_path: Path) -> None:
    processes = []
    for place, (work, about, _) in enumerate(CROWDED):
        decodes = 0 if "prefill_tokens" in work else 4
        spans = request(0, 200, TEXT, trace=place + 1, queue=(10, 60))
        running = step(0, 100, 100 + place, decode_requests=decodes, **work)
        processes.append(
            document(*spans, running, resource={names.SERVICE_INSTANCE_ID: f"p{place}", **about})
        )
    with staged_processes(tmp_path, processes) as db:
        found = fetch(
            db,
            "SELECT trace_id, cause FROM queue_blame JOIN request_base USING (request_number) WHERE ns = 50",
        )
    causes = {int(trace, 16): cause for trace, cause in found}
    assert [causes.get(place + 1) for place in range(len(CROWDED))] == [cause for *_, cause in CROWDED]


def test_without_steps_all_of_it_is_unexplained_and_the_report_does_not_pretend(tmp_path: Path) -> None:
    spans = request(0, 200, TEXT, queue=(10, 60))
    assert blame(tmp_path, *spans) == {"unexplained": 50}
    with staged(tmp_path, spans) as db:
        assert build_ttft_detail(db).queue is None


def test_the_report_weighs_sampled_requests_and_counts_those_without_a_cause_as_zero(tmp_path: Path) -> None:
    mega = 1_000_000
    often = TEXT | {names.TTFT_NS: 100 * mega, names.SAMPLING_RATIO: 0.25}
    spans = [
        *request(0, 200 * mega, often, trace=1, queue=(0, 40 * mega)),
        *request(
            100 * mega,
            300 * mega,
            TEXT | {names.TTFT_NS: 100 * mega},
            trace=2,
            queue=(100 * mega, 130 * mega),
        ),
        step(0, 100 * mega, 5, decode_requests=4),
        step(100 * mega, 300 * mega, 6, prefill_tokens=10),
    ]
    with staged(tmp_path, spans) as db:
        queue = build_ttft_detail(db).queue
    assert queue is not None and (queue.requests, queue.queued) == (2, 2)
    # 4 x 40 ms of decode, 1 x 30 ms of prefill, over 5 requests
    assert queue.queue_ms_mean == pytest.approx(190 / 5)
    assert [(c.cause, c.share, c.mean_ms) for c in queue.causes] == [
        ("decode_batch", pytest.approx(160 / 190), pytest.approx(32)),
        ("text_prefill", pytest.approx(30 / 190), pytest.approx(6)),
    ]


def test_causes_add_up_to_the_queue_and_none_is_negative(tmp_path: Path) -> None:
    draw = random.Random(20)

    def stretch() -> tuple[int, int]:
        begin = draw.randint(0, 120)
        return begin, begin + draw.randint(0, 60)

    processes = []
    for place in range(200):
        phases = {f"queue_{n}": stretch() for n in range(draw.randint(0, 3))}
        spans = request(0, 200, TEXT, trace=place + 1, prefill=stretch(), **phases)
        for number in range(draw.randint(0, 5)):
            tokens, encode = draw.randint(0, 9), draw.choice([0, draw.randint(1, 50)])
            more = {
                "encode_ns": encode,
                "waiting": float(draw.randint(0, 1)),
                "count": draw.choice([1, 1, 3]),
            }
            visual = draw.randint(0, 9)
            begin, end = stretch()
            spans.append(
                step(
                    begin,
                    end,
                    1000 + 10 * place + number,
                    prefill_tokens=tokens,
                    prefill_visual_tokens=visual,
                    decode_requests=draw.randint(0, 1),
                    **more,
                )
            )
        processes.append(document(*spans, resource={names.SERVICE_INSTANCE_ID: f"p{place}"}))
    with staged_processes(tmp_path, processes) as db:
        rows = fetch(
            db,
            "SELECT b.queue_ns, sum(q.ns), min(q.ns) FROM request_budget AS b"
            " LEFT JOIN queue_blame AS q USING (request_number) GROUP BY b.request_number, b.queue_ns",
        )
        told = fetch(db, "SELECT DISTINCT cause FROM queue_blame WHERE ns > 0")
    assert len(rows) == 200
    assert all(queued == (blamed or 0) and (least or 0) >= 0 for queued, blamed, least in rows)
    assert len(told) == 7
