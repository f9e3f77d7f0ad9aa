"""KV held over time by modality: stays of requests in the cache, results by hand and by brute force."""

from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kv_fixture import A, B, phase, staged_in_processes, step
from otlp_builder import request
from stage_fixture import staged
from store_fixture import fetch

from vtprof_analyzer.pipeline import run_sql_stage
from vtprof_analyzer.report.build_kv import build_kv
from vtprof_schemas import names

PROMPT = {names.INPUT_TOKENS: 10, names.TOKENS_TEXT: 6, names.TOKENS_IMAGE: 3, names.TOKENS_VIDEO: 1}


def served(
    trace: int, output: int, *phases: tuple[Any, ...], end: int = 100, **more: Any
) -> list[dict[str, Any]]:
    """Return a request of ten prompt tokens; phases as (name, start, end) or (name, start, end, attributes)."""
    attrs = {**PROMPT, names.TTFT_NS: 1, names.OUTPUT_TOKENS: output, **more}
    spans = request(0, end, attrs, trace=trace)
    return spans + [
        phase(name, start, stop, trace, number, *rest)
        for number, (name, start, stop, *rest) in enumerate(phases, 2)
    ]


def token_ns(db: duckdb.DuckDBPyConnection) -> dict[str, float]:
    return {row[0]: row[1] for row in fetch(db, "SELECT modality, token_seconds * 1e9 FROM kv")}


def test_the_prompt_is_held_from_prefill_to_the_end_and_the_output_grows_in_decode(tmp_path: Path) -> None:
    spans = served(1, 5, ("queue", 0, 10), ("prefill", 10, 20), ("decode", 20, 60))
    with staged(tmp_path, spans, resource={names.KV_BYTES_PER_TOKEN: 2}) as db:
        # 50 ns of each prompt token; output 0 to 4 (the last one is answered, not cached) in 40 ns
        assert token_ns(db) == pytest.approx(
            {"text": 6 * 50, "image": 3 * 50, "video": 50, "audio": 0, "output": 40 * 4 / 2}
        )
        rows = fetch(
            db,
            "SELECT modality, peak_tokens, peak_bytes, share FROM kv WHERE modality IN ('text', 'output') ORDER BY 1",
        )
        assert rows == [("output", 4, 8, pytest.approx(80 / 580)), ("text", 6, 12, pytest.approx(300 / 580))]
        shown = build_kv(db).over_time
        assert [row.modality for row in shown] == ["text", "image", "video", "audio", "output"]
        assert shown[0].byte_seconds == pytest.approx(2 * 300e-9)
        assert sum(row.share or 0 for row in shown) == pytest.approx(1)


def test_a_step_takes_room_before_it_encodes_and_chunks_take_it_one_after_another(tmp_path: Path) -> None:
    told = {names.PREFILL_TOKENS: 8, names.PREFILL_CHUNKS: 4}
    spans = served(1, 1, ("encode", 0, 10), ("prefill", 10, 40, told), ("decode", 40, 60))
    with staged(tmp_path, spans) as db:
        # Cached 2 of 10 at once; of the rest 2, 4, 6 and 8: on average 5. So 7 of 10 for 40 ns, and all for 20.
        assert token_ns(db)["text"] == pytest.approx(6 * (0.7 * 40 + 20))


def test_an_encoder_that_ran_long_before_prefill_holds_nothing(tmp_path: Path) -> None:
    spans = served(1, 1, ("encode", 0, 10), ("prefill", 30, 40), ("decode", 40, 60))
    with staged(tmp_path, spans) as db:
        assert token_ns(db)["text"] == pytest.approx(6 * 30)


def test_a_preemption_frees_all_until_it_is_computed_again(tmp_path: Path) -> None:
    spans = served(
        1, 5, ("prefill", 0, 10), ("decode", 10, 30), ("queue", 30, 50), ("prefill", 50, 60), ("decode", 60, 80), end=80
    )  # fmt: skip
    with staged(tmp_path, spans) as db:
        # Output 0 to 2 in the first 20 ns of decode; 2 again from 50 to 60, and 2 to 4 to the end.
        assert token_ns(db) == pytest.approx(
            {"text": 6 * 60, "image": 3 * 60, "video": 60, "audio": 0, "output": 20 + 20 + 60}
        )


def test_several_images_are_encoded_between_the_chunks_of_one_stay(tmp_path: Path) -> None:
    spans = served(
        1,
        1,
        ("encode", 0, 5),
        ("prefill", 5, 10),
        ("encode", 20, 25),
        ("prefill", 25, 30),
        ("decode", 30, 40),
    )
    with staged(tmp_path, spans) as db:
        assert fetch(db, "SELECT end_ns - begin_ns, prefilled_ns - begin_ns FROM kv_stays") == [(40, 30)]


def test_an_encode_that_nothing_prefills_after_holds_no_output(tmp_path: Path) -> None:
    """Its stay begins where decode goes on: before there is nothing that output could grow from."""
    spans = served(
        1, 5, ("encode", 0, 5), ("prefill", 5, 10), ("decode", 10, 30), ("encode", 40, 45), ("decode", 60, 80), end=80
    )  # fmt: skip
    with staged(tmp_path, spans) as db:
        stays = fetch(
            db, "SELECT begin_ns - min(begin_ns) OVER (), prefilled_ns - begin_ns FROM kv_stays ORDER BY 1"
        )
        assert stays == [(0, 10), (60, 0)]


def test_most_is_held_where_requests_meet_and_processes_are_told_apart(tmp_path: Path) -> None:
    first = served(1, 1, ("prefill", 0, 10), ("decode", 10, 60))
    second = served(2, 1, ("prefill", 50, 55), ("decode", 55, 90))
    third = served(3, 1, ("prefill", 0, 10), ("decode", 10, 20))
    with staged_in_processes(tmp_path, (A, [*first, *second]), (B, third)) as db:
        assert fetch(db, "SELECT instance, peak_tokens FROM kv WHERE modality = 'text' ORDER BY 1") == [
            ("a", 12),
            ("b", 6),
        ]
        # 'b' let go of its 6 at 20 ns, long before 'a' held 12: with the first of 'a' it held 12 as well.
        assert build_kv(db).over_time[0].peak_bytes == 2 * max(6 + 6, 12)


def test_a_request_counts_as_often_as_its_sampling_says(tmp_path: Path) -> None:
    spans = served(1, 1, ("prefill", 0, 10), ("decode", 10, 20), **{names.SAMPLING_RATIO: 0.25})
    with staged(tmp_path, spans) as db:
        assert token_ns(db)["text"] == pytest.approx(4 * 6 * 20)


@pytest.mark.parametrize("absent", [names.OUTPUT_TOKENS, names.TOKENS_IMAGE, names.INPUT_TOKENS])
def test_a_request_that_does_not_tell_its_tokens_is_in_no_sum(tmp_path: Path, absent: str) -> None:
    attrs = {names.TTFT_NS: 20, names.INPUT_TOKENS: 10, names.TOKENS_IMAGE: 4, names.OUTPUT_TOKENS: 2}
    del attrs[absent]
    with staged(tmp_path, request(0, 100, attrs, prefill=(0, 20), decode=(20, 100))) as db:
        assert token_ns(db) == {}


def test_the_engines_own_count_stands_beside_it_with_the_difference(tmp_path: Path) -> None:
    spans = [*served(1, 1, ("prefill", 0, 10), ("decode", 10, 50)), step(0, 50, 8, 5, trace=9)]
    with staged_in_processes(tmp_path, (A, spans)) as db:
        rows = fetch(db, "SELECT * EXCLUDE instance FROM kv_reconciled")
        assert rows == [pytest.approx((400e-9, 250e-9, 500e-9, 200e-9, 500 / 400 - 1))]
        assert build_kv(db).over_time_difference == pytest.approx(0.25)


TIMES = st.lists(st.integers(0, 40), min_size=3, max_size=3).map(sorted).filter(lambda t: t[0] < t[2])
STAYS = st.lists(
    st.tuples(TIMES, st.sampled_from([0.25, 0.5, 1.0]), *(st.integers(0, 9) for _ in range(4))),
    min_size=1, max_size=6,
)  # fmt: skip


def held_at(stays: list[Any], moment: float) -> tuple[float, float]:
    """Return text and output tokens held right before a moment, added up stay by stay."""
    text = output = 0.0
    for (begin, prefilled, end), level, tokens, _, first, more in stays:
        if begin < moment <= prefilled:
            text, output = text + level * tokens, output + level * first
        elif prefilled < moment <= end:
            text, output = text + tokens, output + first + more * (moment - prefilled) / (end - prefilled)
    return text, output


def kv_stays(db: duckdb.DuckDBPyConnection) -> None:
    """Create the table of stays, empty."""
    db.execute(
        "CREATE TABLE kv_stays (instance VARCHAR, token_bytes DOUBLE, weight DOUBLE, begin_ns BIGINT,"
        " prefilled_ns BIGINT, end_ns BIGINT, prefill_level DOUBLE, text_tokens BIGINT, image_tokens BIGINT,"
        " video_tokens BIGINT, audio_tokens BIGINT, output_from DOUBLE, output_to DOUBLE)"
    )


def test_what_rounding_leaves_of_a_process_is_not_held_by_the_next_one() -> None:
    with duckdb.connect() as db:
        kv_stays(db)
        for number in range(12):
            # Every other process holds images: at a level that doubles do not add up to one with the rest of it.
            db.execute(
                "INSERT INTO kv_stays VALUES (?, 1, 0.7, 0, 10, 20, 0.1, 5, ?, 0, 0, 0, 0)",
                [f"process {number}", 7 * (number % 2)],
            )
        run_sql_stage(db, "61_kv_modalities.sql")
        peaks = fetch(db, "SELECT instance, peak_tokens FROM kv WHERE modality = 'image'")
    assert {peak for name, peak in peaks if int(name.split()[1]) % 2 == 0} == {0.0}
    assert [peak for _, peak in peaks if peak] == [pytest.approx(0.7 * 7)] * 6


@settings(max_examples=60, deadline=None)
@given(STAYS)
def test_areas_and_peaks_are_those_of_adding_up_every_nanosecond(stays: list[Any]) -> None:
    with duckdb.connect() as db:
        kv_stays(db)
        for (begin, prefilled, end), level, text, image, first, more in stays:
            row = [
                "a",
                1.0,
                1.0,
                begin,
                prefilled,
                end,
                level,
                text,
                image,
                0,
                0,
                float(first),
                float(first + more),
            ]
            db.execute(f"INSERT INTO kv_stays VALUES ({', '.join('?' for _ in row)})", row)
        run_sql_stage(db, "61_kv_modalities.sql")
        found = {
            row[0]: row[1:] for row in fetch(db, "SELECT modality, token_seconds * 1e9, peak_tokens FROM kv")
        }
    # What is held changes in whole nanoseconds and is straight between them: the middle of each is its mean.
    middles = [held_at(stays, ns + 0.5) for ns in range(41)]
    ends = [held_at(stays, ns) for ns in range(42)] + [held_at(stays, ns + 1e-9) for ns in range(42)]
    for place, modality in enumerate(("text", "output")):
        area, peak = found[modality]
        assert area == pytest.approx(sum(held[place] for held in middles), abs=1e-6)
        assert peak == pytest.approx(max(held[place] for held in ends), abs=1e-6)
