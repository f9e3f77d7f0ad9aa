"""Stages that judge each step: a few steps of one second on a device with a ridge of 200 FLOP/B, results by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from otlp_builder import metric_document
from roofline_fixture import ROOF, cost_row, stepped
from store_fixture import fetch

from vtprof_analyzer import step_cost
from vtprof_analyzer.cost.work import Precision
from vtprof_analyzer.devices.roofs import DATASHEET, Roof
from vtprof_analyzer.models.registry import load_spec
from vtprof_analyzer.report.build_steps import build_steps
from vtprof_analyzer.step_cost import CostInputs
from vtprof_schemas import names

MEASURED = {
    names.GPU_DRAM_BANDWIDTH_RATIO: 0.8, names.GPU_DRAM_BANDWIDTH_RATIO + ".quality": "measured",
    names.GPU_TENSOR_ACTIVE_RATIO: 0.05, names.GPU_TENSOR_ACTIVE_RATIO + ".quality": "measured",
    names.GPU_SM_ACTIVE_RATIO: 0.9,
}  # fmt: skip
_S = 1_000_000_000


def work(
    step_id: int, phase: str, intensity: float, floor: float, time_s: float, **more: Any
) -> dict[str, Any]:
    """Work of this intensity whose floor is ``floor`` seconds: at or above the ridge by its FLOPs, below by its bytes."""
    if intensity >= ROOF.ridge:
        flops = floor * ROOF.peak_flops_per_s
        return cost_row(step_id, phase, flops, flops / intensity, time_s, **more)
    bytes_ = floor * ROOF.bandwidth_bytes_per_s
    return cost_row(step_id, phase, bytes_ * intensity, bytes_, time_s, **more)


def test_each_step_is_judged_on_its_own(tmp_path: Path) -> None:
    costs = [
        work(1, "decode", 2.0, 0.6, 1.0, wall_s=1.0),
        work(2, "prefill", 400.0, 0.6, 1.0, wall_s=1.0),
        work(3, "prefill", 200.0, 0.6, 1.0, wall_s=1.0),
        work(4, "decode", 2.0, 0.0005, 1.0, wall_s=1.0),  # half a millisecond of work in a second
        work(5, "decode", 2.0, 0.1, 1.0, wall_s=1.0),  # a tenth of the roof, but no small work
        work(6, "decode", 2.0, 0.3, 0.4, wall_s=1.0),  # the device is busy 40 % of the time
        work(7, "decode", 2.0, 1.5, 1.0, wall_s=1.0),  # beyond the roof
        work(8, "decode", 2.0, 0.6, 1.0, wall_s=1.0, communication_s=0.4),
    ]
    with stepped(tmp_path, costs) as db:
        assert fetch(
            db, "SELECT bound, round(floor_ratio, 4), confidence FROM roofline ORDER BY step_id"
        ) == [
            ("memory_bound", 0.6, 0.6),
            ("compute_bound", 0.6, 0.6),
            ("hybrid", 0.6, 0.6),
            ("overhead_bound", 0.0005, 0.6),
            ("latency_bound", 0.1, 0.6),
            ("overhead_bound", 0.75, 0.6),
            ("memory_bound", 1.5, 0.3),
            ("comm_bound", 0.6, 0.6),
        ]


def test_small_work_is_overhead_by_iteration(tmp_path: Path) -> None:
    costs = [work(1, "decode", 2.0, 0.1, 1.0, steps=n) for n in (10, 1000)]
    costs[1]["step_id"] = 2
    with stepped(tmp_path, costs) as db:
        # 10 ms of work an iteration, and 0.1 ms.
        assert fetch(db, "SELECT bound FROM roofline ORDER BY step_id") == [
            ("latency_bound",),
            ("overhead_bound",),
        ]


def test_thresholds_of_a_data_sheet_are_lower_than_of_a_measured_roof(tmp_path: Path) -> None:
    sheet = Roof(DATASHEET, 200e12, 1e12, "bfloat16", "sheet")
    costs = [cost_row(at, "decode", 2e11, 1e11, 0.1 / 0.33, roof) for at, roof in ((1, ROOF), (2, sheet))]
    with stepped(tmp_path, costs) as db:
        assert fetch(db, "SELECT bound FROM roofline ORDER BY step_id") == [
            ("latency_bound",),
            ("memory_bound",),
        ]


def test_counters_of_quality_measured_are_the_second_witness_of_a_step(tmp_path: Path) -> None:
    attributed = {key: "attributed" if key.endswith("quality") else value for key, value in MEASURED.items()}
    costs = [
        work(1, "decode", 2.0, 0.6, 1.0), work(2, "prefill", 400.0, 0.6, 1.0), work(3, "decode", 2.0, 0.6, 1.0),
        cost_row(4, "decode", 2.0, 1.0, 1.0, None),
    ]  # fmt: skip
    with stepped(tmp_path, costs, [MEASURED, MEASURED, attributed, MEASURED]) as db:
        found = fetch(
            db, "SELECT bound, analytic_bound, measured_bound, confidence FROM roofline ORDER BY step_id"
        )
        assert found == [
            ("memory_bound", "memory_bound", "memory_bound", 0.9),
            ("compute_bound", "compute_bound", "memory_bound", 0.3),
            ("memory_bound", "memory_bound", None, 0.6),
            ("memory_bound", None, "memory_bound", 0.5),
        ]


def test_a_step_short_of_the_ridge_that_takes_longer_than_memory_explains_is_doubted(tmp_path: Path) -> None:
    costs = [
        # 75 % of the ridge, 70 % of the time explained by bytes: arithmetic at 0.75 x 0.7 = 53 % of the peak may hold it.
        work(1, "prefill", 150.0, 0.7, 1.0),
        work(2, "prefill", 150.0, 0.85, 1.0),  # bytes explain it
        work(3, "prefill", 60.0, 0.7, 1.0),  # 0.3 x 0.7 = 21 % of the peak: no arithmetic that is well run
        work(4, "prefill", 170.0, 0.7, 1.0),  # hybrid: either holds it
        work(5, "prefill", 150.0, 0.7, 1.0),  # counters speak for memory
    ]
    with stepped(tmp_path, costs, [{}, {}, {}, {}, MEASURED]) as db:
        assert fetch(db, "SELECT bound, confidence FROM roofline ORDER BY step_id") == [
            ("memory_bound", 0.3),
            ("memory_bound", 0.6),
            ("memory_bound", 0.6),
            ("hybrid", 0.6),
            ("memory_bound", 0.9),
        ]


def test_without_roof_and_counters_a_step_is_not_judged_and_without_a_model_it_still_has_a_row(
    tmp_path: Path,
) -> None:
    steps = [{}, {names.STEP_PREFILL_TOKENS: 5, names.STEP_DECODE_REQUESTS: 1}, {}]
    with stepped(tmp_path, [cost_row(1, "decode", 2.0, 1.0, 1.0, None)], steps) as db:
        rows = fetch(
            db, "SELECT step_id, phase, whole, bound, confidence, time_s FROM roofline ORDER BY step_id"
        )
        # Step 3 did nothing.
        assert rows == [
            (1, "decode", True, "insufficient_data", 0.0, 1.0),
            (2, "mixed", True, "insufficient_data", 0.0, 1.0),
        ]
        steps_told = build_steps(db, None)
        assert steps_told is not None
        assert (steps_told.steps, steps_told.not_judged) == (0, 2)


def test_a_step_with_three_parts_has_a_row_each_one_for_the_language_model_and_one_for_all(
    tmp_path: Path,
) -> None:
    costs = [
        work(1, "encode", 400.0, 0.3, 0.4, parts=3),
        work(1, "prefill", 400.0, 0.2, 0.4, parts=3, mixed=True),
        work(1, "decode", 100.0, 0.1, 0.2, parts=3, mixed=True),
    ]
    with stepped(tmp_path, costs) as db:
        rows = fetch(
            db,
            "SELECT phase, whole, shared, round(time_s, 6), round(floor_s, 6), bound FROM roofline ORDER BY 1",
        )
        # Mixed: 0.2 s x 200e12 + 0.1e12 x 100 = 50e12 FLOP over 0.1e12 + 0.1e12 B are 250 FLOP/B.
        assert rows == [
            ("decode", False, True, 0.2, 0.1, "memory_bound"),
            ("encode", False, False, 0.4, 0.3, "compute_bound"),
            ("mixed", False, False, 0.6, 0.3, "compute_bound"),
            ("prefill", False, True, 0.4, 0.2, "compute_bound"),
            ("step", True, False, 1.0, 0.6, "compute_bound"),
        ]
        points = fetch(db, "SELECT phase, seconds FROM roofline_points ORDER BY 1")
        assert points == [("encode", pytest.approx(0.4)), ("mixed", pytest.approx(0.6))]


def test_phase_bounds_add_up_by_time_and_by_process(tmp_path: Path) -> None:
    costs = [
        work(1, "decode", 2.0, 0.6, 1.0), work(2, "decode", 2.0, 0.1, 0.8), work(3, "decode", 2.0, 0.0001, 0.7),
        work(4, "decode", 400.0, 0.6, 1.2),
    ]  # fmt: skip
    with stepped(tmp_path, costs) as db:
        (row,) = fetch(
            db,
            "SELECT bound, share, neither_share, steps, time_s, floor_ratio FROM phase_bounds"
            " WHERE phase = 'decode' AND instance IS NULL",
        )
        # Latency and overhead reach neither roof: together they outweigh the 1.2 s, and the longer one stands for them.
        assert row[0] == "latency_bound"
        assert row[1:] == pytest.approx((1.5 / 3.7, 1.5 / 3.7, 4, 3.7, 1.3001 / 3.7))


def test_what_the_host_did_is_told_by_process_and_time(tmp_path: Path) -> None:
    """The device waits in two steps; only in the second one the process is busy, and another process always."""
    costs = [work(n, "decode", 2.0, 0.3, 0.4, wall_s=1.0) for n in (1, 2)]
    costs.append(
        work(3, "decode", 2.0, 0.1, 1.0, wall_s=1.0)
    )  # the device is busy: what the host does is no matter
    own, other = ({names.SERVICE_INSTANCE_ID: name} for name in "ab")
    metrics = [
        metric_document(
            names.HOST_PROCESS_CPU_RATIO, [(_S * at, 0.2 if at < 3 else 1.3) for at in range(5)], own
        ),
        metric_document(names.HOST_PROCESS_CPU_RATIO, [(_S * at, 5.0) for at in range(5)], other),
    ]
    with stepped(tmp_path, costs, metrics=metrics, resource=own) as db:
        assert fetch(db, "SELECT host_cores, bound FROM roofline ORDER BY step_id") == [
            (pytest.approx(0.2), "overhead_bound"),
            (pytest.approx(1.3), "host_bound"),
            (pytest.approx(1.3), "latency_bound"),
        ]


@pytest.mark.parametrize("chunk", [1, 2, 200_000])
def test_costs_do_not_depend_on_the_chunks_that_steps_are_read_in(tmp_path: Path, chunk: int) -> None:
    config = {"model_type": "qwen2", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
              "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100}  # fmt: skip
    steps = [{names.STEP_DECODE_REQUESTS: n, names.STEP_DECODE_CONTEXT_TOKENS: 10 * n} for n in (1, 2, 3)]
    steps[1][names.STEP_PREFILL_TOKENS] = 7
    with stepped(tmp_path, [], steps) as db:
        db.execute("DROP TABLE step_cost")
        inputs = CostInputs(load_spec(config), Precision(2.0, 2.0, 2.0), ROOF)
        step_cost.fill_table(db, [inputs], chunk)
        rows = fetch(
            db, "SELECT step_id, phase, parts, flops, communication_bytes FROM step_cost ORDER BY 1, 2"
        )
        assert [row[:3] for row in rows] == [
            (1, "decode", 1),
            (2, "decode", 2),
            (2, "prefill", 2),
            (3, "decode", 1),
        ]
        assert [row[4] for row in rows] == [0.0] * 4
        # A layer: q and o 64 x 64, k and v 64 x 32, three of 64 x 128 = 36,864; two of them and the head of 6,400 make
        # 80,128 multiply-adds a token, and attention 2 x 64 a layer and cached token, the written one included.
        assert rows[0][3] == 2 * (80_128 + 2 * 2 * 64 * 11)
        assert np.isclose(rows[3][3], 3 * rows[0][3])


def test_no_steps_make_empty_tables(tmp_path: Path) -> None:
    with stepped(tmp_path, [], []) as db:
        for table in (
            "roofline",
            "bound_times",
            "phase_bounds",
            "phase_costs",
            "split_shares",
            "roofline_points",
        ):
            assert fetch(db, f"FROM {table}") == [], table
        assert build_steps(db, ROOF) is None
