"""The samplers together under the real binding, with a scripted library: sessions, lost GPUs, MIG, drivers that refuse.

The virtual clock begins at 1 s, as do the scripts' origin at 0: energy until then is power times 1 s.
"""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from nvml_standin.driven import values
from nvml_standin.fixtures import BUSY, MIG, A, B, Start, built_library, process_starter  # noqa: F401  # fixtures
from nvml_standin.standin import (
    GPU_IS_LOST,
    NO_PERMISSION,
    VERSION_MISMATCH,
    Activity,
    Control,
    build,
    environment,
    uuid,
)

from vtprof_schemas import names


def test_gpus_without_gpm_are_said_so_with_what_to_do(start: Start) -> None:
    _, driven = start(gpm=False)
    assert "dcgm-exporter" in driven.ask("gpm", "why_not")
    driven.ask("gpm", "open")
    assert driven.sample("gpm") == []
    driven.ask("nvml", "open")
    assert [device["details"]["gpm"] for device in driven.ask("nvml", "devices")] == [False, False]


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
    for whole in (names.GPU_ENERGY_MJ, names.GPU_POWER_MW, names.GPU_THROTTLE_POWER_NS):
        assert set(values(samples, whole)) == {A}, (
            "of instances drivers tell the whole GPU's, which a sum would triple"
        )
    assert values(samples, names.GPU_MEMORY_USED_BYTES)["MIG-y"] == (70 << 30) // 2
    assert [d["power_limit_mw"] for d in devices] == [700_000, None, None]
    assert values(samples, names.GPU_BUSY_RATIO) == {}, "not offered under MIG"
    driven.sample("gpm")
    samples = driven.sample("gpm", after_s=0.1)
    assert values(samples, names.GPU_DRAM_BANDWIDTH_RATIO) == pytest.approx({"MIG-x": 0.15, "MIG-y": 0.3})


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
        "nvmlDeviceGetPowerManagementDefaultLimit", "nvmlDeviceGetEnforcedPowerLimit",
    )  # fmt: skip
    control, driven = start(gpus=1, folder=build(tmp_path / "old", without=missing))
    control.activity(0, BUSY)
    assert "dcgm-exporter" in driven.ask("gpm", "why_not")
    driven.ask("nvml", "open")
    told = {s.key: s.value for s in driven.sample("nvml")}
    assert told[names.GPU_POWER_MW] == 400_000
    assert told[names.GPU_MEMORY_USED_BYTES] == 70 << 30
    assert names.GPU_THROTTLE_POWER_NS not in told
    assert [device["power_limit_mw"] for device in driven.ask("nvml", "devices")] == [None]


LIVE = """
import json, sys, time
from vtprof_agent.resource import agent_resource
from vtprof_agent.sampling import Sampling
from vtprof_schemas import names

windows, limits = [], {}
class Meter:
    def expect(self, hw_id, keys, period_s): pass
    def add_window(self, window): windows.append(window)
    def limit_power(self, hw_id, limit_mw): limits[hw_id] = limit_mw

sampling = Sampling.start(("gpm", "nvml"), meter=Meter())
deadline = time.monotonic() + 100
needed = {(f"GPU-standin-{i}", names.GPU_ENERGY_MJ) for i in range(8)}
while needed - {(w.hw_id, w.key) for w in windows} and time.monotonic() < deadline:
    time.sleep(0.05)
keys = sorted({(p.sample.hw_id, p.sample.key) for p in sampling.sample([], agent_resource("node"), 1)})
sampling.close()
told = [[w.hw_id, w.key, w.start_ns, w.end_ns, w.amount] for w in windows]
json.dump({"windows": told, "keys": keys, "faults": sampling.faults, "limits": limits}, sys.stdout)
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
    assert told["limits"] == {uuid(gpu): 700_000 for gpu in range(8)}
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
