"""Requests from traces: their times, tokens and caches are those that the spans tell; what cannot be is counted."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from otlp_builder import BASE_NS, document, request, span, write
from otlp_messages import length32, message
from store_fixture import loaded
from synthetic.day import make_day
from synthetic.scenarios import CACHES, TWO_ENGINES
from table_files import read

from vtprof_analyzer.regress.requests import Requests, Run
from vtprof_analyzer.runs.trace_requests import run_stages, sifted_requests
from vtprof_schemas import SCHEMA_VERSION, names
from vtprof_schemas.errors import DataError, NoData

MS = 1_000_000
FIXTURES = Path(__file__).parents[1] / "fixtures"
RESOURCE = {
    names.SERVICE_INSTANCE_ID: "ring-1", names.ENGINE_NAME: "vllm", names.ENGINE_VERSION: "0.33.0",
    names.WEIGHTS_DTYPE: "bfloat16", names.KV_DTYPE: "fp8", names.PARALLEL_TP: 2, names.KV_BYTES_PER_TOKEN: 512,
    names.KV_FIXED_BYTES: 7, names.HW_NAME: "NVIDIA H200", names.HW_ID: "GPU-a,GPU-b",
}  # fmt: skip
TOLD = {
    names.TTFT_NS: 100 * MS, names.REQUEST_MODEL: "m", names.INPUT_TOKENS: 105, names.OUTPUT_TOKENS: 11,
    names.TOKENS_TEXT: 20, names.TOKENS_IMAGE: 60, names.TOKENS_VIDEO: 20, names.TOKENS_AUDIO: 5,
    names.TOKENS_CACHED: 16, names.ITEMS_IMAGE: 1, names.ITEMS_VIDEO: 1,
}  # fmt: skip
PHASES = {
    "preprocess": (0, 10 * MS), "queue": (10 * MS, 13 * MS), "encode": (13 * MS, 43 * MS), "prefill": (43 * MS, 93 * MS),
}  # fmt: skip


def recorded(folder: Path, *spans: dict[str, Any], resource: dict[str, Any] = RESOURCE) -> Path:
    return write(folder / "t.jsonl", document(*spans, resource=resource))


def values(found: Requests, *fields: str) -> dict[str, list[float]]:
    return {field: getattr(found, field).tolist() for field in fields}


def test_a_request_has_the_times_and_tokens_of_its_spans(tmp_path: Path) -> None:
    run = read(recorded(tmp_path, *request(0, 200 * MS, TOLD, **PHASES)))
    found = run.requests
    assert (found.ids.tolist(), found.start_ns.tolist(), found.models) == ([f"{1:032x}"], [BASE_NS], ("m",))
    expected = {
        "text_tokens": 20, "visual_tokens": 80, "audio_tokens": 5, "output_tokens": 11, "cached_tokens": 16, "images": 2,
        "preprocess_ms": 10, "queue_ms": 3, "encode_ms": 30, "transfer_ms": 0, "prefill_ms": 50, "unexplained_ms": 7,
        "ttft_ms": 100, "tpot_ms": 10, "weight": 1,
        "kv_bytes": (105 + 10) * 512 + 7,  # the last token is answered, not cached
    }  # fmt: skip
    assert values(found, *expected) == {field: [value] for field, value in expected.items()}
    assert np.isnan([found.encoder_hit[0], found.in_flight[0]]).all()
    assert (run.skipped, run.notes) == ({}, ())


def test_kv_bytes_that_the_engine_told_come_before_derived_ones(tmp_path: Path) -> None:
    told = request(0, 200 * MS, TOLD | {names.KV_BYTES: 4711}, **PHASES)
    assert read(recorded(tmp_path, *told)).requests.kv_bytes.tolist() == [4711]


def test_kv_bytes_are_not_derived_from_a_config(tmp_path: Path) -> None:
    bare = {names.SERVICE_INSTANCE_ID: "ring-1", names.MODEL_CONFIG: '{"model_type": "qwen2_5_vl"}'}
    found = read(recorded(tmp_path, *request(0, 200 * MS, TOLD, **PHASES), resource=bare)).requests
    assert np.isnan(found.kv_bytes).all()


def test_the_encoder_hit_is_the_share_of_items_found(tmp_path: Path) -> None:
    def encode(trace: int, attrs: dict[str, Any]) -> list[dict[str, Any]]:
        own = {name: times for name, times in PHASES.items() if name != "encode"}
        child = span(names.PHASE_SPANS["encode"], 13 * MS, 43 * MS, attrs, trace=trace, span_id=9, parent=1)
        return [*request(trace * MS, 200 * MS, TOLD, trace=trace, **own), child]

    spans = [
        *encode(1, {names.ENCODE_ITEMS: 1, names.ENCODE_CACHE_HITS: 3}),
        *encode(2, {names.ENCODE_ITEMS: 0, names.ENCODE_CACHE_HITS: 2}),
        *encode(3, {names.ENCODE_ITEMS: 2, names.ENCODE_CACHE_HITS: 0}),
        *encode(4, {names.ENCODE_ITEMS: 2}),
    ]
    np.testing.assert_array_equal(read(recorded(tmp_path, *spans)).requests.encoder_hit, [0.75, 1, 0, np.nan])


@pytest.mark.parametrize(
    ("start", "end", "attrs", "phases", "reason"),
    [
        (0, 200 * MS, {names.REQUEST_STATUS: "aborted"}, {}, "aborted"),
        (0, 200 * MS, {names.REQUEST_STATUS: "Error"}, {}, "error"),
        (0, 200 * MS, {names.REQUEST_STATUS: "half"}, {}, "unknown status"),
        (50 * MS, 0, {}, {}, "negative duration"),
        (0, 60 * MS, {}, {}, "impossible TTFT"),
        (0, 200 * MS, {names.TTFT_NS: -5}, {}, "no time told"),
        (0, 200 * MS, {}, {"encode": (43 * MS, 13 * MS)}, "negative duration of a phase"),
        (0, 200 * MS, {}, {"encode": (13 * MS, None)}, "phase without an end"),
    ],
)
def test_a_request_that_cannot_be_is_left_out_and_counted(
    tmp_path: Path, start: int, end: int, attrs: dict[str, Any], phases: dict[str, Any], reason: str
) -> None:
    odd = request(start, end, TOLD | attrs, trace=2, **(PHASES | phases))
    run = read(recorded(tmp_path, *request(0, 200 * MS, TOLD, **PHASES), *odd))
    assert (run.requests.ids.tolist(), run.skipped) == ([f"{1:032x}"], {reason: 1})


def test_a_request_without_a_first_token_tells_no_time(tmp_path: Path) -> None:
    none = {key: value for key, value in TOLD.items() if key != names.TTFT_NS}
    spans = [*request(0, 200 * MS, TOLD, **PHASES), *request(0, 200 * MS, none, trace=2, **PHASES)]
    assert read(recorded(tmp_path, *spans)).skipped == {"no time told": 1}


def test_phases_that_were_not_recorded_are_unknown(tmp_path: Path) -> None:
    spans = [*request(0, 200 * MS, TOLD, **PHASES), *request(5, 200 * MS, TOLD, trace=2)]
    run = read(recorded(tmp_path, *spans))
    np.testing.assert_array_equal(run.requests.prefill_ms, [50, np.nan])
    np.testing.assert_array_equal(run.requests.unexplained_ms, [7, np.nan])
    assert run.notes == ("no phases were recorded for 1 request",)


def test_requests_beside_are_the_mean_of_running_less_itself(tmp_path: Path) -> None:
    def step(trace: int, start: int, end: int, running: float) -> dict[str, Any]:
        return span(
            names.SPAN_STEP,
            start * MS,
            end * MS,
            {names.STEP_COUNT: 1, names.STEP_RUNNING: running},
            trace=trace,
        )

    steps = [step(101, 0, 10, 3.0), step(102, 10, 20, 1.0), step(103, 300, 320, 5.0)]
    # A second rank that tells the same changes nothing.
    steps += [step(201, 0, 10, 3.0), step(202, 10, 20, 1.0), step(203, 300, 320, 5.0)]
    spans = [
        *request(0, 250 * MS, TOLD, trace=1),  # (10 x 3 + 10 x 1) / 20 - 1
        *request(15 * MS, 310 * MS, TOLD, trace=2),  # (5 x 1 + 10 x 5) / 15 - 1
        *request(30 * MS, 230 * MS, TOLD, trace=3),  # no step in its time
    ]
    found = read(recorded(tmp_path, *spans, *steps)).requests
    np.testing.assert_allclose(found.in_flight, [1, 55 / 15 - 1, np.nan], rtol=1e-12)


def test_sampled_requests_weigh_what_they_stand_for(tmp_path: Path) -> None:
    told = request(0, 200 * MS, TOLD | {names.SAMPLING_RATIO: 0.25}, **PHASES)
    assert read(recorded(tmp_path, *told)).requests.weight.tolist() == [4]


def test_a_run_says_what_served_it(tmp_path: Path) -> None:
    run = read(recorded(tmp_path, *request(0, 200 * MS, TOLD, **PHASES)))
    assert (run.engine, run.device, run.settings) == (
        "vllm 0.33.0",
        "2 x NVIDIA H200",
        "bfloat16, KV fp8, TP 2",
    )


def test_what_differs_between_processes_is_all_said(tmp_path: Path) -> None:
    other = {
        names.SERVICE_INSTANCE_ID: "ring-2", names.ENGINE_NAME: "sglang", names.HW_NAME: "NVIDIA L4",
        names.WEIGHTS_DTYPE: "float16",
    }  # fmt: skip
    # An API process does not run the model: what it tells of its settings is not all of them.
    api = {
        names.SERVICE_INSTANCE_ID: "ring-3", names.ROLE: "api", names.ENGINE_NAME: "vllm", names.ENGINE_VERSION: "0.33.0",
        names.PARALLEL_TP: 2,
    }  # fmt: skip
    write(
        tmp_path / "t.jsonl",
        document(*request(0, 200 * MS, TOLD, **PHASES), resource=RESOURCE),
        document(*request(0, 200 * MS, TOLD, trace=2, **PHASES), resource=other),
        document(*request(0, 200 * MS, TOLD, trace=3, **PHASES), resource=api),
    )
    run = read(tmp_path)
    assert (run.engine, run.device) == ("sglang + vllm 0.33.0", "2 x NVIDIA H200 + NVIDIA L4")
    assert run.settings == "bfloat16, KV fp8, TP 2 + float16"


def test_what_was_not_recorded_is_not_said(tmp_path: Path) -> None:
    run = read(recorded(tmp_path, *request(0, 200 * MS, TOLD, **PHASES), resource={}))
    assert (run.engine, run.device, run.settings) == (None, None, None)


def test_stages_can_be_run_over_base_tables_that_another_filled(tmp_path: Path) -> None:
    with loaded(recorded(tmp_path, *request(0, 200 * MS, TOLD, **PHASES))) as connection:
        run_stages(connection)
        assert sifted_requests(connection).requests.ttft_ms.tolist() == [100]


def test_faults_beside_traces_are_told(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", document(*request(0, 200 * MS, TOLD, **PHASES)), "{broken")
    assert read(tmp_path).notes[0] == "1 unreadable line and 0 unusable spans left out"
    told = message(document(*request(0, 200 * MS, TOLD, trace=2, **PHASES)))
    (tmp_path / "b.pb").write_bytes(length32(told) + b"junkjunk" + length32(told))
    assert read(tmp_path).notes[0] == "1 unreadable line, 1 unreadable message and 0 unusable spans left out"


def test_traces_of_a_newer_version_alone_are_refused(tmp_path: Path) -> None:
    newer = RESOURCE | {names.RESOURCE_SCHEMA_VERSION: SCHEMA_VERSION + 1}
    with pytest.raises(DataError, match="upgrade vtprof"):
        read(recorded(tmp_path, *request(0, 200 * MS, TOLD, **PHASES), resource=newer))


@pytest.mark.parametrize(
    ("spans", "told"),
    [
        ([], "neither traces nor a request table"),
        ([span("GET /", 0, 9)], r"neither traces nor a request table \(1 span of other programs\)"),
        ([span(names.SPAN_STEP, 0, 9)], "no request can be used"),
        (request(0, 200 * MS, TOLD | {names.REQUEST_STATUS: "error"}), r"no request can be used \(1 error\)"),
    ],
)
def test_traces_without_requests_are_no_data(tmp_path: Path, spans: list[dict[str, Any]], told: str) -> None:
    with pytest.raises(NoData, match=told):
        read(recorded(tmp_path, *spans))


def test_real_spans_of_vllm_tell_what_they_tell() -> None:
    run = read(FIXTURES / "vllm" / "traces.jsonl")
    found = run.requests
    assert run.engine is not None and run.engine.startswith("vllm")
    assert np.isfinite(np.array([found.ttft_ms, found.queue_ms, found.prefill_ms, found.output_tokens])).all()
    assert np.isnan(np.array([found.encode_ms, found.preprocess_ms])).all()
    # Tokens of the prompt are told, not of which kind.
    assert (found.text_tokens > 0).all() and not found.visual_tokens.any()
    assert run.notes[-1].startswith("visual tokens are not recorded")
    np.testing.assert_allclose(found.queue_ms + found.prefill_ms + found.unexplained_ms, found.ttft_ms)


def test_real_spans_of_sglang_tell_what_they_tell() -> None:
    found = read(FIXTURES / "sglang" / "traces.jsonl").requests
    assert (found.text_tokens > 0).all() and not found.visual_tokens.any()
    parts = found.preprocess_ms + found.queue_ms + found.prefill_ms + found.unexplained_ms
    np.testing.assert_allclose(parts, found.ttft_ms)


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> tuple[pl.DataFrame, Run]:
    """A synthetic day with popular images: the truth of its requests, and what was read."""
    made = make_day(replace(CACHES, seconds=15), 5, interference=False)
    folder = tmp_path_factory.mktemp("day")
    made.write(folder)
    return made.truth["requests"].filter(pl.col("recorded")), read(folder)


def test_requests_of_a_day_are_those_that_were_served(day: tuple[pl.DataFrame, Run]) -> None:
    truth, run = day
    served = truth.filter(pl.col("ttft_ns").is_not_null() & (pl.col("status") == "ok")).sort("arrival_ns")
    found = run.requests
    np.testing.assert_allclose(found.ttft_ms, served["ttft_ns"] / 1e6, rtol=1e-12)
    assert found.visual_tokens.tolist() == (served["image_tokens"] + served["video_tokens"]).to_list()
    assert found.cached_tokens.tolist() == served["cached_tokens"].to_list()
    assert sum(run.skipped.values()) == len(truth) - len(served)
    parts = [
        getattr(found, f"{part}_ms")
        for part in ("preprocess", "queue", "encode", "transfer", "prefill", "unexplained")
    ]
    np.testing.assert_allclose(np.sum(parts, axis=0), found.ttft_ms)
    seen = found.encoder_hit[found.visual_tokens > 0]
    assert np.isfinite(seen).all() and 0.2 < seen.mean() < 1
    assert np.isnan(found.encoder_hit[found.visual_tokens == 0]).all()


@pytest.mark.parametrize("format", ["pb", "parquet", "gz"])
def test_every_format_of_traces_gives_the_same_requests(tmp_path: Path, format: Any) -> None:
    made = make_day(replace(TWO_ENGINES, seconds=6), 3, interference=False)
    made.write(tmp_path / "json")
    made.write(tmp_path / "other", format)
    one, other = read(tmp_path / "json"), read(tmp_path / "other")
    assert (one.engine, one.device, one.settings) == (other.engine, other.device, other.settings)
    for field in (
        "ids",
        "start_ns",
        "ttft_ms",
        "encode_ms",
        "tpot_ms",
        "kv_bytes",
        "in_flight",
        "encoder_hit",
    ):
        np.testing.assert_array_equal(getattr(one.requests, field), getattr(other.requests, field), field)
