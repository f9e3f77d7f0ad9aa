"""Three caches told apart, by spans and by the engine's page: requests of a few items, results by hand."""

from pathlib import Path
from typing import Any

import duckdb
import pytest
from kv_fixture import phase
from otlp_builder import document, metric_document, request, write
from stage_fixture import staged
from store_fixture import fetch, loaded

from vtprof_analyzer import pipeline, step_cost
from vtprof_analyzer.report.build_caches import build_caches
from vtprof_schemas import names


def media_request(trace: int, images: int, tokens: int, **more: Any) -> list[dict[str, Any]]:
    """Return a request of 100 text tokens and so many images of so many tokens together."""
    attrs = {
        names.INPUT_TOKENS: 100 + tokens, names.TOKENS_TEXT: 100, names.TOKENS_IMAGE: tokens, names.ITEMS_IMAGE: images,
    }  # fmt: skip
    return request(0, 100, {**attrs, **more}, trace=trace)


def caches(db: duckdb.DuckDBPyConnection, source: str) -> dict[str, tuple[Any, ...]]:
    rows = fetch(
        db, f"SELECT cache, lookups, hits, ratio, saved_tokens, unit FROM caches WHERE source = '{source}'"
    )
    return {row[0]: row[1:] for row in rows}


def test_items_are_looked_up_in_two_caches_and_tokens_in_the_third(tmp_path: Path) -> None:
    spans = [
        *media_request(1, images=4, tokens=400),
        phase("preprocess", 0, 10, 1, 2, {names.PREPROCESS_CACHE_HITS: 3}),
        # One of its images was in the encoder's cache; the three others were encoded in two steps.
        phase("encode", 10, 20, 1, 3, {names.ENCODE_ITEMS: 2, names.ENCODE_CACHE_HITS: 1}),
        phase("encode", 25, 30, 1, 4, {names.ENCODE_ITEMS: 1, names.ENCODE_CACHE_HITS: 0}),
        phase("prefill", 30, 40, 1, 5, {names.PREFILL_CACHED_TOKENS: 50}),
        *media_request(2, images=1, tokens=80),
        phase("preprocess", 0, 10, 2, 2, {names.PREPROCESS_CACHE_HITS: 0}),
    ]
    with staged(tmp_path, spans) as db:
        assert caches(db, "spans") == {
            "processor": (5, 3, 3 / 5, 300, "items"),
            "encoder": (4, 1, 1 / 4, 100, "items"),
            # The other request's prefill does not tell.
            "prefix": (500, 50, 50 / 500, 50, "tokens"),
        }
        assert caches(db, "engine_page") == {}
        shown = build_caches(db)
        assert [row.cache for row in shown] == ["processor", "encoder", "prefix"]
        assert (shown[0].lookups, shown[0].hits, shown[0].source) == (5, 3, "spans")


def test_a_preempted_prompt_that_finds_itself_again_is_no_reuse(tmp_path: Path) -> None:
    spans = [
        *media_request(1, images=0, tokens=0),
        phase("prefill", 10, 20, 1, 2, {names.PREFILL_CACHED_TOKENS: 16}),
        phase("prefill", 50, 60, 1, 3, {names.PREFILL_CACHED_TOKENS: 96}),
    ]
    with staged(tmp_path, spans) as db:
        assert caches(db, "spans")["prefix"][:2] == (100, 16)


def test_what_the_request_says_of_its_prefix_does_where_no_phase_tells(tmp_path: Path) -> None:
    with staged(tmp_path, media_request(1, 1, 60, **{names.TOKENS_CACHED: 40})) as db:
        assert caches(db, "spans") == {"prefix": (160, 40, 0.25, 40, "tokens")}


def test_requests_count_as_often_as_their_sampling_says(tmp_path: Path) -> None:
    spans = [
        *media_request(1, 0, 0, **{names.TOKENS_CACHED: 50, names.SAMPLING_RATIO: 0.25}),
        *media_request(2, 0, 0, **{names.TOKENS_CACHED: 0}),
    ]
    with staged(tmp_path, spans) as db:
        assert caches(db, "spans")["prefix"][:3] == (500, 200, 0.4)


def test_the_engines_page_stands_beside_the_spans(tmp_path: Path) -> None:
    engine = {names.SERVICE_INSTANCE_ID: "e", names.ENGINE_NAME: "vllm"}
    totals = {
        names.ENGINE_MM_QUERIED_ITEMS: (10, 30), names.ENGINE_MM_HIT_ITEMS: (5, 10),
        names.ENGINE_PREFIX_QUERIED_TOKENS: (0, 1000), names.ENGINE_PREFIX_HIT_TOKENS: (0, 400),
        names.ENGINE_PROMPT_TOKENS: (0, 900), names.ENGINE_CACHED_TOKENS: (0, 300),
    }  # fmt: skip
    lines = [metric_document(name, [(1, first), (2, last)], engine) for name, (first, last) in totals.items()]
    path = write(
        tmp_path / "t.jsonl", document(*media_request(1, 1, 60, **{names.TOKENS_CACHED: 40})), *lines
    )
    with loaded(path) as db:
        pipeline.run(db, pipeline.Settings(), {step_cost.STAGE: step_cost.create_table})
        assert caches(db, "engine_page") == {
            "processor": (20, 5, 0.25, None, "items"),
            "prefix": (1000, 400, 0.4, 400, "tokens"),
        }
        assert [(row.cache, row.source) for row in build_caches(db)] == [
            ("processor", "engine_page"), ("prefix", "spans"), ("prefix", "engine_page"),
        ]  # fmt: skip


def test_prompt_tokens_are_the_whole_where_the_engine_counts_no_look_ups(tmp_path: Path) -> None:
    engine = {names.SERVICE_INSTANCE_ID: "e", names.ENGINE_NAME: "sglang"}
    lines = [
        metric_document(names.ENGINE_PROMPT_TOKENS, [(1, 0), (2, 800)], engine),
        metric_document(names.ENGINE_CACHED_TOKENS, [(1, 0), (2, 200)], engine),
    ]
    with loaded(write(tmp_path / "t.jsonl", document(*media_request(1, 0, 0)), *lines)) as db:
        pipeline.run(db, pipeline.Settings(), {step_cost.STAGE: step_cost.create_table})
        assert caches(db, "engine_page") == {"prefix": (800, 200, pytest.approx(0.25), 200, "tokens")}
        assert caches(db, "spans") == {}
