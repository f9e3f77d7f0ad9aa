"""A synthetic day: what visual work cost each request's tokens, and what the cache had left, against the truth."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from days_fixture import Analyzed, analyzed
from synthetic.batch import BLOCK_TOKENS
from synthetic.day import make_day
from synthetic.scenarios import VISUAL


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Analyzed:
    return analyzed(
        make_day(replace(VISUAL, seconds=25), 7, interference=False), tmp_path_factory.mktemp("day")
    )


def test_tpot_without_visual_work_is_near_what_the_steps_would_have_taken(day: Analyzed) -> None:
    found = day.table(
        "SELECT request_id, kv_ms - ms AS work_ms FROM tpot_without_visual JOIN requests USING (request_number)"
    )
    truth = day.day.truth["requests"].filter(pl.col("shared_tpot_ns").is_not_null())
    joined = truth.join(found, on="request_id")
    assert len(joined) == len(found) > 50
    ours, true = joined["work_ms"].to_numpy(), joined["shared_tpot_ns"].to_numpy() / 1e6
    # The day's kernels are not the cost model: prefill is divided among its tokens by FLOPs, encoding is measured.
    assert ours.mean() == pytest.approx(true.mean(), rel=0.15)
    assert np.corrcoef(ours, true)[0, 1] > 0.99


def test_fragmentation_is_the_room_of_blocks_without_a_token(day: Analyzed) -> None:
    kv = day.day.truth["kv"]
    seconds = (kv["end_ns"] - kv["ts_ns"]).to_numpy()
    tokens = kv.select(pl.sum_horizontal("^.*_tokens$")).to_series().to_numpy()
    room = kv["blocks"].to_numpy() * BLOCK_TOKENS
    true = 1 - (tokens * seconds).sum() / (room * seconds).sum()
    assert day.report.kv.headroom[0].fragmentation == pytest.approx(true, abs=0.002)


def test_free_room_is_what_is_left_nearly_all_the_time(day: Analyzed) -> None:
    kv = day.day.truth["kv"]
    seconds = (kv["end_ns"] - kv["ts_ns"]).to_numpy()
    room = kv["blocks"].to_numpy() * BLOCK_TOKENS
    order = np.argsort(room)
    until = np.cumsum(seconds[order]) / seconds.sum()
    taken = room[order][np.searchsorted(until, 0.95)]
    setup = day.day.scenario.engines[0]
    expected = (setup.kv_capacity_tokens - taken) * setup.model.kv_bytes_per_token
    # Windows tell their means, not each iteration.
    assert day.report.kv.headroom[0].free_p05_bytes == pytest.approx(expected, rel=0.01)
