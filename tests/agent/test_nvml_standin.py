"""NVML and GPM samplers under the real binding, with a scripted library: what is scripted is what is told.

The virtual clock begins at 1 s, as do the scripts' origin at 0: energy until then is power times 1 s.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from nvml_standin.driven import Driven, values
from nvml_standin.standin import (
    GPU_IS_LOST,
    NO_PERMISSION,
    NOT_SUPPORTED,
    VERSION_MISMATCH,
    Activity,
    Control,
    build,
    environment,
    uuid,
)

from vtprof_schemas import names

A, B = uuid(0), uuid(1)
BUSY = Activity(dram=0.6, tensor=0.25, sm=0.8, occupancy=0.4, power_mw=400_000)
DRAM_UTIL, TENSOR_UTIL = 10, 5
"""nvmlGpmMetricId_t."""
Start = Callable[..., tuple[Control, Driven]]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def start(library: Path, tmp_path: Path) -> Iterator[Start]:
    """Start a process under the stand-in; it must end well."""
    running: list[Driven] = []

    def started(gpus: int = 2, *, folder: Path = library, **options: float) -> tuple[Control, Driven]:
        control = Control(tmp_path / "control", gpus, virtual=True, **options)  # type: ignore[arg-type]
        running.append(Driven(folder, control))
        return control, running[-1].__enter__()

    yield started
    for driven in running:
        driven.__exit__(None, None, None)


def test_two_gpus_are_told_apart_and_every_quantity_has_its_unit(start: Start) -> None:
    control, driven = start()
    control.activity(0, BUSY)
    control.set(0, busy_percent=97, memory_busy_percent=55, throttle_power=0.25, throttle_thermal=0.5)
    assert driven.ask("nvml", "why_not") is None
    driven.ask("nvml", "open")
    samples = driven.sample("nvml", after_s=9.0)
    told = {sample.key: sample.value for sample in samples if sample.hw_id == A}
    assert told == {
        names.GPU_ENERGY_MJ: 4_000_000,  # 400 W for 10 s
        names.GPU_POWER_MW: 400_000,
        names.GPU_THROTTLE_POWER_NS: 2_500_000_000,
        names.GPU_THROTTLE_THERMAL_NS: 5_000_000_000,
        names.GPU_BUSY_RATIO: 0.97,
        names.GPU_MEMORY_BUSY_RATIO: 0.55,
        names.GPU_MEMORY_USED_BYTES: 70 << 30,
        names.GPU_MEMORY_TOTAL_BYTES: 150 << 30,
        names.GPU_SM_CLOCK_MHZ: 1980,
        names.GPU_MEMORY_CLOCK_MHZ: 2619,
    }
    assert values(samples, names.GPU_ENERGY_MJ)[B] == 1_000_000
    assert {s.source for s in samples} == {"nvml"}
    assert {s.key for s in samples if s.cumulative} == {
        names.GPU_ENERGY_MJ, names.GPU_THROTTLE_POWER_NS, names.GPU_THROTTLE_THERMAL_NS,
    }  # fmt: skip


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


def test_gpus_without_gpm_are_said_so_with_what_to_do(start: Start) -> None:
    _, driven = start(gpm=False)
    assert "dcgm-exporter" in driven.ask("gpm", "why_not")
    driven.ask("gpm", "open")
    assert driven.sample("gpm") == []
    driven.ask("nvml", "open")
    assert [device["details"]["gpm"] for device in driven.ask("nvml", "devices")] == [False, False]


def test_gpm_is_read_on_the_gpu_that_has_it_while_the_other_has_not(start: Start) -> None:
    control, driven = start()
    control.activity(1, BUSY)
    control.set(0, gpm=0)
    driven.ask("gpm", "open")
    for _ in range(20):
        samples = driven.sample("gpm", after_s=0.1)
    assert values(samples, names.GPU_DRAM_BANDWIDTH_RATIO) == pytest.approx({B: 0.6})
    assert control.calls()["gpm_support"] == 2, "a GPU that has it not is not asked at each reading"


def test_what_a_gpu_refuses_is_not_asked_ten_times_a_second_and_asked_again_at_last(start: Start) -> None:
    control, driven = start(gpus=1)
    control.fail(0, "energy", NOT_SUPPORTED)
    control.fail(0, "utilization", NO_PERMISSION)
    driven.ask("nvml", "open")
    for _ in range(100):
        samples = driven.sample("nvml", after_s=0.1)
    assert (control.calls()["energy"], control.calls()["utilization"]) == (1, 1)
    assert not {names.GPU_ENERGY_MJ, names.GPU_BUSY_RATIO} & {s.key for s in samples}
    control.fail(0, "energy", 0)
    assert values(driven.sample("nvml", after_s=700.0), names.GPU_ENERGY_MJ)


def test_fields_that_a_driver_does_not_know_are_left_out_and_power_comes_from_the_old_call(
    start: Start,
) -> None:
    control, driven = start(gpus=1)
    control.activity(0, BUSY)
    control.set(0, throttle_thermal=0.5)
    for field in (185, 186, 74, 269, 270, 271):
        control.fail_field(0, field, NOT_SUPPORTED)
    driven.ask("nvml", "open")
    told = {s.key: s.value for s in driven.sample("nvml", after_s=1.0)}
    assert names.GPU_THROTTLE_POWER_NS not in told
    assert told[names.GPU_THROTTLE_THERMAL_NS] == 1_000_000_000, "field 75 says it in one"
    assert (told[names.GPU_POWER_MW], control.calls()["power_usage"]) == (400_000, 1)


def test_a_lost_gpu_costs_no_other_and_is_read_again_when_it_is_back(start: Start) -> None:
    control, driven = start()
    control.activity(0, BUSY)
    control.activity(1, BUSY)
    for name in ("gpm", "nvml"):
        driven.ask(name, "open")
    driven.sample("gpm")
    driven.sample("gpm", after_s=0.1)
    control.lose(0)
    for _ in range(3):
        found = driven.sample("gpm", after_s=0.1) + driven.sample("nvml")
        assert {s.hw_id for s in found} == {B}
    assert driven.ask("nvml", "lost") == driven.ask("gpm", "lost") == {A: "the GPU fell off the bus"}
    before = control.calls()["energy"]
    driven.sample("nvml", after_s=0.1)
    assert control.calls()["energy"] == before + 1, "a lost GPU is not asked"
    control.find(0)
    driven.sample("gpm", after_s=6.0)
    samples = driven.sample("gpm", after_s=0.1)
    assert values(samples, names.GPU_DRAM_BANDWIDTH_RATIO) == pytest.approx({A: 0.6, B: 0.6})
    lengths = {s.hw_id: (s.end_ns or 0) - (s.start_ns or 0) for s in samples}
    assert lengths[A] == 100_000_000, "no window reaches over the time away"
    assert set(values(driven.sample("nvml"), names.GPU_ENERGY_MJ)) == {A, B}
    assert driven.ask("nvml", "lost") == {}


def test_a_gpu_that_is_lost_at_the_start_is_taken_up_later(start: Start) -> None:
    control, driven = start()
    control.lose(0)
    driven.ask("nvml", "open")
    assert set(values(driven.sample("nvml"), names.GPU_ENERGY_MJ)) == {B}
    control.find(0)
    assert set(values(driven.sample("nvml", after_s=61.0), names.GPU_ENERGY_MJ)) == {A, B}


def test_a_gpu_that_is_lost_is_one_and_none_when_it_is_back_also_over_new_connections(start: Start) -> None:
    control, driven = start()
    driven.ask("nvml", "open")
    driven.sample("nvml")
    control.lose(1)
    for after_s in (0.1, 61.0, 61.0):  # within 60 s by its UUID alone, then through new connections
        driven.sample("nvml", after_s=after_s)
        assert driven.ask("nvml", "lost") == {B: "the GPU fell off the bus"}
    control.find(1)
    assert set(values(driven.sample("nvml", after_s=5.1), names.GPU_ENERGY_MJ)) == {A, B}
    assert driven.ask("nvml", "lost") == {}


def test_a_gpu_that_was_never_read_is_lost_by_its_index_beside_one_that_was(start: Start) -> None:
    control, driven = start(gpus=3)
    control.lose(0)
    driven.ask("nvml", "open")
    driven.sample("nvml")
    assert set(driven.ask("nvml", "lost")) == {"index 0"}
    control.lose(1)
    for after_s in (0.1, 61.0):
        driven.sample("nvml", after_s=after_s)
        assert set(driven.ask("nvml", "lost")) == {"index 0", B}
    control.find(0)
    assert set(values(driven.sample("nvml", after_s=5.1), names.GPU_ENERGY_MJ)) == {A, uuid(2)}
    assert set(driven.ask("nvml", "lost")) == {B}


def test_the_only_gpu_is_lost_once_while_there_is_no_connection_either(start: Start) -> None:
    control, driven = start(gpus=1)
    driven.ask("nvml", "open")
    control.lose(0)
    for after_s in (0.1, 61.0):
        driven.sample("nvml", after_s=after_s)
    assert set(driven.ask("nvml", "lost")) == {"", A}
    control.find(0)
    assert set(values(driven.sample("nvml", after_s=5.1), names.GPU_ENERGY_MJ)) == {A}
    assert driven.ask("nvml", "lost") == {}


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
    control.set(0, mig=0)
    driven.sample("gpm", after_s=31.0)
    assert set(driven.ask("gpm", "refused")) == {A}


def test_after_a_driver_reload_the_library_is_opened_anew(start: Start) -> None:
    control, driven = start()
    control.activity(0, BUSY)
    for name in ("gpm", "nvml"):
        driven.ask(name, "open")
    assert values(driven.sample("nvml", after_s=9.0), names.GPU_ENERGY_MJ)[A] == 4_000_000
    driven.sample("gpm")
    control.reload_driver()
    assert driven.sample("nvml", after_s=0.1) == []
    assert driven.sample("gpm") == []
    assert (
        driven.ask("nvml", "lost")[""] == driven.ask("pcie", "lost")[""] == "the NVIDIA driver was reloaded"
    )
    samples = driven.sample("nvml", after_s=9.9)
    assert driven.ask("nvml", "lost") == {}
    assert values(samples, names.GPU_ENERGY_MJ)[A] == 4_000_000, "400 W for the 10 s since the reload"
    driven.sample("gpm")
    assert values(driven.sample("gpm", after_s=0.1), names.GPU_DRAM_BANDWIDTH_RATIO)[A] == pytest.approx(0.6)


MIG = [("MIG-x", 7, True, 0.25), ("MIG-empty", 8, False, 0.25), ("MIG-y", 9, True, 0.5)]


def test_mig_instances_that_can_run_something_are_devices_and_energy_stays_the_whole_gpus(
    start: Start,
) -> None:
    control, driven = start(gpus=1)
    control.activity(0, BUSY)
    control.instances(0, MIG)
    assert driven.ask("gpm", "why_not") is None
    for name in ("nvml", "gpm"):
        driven.ask(name, "open")
    devices = driven.ask("nvml", "devices")
    assert [(d["uuid"], d["details"].get("mig_of")) for d in devices] == [
        (A, None),
        ("MIG-x", A),
        ("MIG-y", A),
    ]
    samples = driven.sample("nvml")
    assert set(values(samples, names.GPU_ENERGY_MJ)) == {A}
    assert values(samples, names.GPU_MEMORY_USED_BYTES)["MIG-y"] == (70 << 30) // 2
    assert values(samples, names.GPU_BUSY_RATIO) == {}, "not offered under MIG"
    driven.sample("gpm")
    samples = driven.sample("gpm", after_s=0.1)
    assert values(samples, names.GPU_DRAM_BANDWIDTH_RATIO) == pytest.approx({"MIG-x": 0.15, "MIG-y": 0.3})


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


def test_eight_gpus_of_which_one_forbids_access_leave_seven(start: Start) -> None:
    control, driven = start(gpus=8)
    control.fail(3, "handle", NO_PERMISSION)
    driven.ask("nvml", "open")
    expected = {uuid(i) for i in range(8) if i != 3}
    assert set(values(driven.sample("nvml"), names.GPU_ENERGY_MJ)) == expected


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (NO_PERMISSION, "no permission"),
        (VERSION_MISMATCH, "versions differ"),
        (9, "driver is not loaded"),
        (GPU_IS_LOST, "fell off the bus"),
    ],
)
def test_a_driver_that_refuses_is_told_in_the_users_words(start: Start, result: int, text: str) -> None:
    control, driven = start()
    control.init_result(result)
    assert text in driven.ask("nvml", "why_not")
    with pytest.raises(RuntimeError, match=f"BackendError: NVML: .*{text}"):
        driven.ask("nvml", "open")
    control.init_result(0)
    assert driven.ask("nvml", "why_not") is None


def test_without_the_drivers_library_that_is_what_is_said(start: Start, tmp_path: Path) -> None:
    _, driven = start(folder=tmp_path)
    for name in ("nvml", "gpm", "pcie"):
        assert "no NVIDIA driver library" in driven.ask(name, "why_not")


def test_a_library_without_newer_functions_is_read_as_far_as_it_goes(start: Start, tmp_path: Path) -> None:
    missing = (
        "nvmlDeviceGetFieldValues", "nvmlDeviceGetMemoryInfo_v2", "nvmlGpmQueryDeviceSupport", "nvmlDeviceGetMigMode",
    )  # fmt: skip
    control, driven = start(gpus=1, folder=build(tmp_path / "old", without=missing))
    control.activity(0, BUSY)
    assert "dcgm-exporter" in driven.ask("gpm", "why_not")
    driven.ask("nvml", "open")
    told = {s.key: s.value for s in driven.sample("nvml")}
    assert told[names.GPU_POWER_MW] == 400_000
    assert told[names.GPU_MEMORY_USED_BYTES] == 70 << 30
    assert names.GPU_THROTTLE_POWER_NS not in told


def test_pcie_traffic_is_in_bytes_and_what_is_refused_is_not_asked_again_soon(start: Start) -> None:
    control, driven = start()
    control.pcie(0, 1200, 340)
    control.fail(1, "pcie", NOT_SUPPORTED)
    driven.ask("pcie", "open")
    for _ in range(3):
        samples = driven.sample("pcie", after_s=10.0)
    assert values(samples, names.GPU_PCIE_TX_BYTES_PER_S) == {A: 1_200_000.0}
    assert values(samples, names.GPU_PCIE_RX_BYTES_PER_S) == {A: 340_000.0}
    assert control.calls()["pcie"] == 3 * 2 + 1


LIVE = """
import json, sys, time
from vtprof_agent.resource import agent_resource
from vtprof_agent.sampling import Sampling
from vtprof_schemas import names

windows = []
class Meter:
    def expect(self, hw_id, keys, period_s): pass
    def add_window(self, window): windows.append(window)

sampling = Sampling.start(("gpm", "nvml"), meter=Meter())
deadline = time.monotonic() + 100
needed = {(f"GPU-standin-{i}", names.GPU_ENERGY_MJ) for i in range(8)}
while needed - {(w.hw_id, w.key) for w in windows} and time.monotonic() < deadline:
    time.sleep(0.05)
keys = sorted({(p.sample.hw_id, p.sample.key) for p in sampling.sample([], agent_resource("node"), 1)})
sampling.close()
told = [[w.hw_id, w.key, w.start_ns, w.end_ns, w.amount] for w in windows]
json.dump({"windows": told, "keys": keys, "faults": sampling.faults}, sys.stdout)
"""


def test_eight_gpus_on_the_machines_clock_give_windows_that_follow_each_other_and_hold_what_was_scripted(
    library: Path, tmp_path: Path
) -> None:
    control = Control(tmp_path / "live", gpus=8)
    for gpu in range(8):
        control.activity(
            gpu, Activity(dram=0.1 * (gpu + 1), tensor=0.05, sm=0.9, power_mw=100_000 * (gpu + 1))
        )
    done = subprocess.run(
        [sys.executable, "-c", LIVE],
        env=environment(library, control),
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
    )
    told = json.loads(done.stdout)
    assert told["faults"] == 0
    for gpu in range(8):
        windows = {
            key: [(begin, end, amount) for hw_id, k, begin, end, amount in told["windows"] if (hw_id, k) == (uuid(gpu), key)]
            for key in (names.GPU_DRAM_BANDWIDTH_RATIO, names.GPU_ENERGY_MJ)
        }  # fmt: skip
        for many in windows.values():
            assert all(before[1] == after[0] for before, after in pairwise(many)), "no gap, nothing twice"
        dram, energy = windows.values()
        assert min(end - begin for begin, end, _ in dram) >= 99_000_000
        for begin, end, amount in dram:
            assert amount == pytest.approx(0.1 * (gpu + 1) * (end - begin))
        # Whatever the machine does between a reading and its clock, the unit and the GPU are right.
        begin, end, amount = energy[0]
        assert 1 / 3 < amount / (100 * (gpu + 1) * (end - begin) / 1e6) < 3
        assert [uuid(gpu), names.GPU_INTEGRALS[names.GPU_SM_ACTIVE_RATIO]] in told["keys"]
