"""Stages about requests: spans of a few nanoseconds, results by hand."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from otlp_builder import request, span
from stage_fixture import staged
from store_fixture import fetch

from vtprof_schemas import names

BUDGET = "SELECT preprocess_ns, queue_ns, encode_ns, prefill_ns, unexplained_ns FROM request_budget"


def test_ttft_is_cut_into_its_phases_and_the_rest_is_unexplained(tmp_path: Path) -> None:
    spans = request(
        0, 100, {names.TTFT_NS: 60}, preprocess=(0, 10), queue=(10, 20), encode=(22, 30), prefill=(30, 58)
    )
    with staged(tmp_path, spans) as db:
        assert fetch(db, BUDGET) == [(10, 10, 8, 28, 4)]


def test_an_instant_that_two_phases_claim_goes_to_the_earlier_one(tmp_path: Path) -> None:
    #  preprocess 0....10
    #  queue         8.....20
    #  encode              20..30
    #  prefill               25....50   TTFT 60
    spans = request(
        0, 100, {names.TTFT_NS: 60}, preprocess=(0, 10), queue=(8, 20), encode=(20, 30), prefill=(25, 50)
    )
    with staged(tmp_path, spans) as db:
        assert fetch(db, BUDGET) == [(10, 10, 10, 20, 10)]


def test_what_lies_outside_arrival_and_first_token_is_no_part_of_ttft(tmp_path: Path) -> None:
    spans = request(10, 100, {names.TTFT_NS: 20}, preprocess=(0, 15), prefill=(15, 90))
    with staged(tmp_path, spans) as db:
        assert fetch(db, BUDGET) == [(5, 0, 0, 15, 0)]


def test_a_phase_in_two_stretches_that_overlap_is_counted_once(tmp_path: Path) -> None:
    spans = request(0, 100, {names.TTFT_NS: 100}, queue=(0, 30), queue_2=(20, 50), queue_3=(60, 70))
    with staged(tmp_path, spans) as db:
        assert fetch(db, "SELECT duration_ns, intervals FROM phases") == [(60, 3)]
        assert fetch(db, BUDGET) == [(0, 60, 0, 0, 40)]


def test_a_phase_without_end_counts_as_no_time(tmp_path: Path) -> None:
    spans = request(0, 100, {names.TTFT_NS: 50}, queue=(0, 20), prefill=(20, None))
    with staged(tmp_path, spans) as db:
        assert fetch(db, BUDGET) == [(0, 20, 0, 0, 30)]
        assert fetch(db, "SELECT end_missing, negative_duration FROM integrity") == [(1, 0)]


def test_a_phase_that_ends_before_it_begins_counts_as_no_time(tmp_path: Path) -> None:
    spans = request(0, 100, {names.TTFT_NS: 50}, prefill=(40, 10))
    with staged(tmp_path, spans) as db:
        assert fetch(db, BUDGET) == [(0, 0, 0, 0, 50)]
        assert fetch(db, "SELECT end_missing, negative_duration FROM integrity") == [(0, 1)]


def test_a_request_without_end_ends_with_its_last_phase_and_has_no_e2e(tmp_path: Path) -> None:
    spans = request(0, None, {names.TTFT_NS: 20, names.OUTPUT_TOKENS: 5}, prefill=(0, 20), decode=(20, 80))
    with staged(tmp_path, spans) as db:
        assert fetch(db, "SELECT end_ns - arrival_ns, e2e_ns, tpot_ns FROM request_base") == [
            (80, None, None)
        ]


@pytest.mark.parametrize(("tokens", "expected"), [(5, 20.0), (2, 80.0), (1, None), (0, None), (None, None)])
def test_tpot_divides_by_one_token_less(tmp_path: Path, tokens: int | None, expected: float | None) -> None:
    attrs = {names.TTFT_NS: 20} | ({} if tokens is None else {names.OUTPUT_TOKENS: tokens})
    with staged(tmp_path, request(0, 100, attrs)) as db:
        assert fetch(db, "SELECT tpot_ns FROM request_base") == [(expected,)]


def test_no_spans_make_empty_tables(tmp_path: Path) -> None:
    with staged(tmp_path, []) as db:
        for table in (
            "request_base",
            "phases",
            "request_budget",
            "steps",
            "kv_held",
            "requests",
            "ttft_budget",
            "strata",
        ):
            assert fetch(db, f"SELECT count(*) FROM {table}") == [(0,)]
        assert fetch(db, "SELECT n_requests, ttft_ms_p50 FROM deployment_facts") == [(0, None)]


def test_a_phase_whose_request_is_absent_is_an_orphan_and_a_request_under_a_remote_parent_is_none(
    tmp_path: Path,
) -> None:
    lost = span(names.PHASE_SPANS[names.QUEUE], 0, 5, trace=7, span_id=2, parent=1)
    remote = span(names.SPAN_REQUEST, 0, 9, trace=8, span_id=1, parent=99)
    with staged(tmp_path, [lost, remote]) as db:
        assert fetch(db, "SELECT orphans FROM integrity") == [(1,)]
        assert fetch(db, "SELECT count(*) FROM requests") == [(1,)]


def test_shares_of_ttft_are_sums_over_sums_and_add_up_to_one(tmp_path: Path) -> None:
    spans = [
        *request(0, 100, {names.TTFT_NS: 100}, trace=1, queue=(0, 10), prefill=(10, 100)),
        *request(0, 300, {names.TTFT_NS: 300}, trace=2, queue=(0, 150), prefill=(150, 290)),
    ]
    with staged(tmp_path, spans) as db:
        shares = dict(fetch(db, "SELECT phase, share FROM ttft_budget WHERE population = 'all'"))
        assert shares == {"queue": 160 / 400, "prefill": 230 / 400, "unexplained": 10 / 400}
        tail = dict(fetch(db, "SELECT phase, share FROM ttft_budget WHERE population = 'tail'"))
        assert tail["queue"] == 150 / 300
        # Linear interpolation between 10 and 150 ns at p95: 10 + 0.95 x 140 = 143 ns.
        assert fetch(db, "SELECT p95_ms FROM ttft_budget WHERE population = 'all' AND phase = 'queue'") == [
            (pytest.approx(143e-6),)
        ]


def test_strata_follow_the_visual_tokens(tmp_path: Path) -> None:
    spans = []
    for trace, tokens in enumerate([0, 1, 256, 257, 16384, 16385], start=1):
        spans += request(0, 10, {names.TTFT_NS: 5, names.TOKENS_IMAGE: tokens}, trace=trace)
    with staged(tmp_path, spans) as db:
        rows = fetch(db, "SELECT visual_stratum, requests FROM strata ORDER BY position")
        assert rows == [("0", 1), ("256", 2), ("1k", 1), ("16k", 1), ("more", 1)]


def test_ttft_without_visual_takes_away_encode_preprocess_and_the_visual_part_of_prefill(
    tmp_path: Path,
) -> None:
    image = {names.TTFT_NS: 100, names.INPUT_TOKENS: 10, names.TOKENS_IMAGE: 8}
    text = {names.TTFT_NS: 30, names.INPUT_TOKENS: 2, names.TOKENS_IMAGE: 0}
    spans = [
        *request(0, 100, image, trace=1, preprocess=(0, 20), encode=(20, 50), prefill=(50, 90)),
        *request(0, 30, text, trace=2, preprocess=(0, 4), prefill=(4, 30)),
    ]
    # By FLOPs a visual token of this run weighs as much as a text token: 16 of 20 against 8 of 10.
    costs = [{"phase": "prefill", "flops": 20.0, "visual_flops": 16.0, "tokens": 10, "visual_tokens": 8}]
    with staged(tmp_path, spans, costs=costs) as db:
        rows = fetch(db, "SELECT ttft_without_visual_ms * 1e6 FROM requests ORDER BY trace_id")
        # 100 - 30 encode - (20 - 4) preprocess - 40 x 0.8 prefill = 22
        assert rows == [(pytest.approx(22),), (pytest.approx(30),)]


def step(start: int, end: int, trace: int, **more: int) -> dict[str, object]:
    attrs = {names.STEP_COUNT: 1}
    attrs.update({getattr(names, "STEP_" + key.upper()): value for key, value in more.items()})
    return span(names.SPAN_STEP, start, end, attrs, trace=trace)


WITHOUT = "SELECT round(ttft_without_visual_ms * 1e6, 6) FROM requests ORDER BY trace_id"


def test_a_text_row_of_a_mixed_batch_does_not_wait_for_its_neighbours_images(tmp_path: Path) -> None:
    #  step 20..100: encode 20..60 for the image of request 1, then prefill of both: 100 tokens, 75 of them visual
    image = {names.TTFT_NS: 100, names.INPUT_TOKENS: 80, names.TOKENS_IMAGE: 75}
    text = {names.TTFT_NS: 100, names.INPUT_TOKENS: 20, names.TOKENS_IMAGE: 0}
    spans = [
        *request(0, 100, image, trace=1, queue=(0, 20), encode=(20, 60), prefill=(60, 100)),
        *request(0, 100, text, trace=2, queue=(0, 20), prefill=(60, 100)),
        step(20, 100, 9, prefill_tokens=100, prefill_visual_tokens=75, encode_ns=40),
    ]
    with staged(tmp_path, spans) as db:
        # By tokens, for both: 100 - 40 encode - 40 x 0.75 prefill = 30
        assert fetch(db, WITHOUT) == [(30.0,), (30.0,)]
    costs = [{"step_id": 1, "phase": "prefill", "flops": 10.0, "visual_flops": 8.0, "tokens": 100}]
    with staged(tmp_path, spans, costs=costs) as db:
        # By FLOPs: 100 - 40 - 40 x 0.8 = 28
        assert fetch(db, WITHOUT) == [(28.0,), (28.0,)]


def test_encoding_that_a_request_waits_for_in_the_queue_counts_as_far_as_it_lies_before_its_first_token(
    tmp_path: Path,
) -> None:
    #  step 1: 0..50, encode 0..30     step 2 (text): 50..90     step 3: 90..200, encode 90..150
    text = {names.TTFT_NS: 80, names.INPUT_TOKENS: 20, names.TOKENS_IMAGE: 0}
    spans = [
        *request(10, 300, text, trace=2, queue=(10, 50), prefill=(50, 90)),
        step(0, 50, 5, prefill_tokens=10, prefill_visual_tokens=8, encode_ns=30),
        step(50, 90, 6, prefill_tokens=20),
        step(90, 200, 7, prefill_tokens=10, prefill_visual_tokens=8, encode_ns=60),
    ]
    with staged(tmp_path, spans) as db:
        # 80 - (30 - 10) encode; its own prefill runs in a step without visual tokens
        assert fetch(db, WITHOUT) == [(60.0,)]


def test_steps_of_another_process_delay_nobody_here(tmp_path: Path) -> None:
    from otlp_builder import document, write
    from store_fixture import loaded

    from vtprof_analyzer import pipeline, step_cost

    text = {names.TTFT_NS: 100, names.INPUT_TOKENS: 20, names.TOKENS_IMAGE: 0}
    here = [*request(0, 100, text, trace=2, prefill=(0, 100)), step(0, 100, 6, prefill_tokens=20)]
    there = [step(0, 100, 7, prefill_tokens=10, prefill_visual_tokens=10, encode_ns=90)]
    path = write(
        tmp_path / "t.jsonl",
        document(*here, resource={names.SERVICE_INSTANCE_ID: "a"}),
        document(*there, resource={names.SERVICE_INSTANCE_ID: "b"}),
    )
    with loaded(path) as db:
        pipeline.run(db, pipeline.Settings(), {step_cost.STAGE: step_cost.create_table})
        assert fetch(db, WITHOUT) == [(100.0,)]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 120), st.integers(0, 60), st.integers(0, 90), st.integers(0, 9)), max_size=6
    ),
    visual=st.integers(0, 10),
    ttft=st.integers(0, 100),
)
def test_without_visual_is_never_negative_and_never_above_the_measured_ttft(
    tmp_path: Path, steps: list[tuple[int, int, int, int]], visual: int, ttft: int
) -> None:
    attrs = {names.TTFT_NS: ttft, names.INPUT_TOKENS: 10, names.TOKENS_IMAGE: visual}
    spans = request(5, 200, attrs, preprocess=(5, 20), encode=(20, 40), prefill=(40, 90))
    for trace, (start, length, encode, tokens) in enumerate(steps, start=10):
        spans.append(
            step(
                start, start + length, trace, prefill_tokens=9, prefill_visual_tokens=tokens, encode_ns=encode
            )
        )
    with staged(tmp_path, spans) as db:
        (row,) = fetch(db, "SELECT ttft_without_visual_ms, ttft_ms FROM requests")
        assert 0 <= row[0] <= row[1]


interval = st.tuples(st.integers(-20, 120), st.integers(-20, 120))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    parts=st.lists(st.tuples(st.sampled_from(names.TTFT_PHASES), interval), max_size=8),
    ttft=st.integers(0, 100),
)
def test_the_parts_of_ttft_always_add_up_and_none_is_negative(
    tmp_path: Path, parts: list[tuple[str, tuple[int, int]]], ttft: int
) -> None:
    phases = {f"{phase}_{n}": times for n, (phase, times) in enumerate(parts)}
    covered = {instant for _, (begin, end) in parts for instant in range(max(0, begin), min(ttft, end))}
    with staged(tmp_path, request(0, 100, {names.TTFT_NS: ttft}, **phases)) as db:
        (row,) = fetch(
            db,
            "SELECT ttft_ns, preprocess_ns, queue_ns, encode_ns, transfer_ns, prefill_ns, unexplained_ns"
            " FROM request_budget",
        )
        assert sum(row[1:]) == row[0] == ttft
        assert min(row[1:]) >= 0
        assert row[-1] == ttft - len(covered)
