"""The NVML sampler under the real binding, with a scripted library: units, refusals, GPUs that are lost and found.

The virtual clock begins at 1 s, as do the scripts' origin at 0: energy until then is power times 1 s.
"""

from nvml_standin.driven import values
from nvml_standin.fixtures import BUSY, MIG, A, B, Start, built_library, process_starter  # noqa: F401  # fixtures
from nvml_standin.standin import NO_PERMISSION, NOT_SUPPORTED, uuid

from vtprof_schemas import names


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


def test_what_a_gpu_refuses_is_not_asked_ten_times_a_second_and_asked_again_at_last(start: Start) -> None:
    control, driven = start(gpus=1)
    control.fail(0, "energy", NOT_SUPPORTED)
    control.fail(0, "utilization", NO_PERMISSION)
    driven.ask("nvml", "open")
    for _ in range(100):
        samples = driven.sample("nvml", after_s=0.1)
    assert (control.calls()["energy"], control.calls()["utilization"]) == (1, 1)
    assert not {names.GPU_ENERGY_MJ, names.GPU_BUSY_RATIO} & {s.key for s in samples}
    no_right = dict.fromkeys(
        (names.GPU_BUSY_RATIO, names.GPU_MEMORY_BUSY_RATIO), "NVML: Insufficient Permissions"
    )
    assert driven.ask("nvml", "missing") == {A: {names.GPU_ENERGY_MJ: "NVML: Not Supported", **no_right}}
    control.fail(0, "energy", 0)
    assert values(driven.sample("nvml", after_s=700.0), names.GPU_ENERGY_MJ)
    assert driven.ask("nvml", "missing") == {A: no_right}


def test_why_a_quantity_of_an_instance_is_missing_goes_with_it_and_memory_has_two_calls(start: Start) -> None:
    control, driven = start(gpus=1)
    control.instances(0, MIG)
    driven.ask("nvml", "open")
    told = driven.sample("nvml")
    assert {"MIG-x", "MIG-y", A} == values(told, names.GPU_MEMORY_USED_BYTES).keys()
    missing = driven.ask("nvml", "missing")
    whole = "NVML tells it of the whole GPU alone"
    assert missing["MIG-x"].items() >= {names.GPU_ENERGY_MJ: whole, names.GPU_POWER_MW: whole}.items()
    assert names.GPU_MEMORY_USED_BYTES not in missing["MIG-x"]
    control.set(0, mig=0)
    driven.sample("nvml", after_s=31.0)
    assert driven.ask("nvml", "missing") == {}


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


def test_the_power_limit_of_a_gpu_is_the_one_it_was_made_for_else_the_one_in_force(start: Start) -> None:
    """One that is lowered takes nothing off what the GPU takes at rest."""
    control, driven = start()
    control.set(0, power_default_limit_mw=700_000, power_enforced_limit_mw=300_000)
    control.set(1, power_default_limit_mw=72_000, power_enforced_limit_mw=72_000)
    driven.ask("nvml", "open")

    def limits() -> list[int | None]:
        return [device["power_limit_mw"] for device in driven.ask("nvml", "devices")]

    assert limits() == [700_000, 72_000]
    control.fail(0, "power_default_limit", NOT_SUPPORTED)
    assert limits() == [300_000, 72_000]
    control.fail(0, "power_enforced_limit", NO_PERMISSION)
    assert limits() == [None, 72_000]
    control.set(1, power_default_limit_mw=0)
    assert limits() == [None, 72_000], "a limit of 0 W is none"


def test_eight_gpus_of_which_one_forbids_access_leave_seven(start: Start) -> None:
    control, driven = start(gpus=8)
    control.fail(3, "handle", NO_PERMISSION)
    driven.ask("nvml", "open")
    expected = {uuid(i) for i in range(8) if i != 3}
    assert set(values(driven.sample("nvml"), names.GPU_ENERGY_MJ)) == expected
