"""Facts of GPUs, of the API's CPU and of the objectives, by arithmetic over a few readings and requests."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pytest
from facts_fixture import MS, chosen, facts
from otlp_builder import document, metric_document, request, write
from stage_fixture import staged
from store_fixture import fetch, loaded

from vtprof_analyzer import model_sizes, pipeline, step_cost
from vtprof_analyzer.devices.catalogue import find_device
from vtprof_analyzer.devices.device import Device
from vtprof_analyzer.pipeline import Settings
from vtprof_schemas import names

S = 1_000_000_000
SERVER = {
    names.SERVICE_INSTANCE_ID: "a", names.HW_ID: "GPU-1", names.HW_NAME: "NVIDIA H100 80GB HBM3", names.ROLE: "all",
}  # fmt: skip
"""A process on a device whose power limit as shipped is 700 W."""


def _read(name: str, points: list[tuple[int, float]], gpu: str = "GPU-1") -> dict[str, Any]:
    """Return the readings of one GPU by the second."""
    told = metric_document(
        name, [(at * S, value) for at, value in points], {names.SERVICE_INSTANCE_ID: "agent"}
    )
    metrics = told["resourceMetrics"][0]["scopeMetrics"][0]["metrics"]
    for point in metrics[0]["gauge"]["dataPoints"]:
        point["attributes"] = [{"key": names.HW_ID, "value": {"stringValue": gpu}}]
    return told


@contextmanager
def _watched(
    folder: Path,
    spans: Sequence[dict[str, Any]],
    *readings: dict[str, Any],
    server: Mapping[str, Any] | None = None,
    named: Device | None = None,
) -> Iterator[duckdb.DuckDBPyConnection]:
    path = write(folder / "t.jsonl", document(*spans, resource=server or SERVER), *readings)
    stages: dict[str, pipeline.Stage] = {
        step_cost.STAGE: step_cost.create_table,
        model_sizes.STAGE: lambda db: model_sizes.fill_table(db, [], named),
    }
    with loaded(path) as db:
        pipeline.run(db, Settings(), stages)
        yield db


def test_cores_that_the_model_itself_keeps_busy_are_no_api_servers(tmp_path: Path) -> None:
    spans = request(10 * S, 14 * S, {names.TTFT_NS: MS}, trace=1)
    process = {names.SERVICE_INSTANCE_ID: "a", names.ROLE: "all"}
    reading = metric_document(names.HOST_PROCESS_CPU_RATIO, [(11 * S, 1.5)], process)
    for kind, expected in (("cuda", 1.5), ("cpu", None)):
        folder = tmp_path / kind
        folder.mkdir()
        server = {**SERVER, names.DEVICE_KIND: kind}
        with _watched(folder, spans, reading, server=server) as db:
            assert facts(db)["api_cpu_share"] == expected


@pytest.mark.parametrize(
    ("names_device", "named", "expected"),
    [
        ("NVIDIA A100-SXM4-80GB", None, (0.0, 2.0, 0.0)),  # 624 over 312 TFLOP/s
        ("NVIDIA H100 80GB HBM3", None, (1979 / 989, 1979 / 989, 0.0)),
        ("Some new GPU", None, (None, None, None)),
        (None, None, (None, None, None)),
        (None, "NVIDIA A100 SXM 80GB", (0.0, 2.0, 0.0)),
        (
            "NVIDIA H100 80GB HBM3",
            "NVIDIA A100 SXM 80GB",
            (1979 / 989, 1979 / 989, 0.0),
        ),  # what ran has the word
    ],
)
def test_what_a_device_computes_in_is_by_the_one_that_ran(
    tmp_path: Path, names_device: str | None, named: str | None, expected: tuple[float | None, ...]
) -> None:
    spans = request(0, 4 * S, {names.TTFT_NS: MS}, trace=1)
    server = {key: value for key, value in {**SERVER, names.HW_NAME: names_device}.items() if value}
    typed = find_device(named) if named else None
    with _watched(tmp_path, spans, server=server, named=typed) as db:
        found = facts(db)
    ratios = (found["fp8_peak_ratio"], found["int8_peak_ratio"], found["fp4_peak_ratio"])
    assert ratios == pytest.approx(expected)


def test_a_server_on_an_a100_is_not_told_to_compute_in_fp8(tmp_path: Path) -> None:
    # Beside it another on an H100, with less work; a frontend names no device and takes nothing from either.
    h100, a100 = SERVER, {**SERVER, names.SERVICE_INSTANCE_ID: "b", names.HW_NAME: "NVIDIA A100-SXM4-80GB"}
    path = write(
        tmp_path / "t.jsonl",
        document(*request(0, S, {names.TTFT_NS: MS}, trace=1), resource=h100),
        document(
            *request(0, S, {names.TTFT_NS: MS}, trace=2),
            *request(0, S, {names.TTFT_NS: MS}, trace=3),
            resource=a100,
        ),
        document(
            *request(0, S, {names.TTFT_NS: MS}, trace=4), resource={names.SERVICE_INSTANCE_ID: "frontend"}
        ),
    )
    stages: dict[str, pipeline.Stage] = {
        step_cost.STAGE: step_cost.create_table,
        model_sizes.STAGE: lambda db: model_sizes.fill_table(db, []),
    }
    with loaded(path) as db:
        pipeline.run(db, Settings(), stages)
        found = dict(fetch(db, "SELECT subject, fp8_peak_ratio FROM instance_facts"))
        assert found == {"a": pytest.approx(1979 / 989), "b": 0.0, "frontend": None}
        assert facts(db)["fp8_peak_ratio"] == 0.0


def test_counters_count_while_requests_are_served(tmp_path: Path) -> None:
    # Served from second 10 to 14, and from 20 to 22; what was read before, between and after is of nobody's requests.
    spans = [
        *request(10 * S, 14 * S, {names.TTFT_NS: MS}, trace=1),
        *request(12 * S, 13 * S, {names.TTFT_NS: MS}, trace=2),
        *request(20 * S, 22 * S, {names.TTFT_NS: MS}, trace=3),
    ]
    process = {names.SERVICE_INSTANCE_ID: "a", names.ROLE: "all"}
    readings = [
        _read(names.GPU_BUSY_RATIO, [(5, 0.0), (11, 0.9), (13, 0.7), (17, 0.0), (21, 0.5)]),
        _read(names.GPU_SM_CLOCK_MHZ, [(5, 2000.0), (11, 1500.0), (13, 1700.0)]),
        _read(names.GPU_POWER_MW, [(11, 600_000.0), (13, 100_000.0), (30, 700_000.0)]),
        # Of two seconds up to 11 one with lowered clocks, none up to 13; and 0.5 for heat.
        _read(names.GPU_THROTTLE_POWER_NS, [(9, 0.0), (11, 1e9), (13, 1e9), (17, 4e9)]),
        _read(names.GPU_THROTTLE_THERMAL_NS, [(9, 0.0), (11, 0.0), (13, 0.5e9)]),
        _read(names.GPU_MEMORY_TOTAL_BYTES, [(1, 80e9)]),
        _read(names.GPU_MEMORY_USED_BYTES, [(1, 70e9), (2, 60e9)]),
        # Another GPU of the host, which the process does not name.
        _read(names.GPU_BUSY_RATIO, [(11, 0.0)], "GPU-2"),
        metric_document(names.HOST_PROCESS_CPU_RATIO, [(11 * S, 1.5), (13 * S, 0.5), (17 * S, 9.0)], process),
    ]
    expected = {
        "gpu_busy_share": 0.7, "sm_clock_ratio": 0.8, "power_ratio": 0.5, "throttle_share": 1.5 / 4,
        "gpu_mem_free_bytes": 80e9 - 69.5e9,  # the 95th percentile of what is used
        "api_cpu_share": 1.0, "decode_energy_j": None, "encode_gpu_share": None,
    }  # fmt: skip
    with _watched(tmp_path, spans, *readings) as db:
        assert chosen(facts(db), expected) == pytest.approx(expected)
        rows = fetch(db, "SELECT DISTINCT hw_id, service_instance_id FROM evidence.gpu_samples ORDER BY ALL")
        assert rows == [("GPU-1", "a"), ("GPU-2", "agent")]


def test_objectives_name_the_phase_that_requests_miss_by(tmp_path: Path) -> None:
    # TTFT in ms and its queue; prefill takes the rest. Two of five miss 50 ms, one of them by its queue alone.
    spans = []
    for trace, (ttft, queue) in enumerate([(30, 10), (30, 10), (30, 10), (90, 70), (200, 100)], start=1):
        attrs = {names.TTFT_NS: ttft * MS, names.OUTPUT_TOKENS: 3}
        phases = {"queue": (0, queue * MS), "prefill": (queue * MS, ttft * MS)}
        spans += request(0, (ttft + 10) * MS, attrs, trace=trace, **phases)
    expected = {
        "slo_ttft_ms": 50.0, "slo_tpot_ms": None, "goodput_share": 0.6, "slo_worst_phase": "queue",  # 60 + 90 over
        "slo_recovered_share": 0.2,  # 90 - 60 is within; 200 - 90 is not
    }  # fmt: skip
    with staged(tmp_path, spans, settings=Settings(slo_ttft_ms=50.0)) as db:
        assert chosen(facts(db), expected) == expected
        # No part is left to waiting: prefill, with a median of 20 ms, may fill all of the 50 ms.
        budgets = "SELECT subject, phase_budget_ms FROM phase_facts ORDER BY subject"
        assert dict(fetch(db, budgets)) == pytest.approx({"decode": None, "prefill": 50.0, "queue": None})
        assert sorted(fetch(db, "SELECT met FROM evidence.requests")) == [
            (False,),
            (False,),
            (True,),
            (True,),
            (True,),
        ]


def test_the_queue_takes_nothing_of_the_budgets_of_phases_that_work(tmp_path: Path) -> None:
    # Of each TTFT of 90 ms: 10 of preprocess, 60 of queue, 20 of prefill. An objective of 45 ms is split 10 to 20.
    phases = {"preprocess": (0, 10 * MS), "queue": (10 * MS, 70 * MS), "prefill": (70 * MS, 90 * MS)}
    spans = request(0, 100 * MS, {names.TTFT_NS: 90 * MS, names.OUTPUT_TOKENS: 3}, **phases)
    with staged(tmp_path, spans, settings=Settings(slo_ttft_ms=45.0)) as db:
        found = dict(fetch(db, "SELECT subject, phase_budget_ms FROM phase_facts"))
        assert found == pytest.approx({"decode": None, "preprocess": 15.0, "queue": None, "prefill": 30.0})


def test_where_the_cadence_is_missed_most_it_is_named(tmp_path: Path) -> None:
    # TPOT of 5, 5, 5 and 9 ms against 6 ms; one misses TTFT of 10 ms never.
    spans = []
    for trace, tpot in enumerate([5, 5, 5, 9], start=1):
        attrs = {names.TTFT_NS: 8 * MS, names.OUTPUT_TOKENS: 11}
        spans += request(0, (8 + 10 * tpot) * MS, attrs, trace=trace, prefill=(0, 8 * MS))
    expected = {"goodput_share": 0.75, "slo_worst_phase": "tpot", "slo_recovered_share": 0.25}
    with staged(tmp_path, spans, settings=Settings(slo_ttft_ms=10.0, slo_tpot_ms=6.0)) as db:
        assert chosen(facts(db), expected) == expected


def test_without_objectives_nothing_is_met_and_nothing_missed(tmp_path: Path) -> None:
    with staged(tmp_path, request(0, 900, {names.TTFT_NS: 500}, prefill=(0, 500))) as db:
        names_ = ("slo_ttft_ms", "goodput_share", "slo_worst_phase", "slo_recovered_share")
        assert chosen(facts(db), dict.fromkeys(names_)) == dict.fromkeys(names_)
        assert fetch(db, "SELECT met FROM evidence.requests") == [(None,)]


def test_a_scope_is_served_from_an_arrival_to_the_last_end_of_what_overlaps() -> None:
    now = 1_800_000_000_000_000_000
    times = {1: [(0, 10), (5, 7), (10, 12), (20, 30)], 2: [(8, 22), (40, 41), (50, 50)]}
    with duckdb.connect() as db:
        db.execute(
            "CREATE TABLE request_base (resource_id UBIGINT, model VARCHAR, arrival_ns BIGINT, end_ns BIGINT)"
        )
        db.execute(
            "CREATE TABLE fact_members (member BIGINT, resource_id UBIGINT, model VARCHAR, scope INTEGER)"
        )
        for process, stretches in times.items():
            for scope in (0, process):
                db.execute("INSERT INTO fact_members VALUES (?, ?, NULL, ?)", [process, process, scope])
            for begin, end in stretches:
                db.execute(
                    "INSERT INTO request_base VALUES (?, NULL, ?, ?)", [process, now + begin, now + end]
                )
        pipeline.run_sql_stage(db, "89_fact_scopes_times.sql")
        found = fetch(db, f"SELECT scope, start_ns - {now}, end_ns - {now} FROM served_times ORDER BY ALL")
    # 12 to 20 and 22 to 40 are nobody's; one that ends when it arrives takes no time.
    assert found == [(0, 0, 30), (0, 40, 41), (1, 0, 12), (1, 20, 30), (2, 8, 22), (2, 40, 41)]
