"""KV of processes that follow each other and of processes side by side: parts, whole and capacity of one moment."""

from pathlib import Path
from typing import Any

import pytest
from facts_fixture import facts
from kv_fixture import staged_in_processes
from otlp_builder import request
from store_fixture import fetch

from vtprof_analyzer.report.build_kv import build_kv
from vtprof_schemas import names


def process(name: str, token_bytes: int, capacity: int) -> dict[str, Any]:
    return {
        names.SERVICE_INSTANCE_ID: name,
        names.KV_BYTES_PER_TOKEN: token_bytes,
        names.KV_CAPACITY_TOKENS: capacity,
    }


FIRST = process("first", 2, 1000)
SECOND = process("second", 4, 300)
"""Caches of 2,000 and 1,200 bytes."""


def serving(start: int, trace: int, **more: Any) -> list[dict[str, Any]]:
    """Return a request of 100 ns: 10 of prefill, then four cached output tokens grow in 90."""
    attrs = {
        names.TTFT_NS: 10, names.INPUT_TOKENS: 10, names.TOKENS_TEXT: 6, names.TOKENS_IMAGE: 3, names.TOKENS_VIDEO: 1,
        names.OUTPUT_TOKENS: 5, **more,
    }  # fmt: skip
    phases = {"prefill": (start, start + 10), "decode": (start + 10, start + 100)}
    return request(start, start + 100, attrs, trace=trace, **phases)


ALONE = {"text": 6 * 4, "image": 3 * 4, "video": 4, "audio": 0, "output": 4 * 4}
"""Of the second process, which holds twice the bytes of the first."""
TOGETHER = {"text": 6 * (2 + 4), "image": 3 * (2 + 4), "video": 2 + 4, "audio": 0, "output": 4 * (2 + 4)}


@pytest.mark.parametrize(
    ("begin", "parts", "whole", "capacity"),
    [
        pytest.param(200, ALONE, 14 * 4, 1200, id="one after the other"),
        pytest.param(100, ALONE, 14 * 4, 1200, id="one begins as the other ends"),
        pytest.param(0, TOGETHER, 14 * (2 + 4), 3200, id="at the same time"),
        # Prompts meet. Outputs at 100 ns: 4 x 2 and 4/9 of 4 x 4 are 15.1; at the end of the second one 16.
        pytest.param(50, {**TOGETHER, "output": 16}, 14 * (2 + 4), 3200, id="one half beside the other"),
    ],
)
def test_parts_whole_and_capacity_are_of_processes_that_held_at_one_moment(
    tmp_path: Path, begin: int, parts: dict[str, int], whole: int, capacity: int
) -> None:
    with staged_in_processes(tmp_path, (FIRST, serving(0, 1)), (SECOND, serving(begin, 2))) as db:
        kv, fact = build_kv(db), facts(db)["kv_capacity_bytes"]
    assert {row.modality: row.peak_bytes for row in kv.over_time} == parts
    assert all(part <= whole for part in parts.values())
    assert (kv.peak_held_bytes, kv.capacity_bytes, fact) == (whole, capacity, capacity)
    assert kv.peak_usage_ratio == pytest.approx(whole / capacity)


def test_a_model_has_the_caches_of_one_moment_of_its_own(tmp_path: Path) -> None:
    """A server of one model that was started again with a smaller cache, the second time beside that of another model."""
    third = process("third", 2, 700)
    parts = (
        (FIRST, serving(0, 1, **{names.REQUEST_MODEL: "again"})),
        (SECOND, serving(200, 2, **{names.REQUEST_MODEL: "again"})),
        (third, serving(200, 3, **{names.REQUEST_MODEL: "other"})),
    )
    with staged_in_processes(tmp_path, *parts) as db:
        found = {
            view: dict(fetch(db, f"SELECT subject, kv_capacity_bytes FROM {view}"))
            for view in ("deployment_facts", "model_facts", "instance_facts")
        }
    assert found == {
        "deployment_facts": {None: 1200 + 1400},
        "model_facts": {"again": 1200, "other": 1400},
        "instance_facts": {"first": 2000, "second": 1200, "third": 1400},
    }


def test_where_a_model_held_most_before_it_was_started_again_its_first_cache_counts(tmp_path: Path) -> None:
    small = process("small", 1, 500)
    parts = (
        (FIRST, serving(0, 1, **{names.REQUEST_MODEL: "again"})),  # 28 bytes of 2,000
        (small, serving(200, 2, **{names.REQUEST_MODEL: "again"})),  # 14 of 500
        (
            SECOND,
            serving(200, 3, **{names.REQUEST_MODEL: "other"}),
        ),  # 56 of 1,200: with the 14 the most of the run
    )
    with staged_in_processes(tmp_path, *parts) as db:
        found = dict(fetch(db, "SELECT subject, kv_capacity_bytes FROM model_facts"))
        assert found == {"again": 2000, "other": 1200}
        assert (build_kv(db).capacity_bytes, facts(db)["kv_capacity_bytes"]) == (1700, 1700)


def test_the_first_of_equal_peaks_says_which_processes_were_alive(tmp_path: Path) -> None:
    """Like processes, one after the other, the later one beside a third that holds nothing of its own."""
    like, idle = process("like", 2, 500), process("idle", 2, 100)
    nothing = request(200, 300, {names.TTFT_NS: 10}, trace=3)
    parts = ((FIRST, serving(0, 1)), (like, serving(200, 2)), (idle, nothing))
    with staged_in_processes(tmp_path, *parts) as db:
        kv = build_kv(db)
    assert (kv.peak_held_bytes, kv.capacity_bytes) == (14 * 2, 2000)
    assert {row.modality: row.peak_bytes for row in kv.over_time}["text"] == 6 * 2


def test_where_nothing_tells_what_was_held_the_capacity_is_the_most_at_one_time(tmp_path: Path) -> None:
    third = process("third", 2, 700)
    untold = [
        request(start, start + 100, {names.TTFT_NS: 10}, trace=trace)
        for trace, start in enumerate((0, 200, 250), 1)
    ]
    with staged_in_processes(tmp_path, *zip((FIRST, SECOND, third), untold, strict=True)) as db:
        kv = build_kv(db)
        fact = facts(db)["kv_capacity_bytes"]
    # 2,000 bytes first, then 1,200 and 1,400 side by side.
    assert fact == 2600
    assert (kv.peak_held_bytes, kv.capacity_bytes, kv.peak_usage_ratio) == (None, 2600, None)
