"""Advice that pulls in opposite directions is never given at once: a larger chunk budget (PF004), a smaller one (PF005).

What two rules tell of the same cause counts once.
"""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import duckdb
import pytest

from vtprof_rules.evaluate import evaluate
from vtprof_rules.fact_rows import FactRow, Facts
from vtprof_rules.load import load_packs
from vtprof_rules.outcome import Outcome, Saving
from vtprof_rules.savings import best_of_groups, combine

CORE = {rule.id: rule for rule in load_packs()}
CHUNK_RULES = (CORE["PF004"], CORE["PF005"])
SIGNS_OF_BOTH: Facts = {
    "n_requests": 1000,
    "chunks_per_prefill_p50": 8.0,
    "prefill_mfu": 0.2,
    "prefill_ms_p50": 300.0,
    "decode_stall_with_prefill_share": 0.9,
    "tpot_ms_p50": 10.0,
    "tpot_ms_p95": 20.0,
    "tpot_ms_p99": 40.0,
    "tpot_ms_p99_without_prefill": 15.0,
    "ttft_ms_p95": 1000.0,
}
FIGURES: dict[str, tuple[float | None, ...]] = {  # each side of every limit, met exactly, and not known
    "slo_ttft_ms": (None, 999.0, 1000.0, 1001.0),
    "slo_tpot_ms": (None, 19.0, 20.0, 21.0, 29.0),
    "ttft_ms_p95": (None, 1000.0),
    "tpot_ms_p95": (None, 20.0),
    "tpot_ms_p99": (None, 29.0, 30.0),
    "decode_stall_with_prefill_share": (None, 0.49, 0.5),
}


def fired(processes: Sequence[Facts]) -> dict[str, set[str]]:
    """Return the rules that fire on each process, by its name: its place in the list."""
    rows = [FactRow(str(place), facts) for place, facts in enumerate(processes)]
    with duckdb.connect(":memory:") as nothing:
        nothing.execute("CREATE TABLE requests (trace_id VARCHAR)")
        nothing.execute("CREATE TABLE steps (trace_id VARCHAR)")
        outcomes = evaluate(CHUNK_RULES, {"instance_facts": rows}, nothing)
    assert not [outcome for outcome in outcomes if outcome.status == "error"]
    by_process: dict[str, set[str]] = {}
    for outcome in outcomes:
        for name in outcome.subjects:
            by_process.setdefault(name, set()).add(outcome.rule)
    return by_process


@pytest.mark.parametrize(
    ("slo_ttft_ms", "slo_tpot_ms", "expected"),
    [
        (None, None, {"PF005"}),  # nothing given: the stalls are there to see
        (900.0, None, {"PF004"}),  # TTFT missed
        (1100.0, None, {"PF005"}),  # TTFT met, so it has room to give
        (None, 15.0, {"PF005"}),  # TPOT missed
        (None, 25.0, set()),  # TPOT met, without room for longer steps
        (None, 100.0, {"PF004"}),  # TPOT well inside
        (900.0, 15.0, {"PF005"}),  # both missed: a larger budget would not mend TPOT
        (900.0, 100.0, {"PF004"}),
        (1100.0, 100.0, set()),  # both met
    ],
)
def test_the_missed_objective_decides_where_both_signs_are_there(
    slo_ttft_ms: float | None, slo_tpot_ms: float | None, expected: set[str]
) -> None:
    process = {**SIGNS_OF_BOTH, "slo_ttft_ms": slo_ttft_ms, "slo_tpot_ms": slo_tpot_ms}
    idle: Facts = {"n_requests": 1000}  # a second process, so that findings name theirs
    assert fired([process, idle]).get("0", set()) == expected


def test_no_process_gets_both() -> None:
    figures = [dict(zip(FIGURES, values, strict=True)) for values in itertools.product(*FIGURES.values())]
    by_process = fired([{**SIGNS_OF_BOTH, **some} for some in figures])
    assert {rule for rules in by_process.values() for rule in rules} == {"PF004", "PF005"}
    assert [figures[int(name)] for name, rules in by_process.items() if len(rules) > 1] == []


def test_both_read_the_same_signs_of_a_stall() -> None:
    for name in ("min_stall_ratio", "min_stall_share"):
        assert CORE["PF004"].params[name].default == CORE["PF005"].params[name].default


WAITING_BESIDE_FREE_KV: Facts = {
    "n_requests": 100, "decode_mbu": 0.7, "batch_mean": 40.0, "ridge_batch": 200.0, "kv_batch_limit": 100.0,
    "kv_usage_p95": 0.3, "waiting_mean": 8.0, "weight_read_share": 0.75, "decode_mfu": 0.1, "prefill_gpu_share": 0.2,
}  # fmt: skip
STALLED_BY_PREFILL: Facts = {
    "n_requests": 1000, "instances": 2, "decode_stall_with_prefill_share": 0.9, "prefill_gpu_share": 0.4,
    "tpot_ms_p50": 10.0, "tpot_ms_p95": 20.0, "tpot_ms_p99": 60.0, "tpot_ms_p99_without_prefill": 15.0,
    "ttft_ms_p95": 100.0, "output_tokens_p50": 100.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("names", "facts", "under"),
    [
        # Both let those that wait into the steps. DEC001 is sure of 48 / 42, of a seventh more; KV004 of nothing.
        (("DEC001", "KV004"), WAITING_BESIDE_FREE_KV, {"KV004": "DEC001"}),
        # Both take off 60 - 15 ms in which others were prefilled; smaller chunks at most that, instances of their own all.
        (("PF005", "SLO003"), STALLED_BY_PREFILL, {"PF005": "SLO003"}),
    ],
)
def test_what_two_rules_gain_from_the_same_cause_counts_once(
    names: tuple[str, ...], facts: Facts, under: dict[str, str]
) -> None:
    assert best_of_groups(all_fired(names, facts)) == under


def all_fired(names: Sequence[str], facts: Facts) -> Sequence[Outcome]:
    rules = [CORE[name] for name in names]
    with duckdb.connect(":memory:") as nothing:
        for table in ("requests", "steps", "media_items"):
            nothing.execute(f"CREATE TABLE {table} (trace_id VARCHAR)")
        outcomes = evaluate(rules, {rule.facts: [FactRow(None, facts)] for rule in rules}, nothing)
    assert {outcome.rule for outcome in outcomes if outcome.status == "fired"} == set(names)
    return outcomes


IMAGES_COME_BACK: Facts = {
    "n_requests": 100, "repeat_image_share": 0.5, "mm_cache_hit_rate": 0.2, "preprocess_ms_p50": 50.0,
    "preprocess_ms_mean": 60.0, "fetch_ms_mean": 20.0, "encode_ms_p50": 80.0, "encode_ms_mean": 100.0,
    "encode_repeat_ms_mean": 30.0, "ttft_ms_mean": 200.0,
}  # fmt: skip


def test_images_that_come_back_save_preprocessing_by_one_rule_and_encoding_by_another() -> None:
    """They are other milliseconds, so that both count, each where it is saved."""
    outcomes = all_fired(("PRE005", "ENC005"), IMAGES_COME_BACK)
    assert best_of_groups(outcomes) == {}
    rows = combine(outcomes, {"deployment_facts": [FactRow(None, IMAGES_COME_BACK)]})
    # 0.3 of 0.8 misses come before, of 60 - 20 ms; of encoding 30 ms; or half of either.
    assert [(row.phase, row.rules) for row in rows] == [("preprocess", ("PRE005",)), ("encode", ("ENC005",))]
    assert [(row.low_ms, row.high_ms) for row in rows] == [pytest.approx((7.5, 15)), pytest.approx((15, 30))]


@pytest.mark.parametrize("name", ["ENC005", "KV003", "KV006", "MM001", "MM002", "MM003", "PF007", "PRE005"])
def test_what_is_not_computed_at_all_is_saved_beyond_the_roofline_floor(name: str) -> None:
    """Fewer tokens, or those of a cache: a phase at its floor gets shorter all the same."""
    saving = CORE[name].saving
    assert saving is not None
    made = Saving(
        "ttft_ms", "ms", None, None, None, saving.basis, "", saving.phases, less_work=saving.less_work
    )
    outcome = Outcome(
        name, "fired", "", "", "", saving=replace(made, low_phase_share=0.5, high_phase_share=0.5)
    )
    times: Facts = {f"{phase}_ms_mean": 100.0 for phase in saving.phases}
    floors: Facts = {f"{phase}_floor_ratio": 1.0 for phase in saving.phases}
    rows = combine([outcome], {"deployment_facts": [FactRow(None, times | floors)]})
    assert [row.high_ms for row in rows] == [pytest.approx(50)] * len(saving.phases)
