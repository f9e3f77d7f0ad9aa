"""TPOT as it would be without visual tokens: steps of known cost, results by hand."""

from pathlib import Path
from typing import Any

import pytest
from kv_fixture import step
from otlp_builder import request
from stage_fixture import staged
from store_fixture import fetch

from vtprof_analyzer.report.build_dominance import build_dominance
from vtprof_schemas import names

MS = 1_000_000
ROOF = {"peak_flops_per_s": 100.0, "bandwidth_bytes_per_s": 10.0}
DECODE = {
    "phase": "decode", "flops": 100.0, "bytes": 100.0, "weight_bytes": 40.0, "kv_read_bytes": 60.0,
    "kv_visual_read_bytes": 20.0, **ROOF,
}  # fmt: skip
"""Its bytes take 10 s at the roof, 8 s without visual KV; its FLOPs 1 s."""


def decoding(trace: int, begin_ms: int, end_ms: int, tokens: int = 11, **more: Any) -> list[dict[str, Any]]:
    """Return a request with its first token at once."""
    attrs = {names.TTFT_NS: 0, names.INPUT_TOKENS: 10, names.OUTPUT_TOKENS: tokens, names.TOKENS_IMAGE: 0}
    return request(begin_ms * MS, end_ms * MS, {**attrs, **more}, trace=trace)


def cost(step_id: int, ms: float, **values: Any) -> dict[str, Any]:
    return {**DECODE, "step_id": step_id, "time_s": ms / 1e3, **values}


def test_decode_that_bytes_limit_gets_faster_by_the_visual_kv_it_does_not_read(tmp_path: Path) -> None:
    spans = [*decoding(1, 0, 100), step(0, 100 * MS, 1, 0, trace=9)]
    with staged(tmp_path, spans, costs=[cost(1, 100)]) as db:
        # 100 ms for 10 tokens; a fifth of the bytes is visual KV.
        assert fetch(db, "SELECT ms, kv_ms, known_share FROM tpot_without_visual") == [
            pytest.approx((8, 8, 1))
        ]
        shown = build_dominance(db)
        found = shown.tpot_without_visual_ms
        assert found is not None
        assert (found.requests, found.p50, found.kv_p95, found.recorded_p50) == (
            1,
            pytest.approx(8),
            pytest.approx(8),
            10,
        )
        assert shown.tpot is not None and (shown.tpot.share, shown.tpot.dominant) == (
            pytest.approx(0.2),
            True,
        )


@pytest.mark.parametrize(("flops", "ms"), [(900.0, 9.0), (1000.0, 10.0), (2000.0, 10.0)])
def test_where_flops_limit_it_visual_kv_costs_less_or_nothing(
    tmp_path: Path, flops: float, ms: float
) -> None:
    spans = [*decoding(1, 0, 100), step(0, 100 * MS, 1, 0, trace=9)]
    with staged(tmp_path, spans, costs=[cost(1, 100, flops=flops)]) as db:
        # 10 s of bytes against 9, 10 or 20 s of FLOPs; without visual KV the floor is 9, 10 or 20 s.
        assert fetch(db, "SELECT kv_ms FROM tpot_without_visual") == [(pytest.approx(ms),)]


def test_encoding_and_visual_prefill_of_neighbours_between_two_tokens_are_taken_away(tmp_path: Path) -> None:
    #  step 1: decode     0 - 40   8 of its 40 ms are visual KV
    #  step 2: encode, prefill (half visual), decode   40 - 100
    costs = [
        cost(1, 40),
        {"step_id": 2, "phase": "encode", "time_s": 0.020, "flops": 5.0, "visual_flops": 5.0, **ROOF},
        {"step_id": 2, "phase": "prefill", "time_s": 0.030, "flops": 8.0, "visual_flops": 4.0, **ROOF},
        cost(2, 10, kv_visual_read_bytes=0.0),
    ]
    spans = [*decoding(1, 0, 100), step(0, 40 * MS, 1, 0, trace=8), step(40 * MS, 100 * MS, 1, 0, trace=9)]
    with staged(tmp_path, spans, costs=costs) as db:
        rows = fetch(db, "SELECT ms, kv_ms FROM tpot_without_visual")
        assert rows == [pytest.approx(((100 - 8 - 20 - 15) / 10, (100 - 8) / 10))]


def test_wall_time_counts_where_the_gpus_is_shorter(tmp_path: Path) -> None:
    spans = [*decoding(1, 0, 100), step(0, 100 * MS, 1, 0, trace=9)]
    with staged(tmp_path, spans, costs=[cost(1, 60, wall_s=0.1)]) as db:
        assert fetch(db, "SELECT kv_ms FROM tpot_without_visual") == [(pytest.approx(8),)]


def test_a_request_takes_its_part_of_the_steps_at_its_ends(tmp_path: Path) -> None:
    spans = [*decoding(1, 50, 150), step(0, 100 * MS, 1, 0, trace=8), step(100 * MS, 200 * MS, 1, 0, trace=9)]
    costs = [cost(1, 100), cost(2, 100, kv_visual_read_bytes=0.0)]
    with staged(tmp_path, spans, costs=costs) as db:
        # 50 ms of the first step, a fifth of it visual KV; 50 of the other.
        assert fetch(db, "SELECT kv_ms FROM tpot_without_visual") == [(pytest.approx(9),)]


@pytest.mark.parametrize(("end_ms", "rows"), [(49, 0), (50, 1)])
def test_steps_must_tell_of_half_the_time_and_the_rest_stays_as_it_was(
    tmp_path: Path, end_ms: int, rows: int
) -> None:
    spans = [*decoding(1, 0, 100), step(0, end_ms * MS, 1, 0, trace=9)]
    with staged(tmp_path, spans, costs=[cost(1, end_ms)]) as db:
        found = fetch(db, "SELECT ms, known_share FROM tpot_without_visual")
        assert found == [pytest.approx((9, 0.5))] * rows


def test_without_a_roof_nothing_is_said(tmp_path: Path) -> None:
    spans = [*decoding(1, 0, 100), step(0, 100 * MS, 1, 0, trace=9)]
    bare = cost(1, 100, peak_flops_per_s=None, bandwidth_bytes_per_s=None)
    with staged(tmp_path, spans, costs=[bare]) as db:
        assert fetch(db, "SELECT count(*) FROM tpot_without_visual") == [(0,)]
