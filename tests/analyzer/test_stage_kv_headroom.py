"""What the KV cache has left and what would fit: steps and requests of a few tokens, results by hand."""

from pathlib import Path
from typing import Any

import duckdb
import pytest
from kv_fixture import staged_in_processes, step
from otlp_builder import request
from store_fixture import fetch

from vtprof_analyzer.report.build_kv import build_kv
from vtprof_schemas import names

SIZED = {names.SERVICE_INSTANCE_ID: "a", names.KV_BYTES_PER_TOKEN: 2, names.KV_CAPACITY_TOKENS: 1000}


def sized(trace: int, tokens: int, **more: Any) -> list[dict[str, Any]]:
    """Return a request whose KV takes so many tokens at its end."""
    attrs = {names.TTFT_NS: 5, names.INPUT_TOKENS: tokens, names.TOKENS_IMAGE: 0, names.OUTPUT_TOKENS: 1}
    return request(0, 10, {**attrs, **more}, trace=trace)


def headroom(db: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    (row,) = build_kv(db).headroom
    return vars(row)


def test_requests_fit_into_what_is_free_nearly_all_the_time(tmp_path: Path) -> None:
    # 500 tokens held for 90 of 100 ns, 800 for 6 ns, 950 for 4 ns: all but a twentieth of the time 800 or less.
    steps = [step(0, 90, 500, 0, 11), step(90, 96, 800, 0, 12), step(96, 100, 950, 0, 13)]
    spans = [*steps, *sized(1, 30), *sized(2, 40), *sized(3, 50)]
    with staged_in_processes(tmp_path, (SIZED, spans)) as db:
        found = headroom(db)
        assert (found["capacity_bytes"], found["free_p05_bytes"]) == (2000, 400)
        # Median of 30, 40, 50 tokens; at 0.95 of the way, nine tenths from 40 to 50.
        assert (found["request_p50_bytes"], found["request_p95_bytes"]) == (80, pytest.approx(98))
        assert (found["requests_fit_p50"], found["requests_fit_p95"]) == (5, 4)
        assert found["fragmentation"] is None


def test_blocks_are_what_is_taken_and_their_rest_is_fragmentation(tmp_path: Path) -> None:
    # 40 tokens in 4 blocks of 16: 24 of the 64 places hold nothing.
    spans = [step(0, 100, 40, 0, 11, kv_used_blocks=4), *sized(1, 17)]
    resource = {**SIZED, names.KV_BLOCK_TOKENS: 16}
    with staged_in_processes(tmp_path, (resource, spans)) as db:
        found = headroom(db)
        assert found["free_p05_bytes"] == 2 * (1000 - 64)
        assert found["fragmentation"] == pytest.approx(24 / 64)
        assert found["request_p50_bytes"] == 2 * 32, "two blocks"
        assert found["requests_fit_p50"] == 1872 // 64


def test_a_full_cache_has_room_for_none(tmp_path: Path) -> None:
    with staged_in_processes(tmp_path, (SIZED, [step(0, 100, 1010, 0, 11), *sized(1, 30)])) as db:
        found = headroom(db)
        assert (found["free_p05_bytes"], found["requests_fit_p50"]) == (0, 0)


def test_without_requests_room_is_known_and_what_fits_is_not(tmp_path: Path) -> None:
    with staged_in_processes(tmp_path, (SIZED, [step(0, 100, 10, 0, 11)])) as db:
        found = headroom(db)
        assert (found["free_p05_bytes"], found["requests_fit_p50"]) == (1980, None)


@pytest.mark.parametrize("absent", [names.KV_CAPACITY_TOKENS, names.KV_BYTES_PER_TOKEN])
def test_without_capacity_or_size_nothing_is_said(tmp_path: Path, absent: str) -> None:
    resource = {key: value for key, value in SIZED.items() if key != absent}
    with staged_in_processes(tmp_path, (resource, [step(0, 100, 10, 0, 11), *sized(1, 30)])) as db:
        assert fetch(db, "SELECT count(*) FROM kv_headroom") == [(0,)]


def test_a_full_cache_is_not_hidden_by_idle_ones_beside_it(tmp_path: Path) -> None:
    """Of 1,000 tokens each 'a' holds 100 at most, 'b' 900 between two steps of 'a'; 2 and 4 bytes a token."""
    other = {names.SERVICE_INSTANCE_ID: "b", names.KV_BYTES_PER_TOKEN: 4, names.KV_CAPACITY_TOKENS: 1000}
    spans = [step(0, 100, 100, 0, 11), step(300, 305, 100, 0, 13), *sized(1, 30)]
    crowded = [step(200, 300, 500, 0, 12, kv_used_tokens_max=900), *sized(2, 30)]
    with staged_in_processes(tmp_path, (SIZED, spans), (other, crowded)) as db:
        kv = build_kv(db)
    assert kv.peak_usage_ratio == pytest.approx(3600 / 6000)
    assert kv.fullest is not None
    assert (kv.fullest.instance, kv.fullest.peak_held_bytes, kv.fullest.capacity_bytes) == ("b", 3600, 4000)
    assert kv.fullest.peak_usage_ratio == pytest.approx(0.9)
    assert (kv.bytes_per_token, kv.bytes_per_token_min, kv.bytes_per_token_max) == (None, 2, 4)
    # Of 'a' 90 % are free, of 'b' half: the fuller one first, though its cache is no smaller.
    assert [row.instance for row in kv.headroom] == ["b", "a"]


def test_one_process_has_no_fullest_of_several(tmp_path: Path) -> None:
    with staged_in_processes(tmp_path, (SIZED, [step(0, 100, 100, 0, 11), *sized(1, 30)])) as db:
        kv = build_kv(db)
    assert kv.fullest is None
    assert (kv.bytes_per_token, kv.bytes_per_token_min, kv.bytes_per_token_max) == (2, 2, 2)
