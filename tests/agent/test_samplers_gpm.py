"""The GPM sampler under the real binding, with a scripted library: windows, and GPUs and instances that refuse."""

import pytest
from nvml_standin.driven import values
from nvml_standin.fixtures import BUSY, MIG, A, B, Start, built_library, process_starter  # noqa: F401  # fixtures
from nvml_standin.standin import NO_PERMISSION, NOT_SUPPORTED, Activity

from vtprof_agent.counters.meter import COUNTERS
from vtprof_schemas import names

DRAM_UTIL, TENSOR_UTIL = 10, 5
"""nvmlGpmMetricId_t."""


def test_gpm_tells_the_mean_of_what_happened_in_its_window(start: Start) -> None:
    control, driven = start()
    control.script(0, [(1.05, Activity()), (10.0, BUSY)])
    driven.ask("gpm", "open")
    assert driven.sample("gpm") == [], "a window needs two samples"
    samples = driven.sample("gpm", after_s=0.1)
    # Idle for 50 ms of the 100 ms, then busy.
    assert values(samples, names.GPU_DRAM_BANDWIDTH_RATIO)[A] == pytest.approx(0.3)
    assert values(samples, names.GPU_TENSOR_ACTIVE_RATIO)[A] == pytest.approx(0.125)
    assert values(samples, names.GPU_SM_ACTIVE_RATIO)[A] == pytest.approx(0.4)
    assert values(samples, names.GPU_SM_OCCUPANCY_RATIO)[A] == pytest.approx(0.2)
    assert {(s.start_ns, s.end_ns, s.source, s.exact_edges) for s in samples} == {
        (1_000_000_000, 1_100_000_000, "gpm", True)
    }


def test_gpm_windows_are_never_shorter_than_the_driver_allows_and_leave_nothing_out(start: Start) -> None:
    control, driven = start()
    control.script(0, [(1.06, BUSY), (10.0, Activity())])
    driven.ask("gpm", "open")
    driven.sample("gpm")
    assert driven.sample("gpm", after_s=0.05) == []
    samples = driven.sample("gpm", after_s=0.07)
    assert values(samples, names.GPU_DRAM_BANDWIDTH_RATIO)[A] == pytest.approx(0.6 * 60 / 120)
    assert {(s.start_ns, s.end_ns) for s in samples} == {(1_000_000_000, 1_120_000_000)}


def test_a_reading_within_one_refresh_tells_nothing_and_its_time_is_in_the_next_window(start: Start) -> None:
    control, driven = start(gpm_refresh_s=0.25)
    control.activity(0, BUSY)
    driven.ask("gpm", "open")
    driven.sample("gpm")
    assert driven.sample("gpm", after_s=0.1) == [], "the driver answers NaN: no new sample"
    assert driven.sample("gpm", after_s=0.1) == []
    samples = driven.sample("gpm", after_s=0.1)
    assert values(samples, names.GPU_DRAM_BANDWIDTH_RATIO)[A] == pytest.approx(0.6)
    assert {(s.start_ns, s.end_ns) for s in samples} == {(1_000_000_000, 1_300_000_000)}


def test_a_metric_with_an_error_a_blank_or_no_number_is_left_out_and_costs_no_other(start: Start) -> None:
    control, driven = start()
    control.activity(0, BUSY)
    control.activity(1, BUSY)
    control.metric(0, TENSOR_UTIL, NOT_SUPPORTED)
    control.metric(1, TENSOR_UTIL, value=140737488355328.0)
    driven.ask("gpm", "open")
    driven.sample("gpm")
    samples = driven.sample("gpm", after_s=0.1)
    assert values(samples, names.GPU_TENSOR_ACTIVE_RATIO) == {}
    assert values(samples, names.GPU_DRAM_BANDWIDTH_RATIO) == pytest.approx({A: 0.6, B: 0.6})
    assert driven.ask("gpm", "missing") == {
        A: {names.GPU_TENSOR_ACTIVE_RATIO: "GPM: Not Supported"},
        B: {names.GPU_TENSOR_ACTIVE_RATIO: "GPM: 1.40737e+14 is no value of it"},
    }
    control.heal(0)
    driven.sample("gpm", after_s=0.1)
    assert driven.ask("gpm", "missing")[A] == {}


def test_a_metric_that_never_has_a_number_holds_the_others_for_a_second_at_most(start: Start) -> None:
    control, driven = start(gpus=1)
    control.activity(0, BUSY)
    control.metric(0, DRAM_UTIL, value=float("nan"))
    driven.ask("gpm", "open")
    driven.sample("gpm")
    readings = [driven.sample("gpm", after_s=0.1) for _ in range(12)]
    assert [bool(samples) for samples in readings] == [False] * 9 + [True] * 3
    assert [round((r[0].end_ns or 0) - (r[0].start_ns or 0), -6) for r in readings if r] == [
        1_000_000_000, 100_000_000, 100_000_000,
    ]  # fmt: skip
    no_value = "GPM: no value (not a number)"
    assert driven.ask("gpm", "missing") == {A: {names.GPU_DRAM_BANDWIDTH_RATIO: no_value}}


def test_gpm_is_read_on_the_gpu_that_has_it_while_the_other_has_not(start: Start) -> None:
    control, driven = start()
    control.activity(1, BUSY)
    control.set(0, gpm=0)
    driven.ask("gpm", "open")
    for _ in range(20):
        samples = driven.sample("gpm", after_s=0.1)
    assert values(samples, names.GPU_DRAM_BANDWIDTH_RATIO) == pytest.approx({B: 0.6})
    assert control.calls()["gpm_support"] == 2, "a GPU that has it not is not asked at each reading"
    assert set(driven.ask("gpm", "missing")[A].values()) == {"no GPM (from Hopper on)"}


def test_gpm_that_a_gpu_refuses_though_it_offers_it_is_no_lost_gpu_and_has_the_drivers_reason(
    start: Start,
) -> None:
    control, driven = start()
    control.fail(0, "gpm_sample", NO_PERMISSION)
    driven.ask("gpm", "open")
    driven.sample("gpm")
    samples = driven.sample("gpm", after_s=0.1)
    assert set(values(samples, names.GPU_DRAM_BANDWIDTH_RATIO)) == {B}
    assert driven.ask("gpm", "refused") == {A: "GPM: Insufficient Permissions"}
    assert driven.ask("gpm", "missing")[A].items() >= {
        (key, "GPM: Insufficient Permissions") for key in COUNTERS if key != names.GPU_ENERGY_MJ
    }
    assert driven.ask("gpm", "missing")[B] == {}
    assert driven.ask("gpm", "lost") == {}
    before = control.calls()["gpm_sample"]
    driven.sample("gpm", after_s=60.0)
    assert control.calls()["gpm_sample"] == before + 1, "of the other: rights do not change by the second"
    control.fail(0, "gpm_sample", 0)
    driven.sample("gpm", after_s=700.0)
    assert driven.ask("gpm", "refused") == {}
    assert A in values(driven.sample("gpm", after_s=0.1), names.GPU_DRAM_BANDWIDTH_RATIO)


def test_what_an_instance_refused_goes_with_it(start: Start) -> None:
    control, driven = start(gpus=1)
    control.instances(0, MIG)
    control.fail(0, "gpm_sample", NO_PERMISSION)
    driven.ask("gpm", "open")
    driven.sample("gpm")
    assert set(driven.ask("gpm", "refused")) == {"MIG-x", "MIG-y"}
    missing = driven.ask("gpm", "missing")
    assert {uuid: set(keys.values()) for uuid, keys in missing.items()} == {
        A: {"GPM tells it of the MIG instances alone"},
        "MIG-x": {"GPM: Insufficient Permissions"},
        "MIG-y": {"GPM: Insufficient Permissions"},
    }
    control.set(0, mig=0)
    driven.sample("gpm", after_s=31.0)
    assert set(driven.ask("gpm", "refused")) == set(driven.ask("gpm", "missing")) == {A}


def test_an_instance_made_under_the_id_of_another_begins_a_window_of_its_own(start: Start) -> None:
    control, driven = start(gpus=1)
    control.activity(0, BUSY)
    control.instances(0, MIG)
    driven.ask("gpm", "open")
    driven.sample("gpm")
    driven.sample("gpm", after_s=0.1)
    control.instances(0, [("MIG-new", 7, True, 1.0), *MIG[1:]])
    found = driven.sample("gpm", after_s=0.1)
    assert set(values(found, names.GPU_DRAM_BANDWIDTH_RATIO)) == {"MIG-y"}
    driven.sample("gpm", after_s=0.1)
    found = driven.sample("gpm", after_s=0.1)
    assert values(found, names.GPU_DRAM_BANDWIDTH_RATIO) == pytest.approx({"MIG-new": 0.6, "MIG-y": 0.3})


def test_a_gpu_that_is_cut_into_instances_while_it_is_read_and_made_whole_again_is_followed(
    start: Start,
) -> None:
    control, driven = start(gpus=1)
    control.activity(0, BUSY)
    driven.ask("gpm", "open")
    dram = []
    for change in (None, lambda: control.instances(0, MIG), lambda: control.set(0, mig=0)):
        if change is not None:
            change()
        driven.sample("gpm")
        driven.sample("gpm", after_s=31.0)
        driven.sample("gpm", after_s=0.1)
        dram.append(values(driven.sample("gpm", after_s=0.1), names.GPU_DRAM_BANDWIDTH_RATIO))
    assert dram == [
        {A: pytest.approx(0.6)},
        {"MIG-x": pytest.approx(0.15), "MIG-y": pytest.approx(0.3)},
        dram[0],
    ]
