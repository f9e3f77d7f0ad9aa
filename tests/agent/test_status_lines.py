"""What a running agent tells of itself is told by `status` in lines: health, problems, losses, GPUs; or that it is dead."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from agent_states import HEALTHY, NOW, S, told, write

from vtprof_agent.agent_state import STALE_S, STATE_FILE, DestinationState, Loss, look
from vtprof_agent.counters.rolling import CounterState
from vtprof_agent.progress_store import claim
from vtprof_agent.samplers.health import GpuState, SamplerState
from vtprof_agent.status_lines import RECENT_S
from vtprof_schemas import names


def test_status_tells_all_that_the_live_agent_wrote(tmp_path: Path) -> None:
    lock = claim(tmp_path)
    write(tmp_path)
    seen = look(tmp_path, NOW + 2 * S)
    assert (seen.alive, seen.age_s) == (True, 2.0)
    assert seen.lines() == [
        f"agent of {tmp_path}: PID 77 runs for 60 min, 2 problems",
        "  problem: http://collector:4318/v1 takes nothing: refused, 6.8 MB wait on disk",
        "  problem: detail is lowered: the agent's CPU time 0.0600 cores, limit 0.05",
        "  lost: 3 records lost in rings, 5 spans dropped; 10000 records read",
        "  cost: 0.021 cores, 61.2 MB of memory; the probe takes at most 0.12 % of a process's time",
        "  detail 2 (windows, no single steps), 2 rings, 4 requests in flight, version 0.1.0",
        "  0.1 of ordinary requests are kept, all slow and failed ones; 880 were left out",
        "  to http://collector:4318/v1: 1234 spans delivered, 6.8 MB wait on disk",
        "  samplers: host, nvml; off: amd (--verbose says why)",
        "  GPU-1 (NVIDIA H200): at worst attributed (energy: no fit yet); others may use this GPU",
    ]
    assert seen.problems() == [line.removeprefix("  problem: ") for line in seen.lines()[1:3]]
    document = json.loads(json.dumps(seen.document(), allow_nan=False))
    assert document["agent"]["gpus"] == [
        {"uuid": "GPU-1", "name": "NVIDIA H200", "details": {"gpm": True}, "reason": None, "since_unix_ns": None,
         "silent": {}, "refused": {}, "missing": {}}
    ]  # fmt: skip
    assert document["problems"] == seen.problems()
    assert "secret" not in (tmp_path / STATE_FILE).read_text()
    os.close(lock)


def test_a_healthy_agent_is_told_as_such_whatever_was_lost_long_ago(tmp_path: Path) -> None:
    lines = told(tmp_path, HEALTHY)
    assert lines[0].endswith("PID 77 runs for 60 min, healthy")
    assert lines[1].startswith("lost: 3 records lost in rings, 5 spans dropped; ")
    assert told(tmp_path, replace(HEALTHY, losses=()))[1].startswith("lost: nothing; ")


def test_one_ring_and_one_request_are_not_many(tmp_path: Path) -> None:
    (line,) = [
        one for one in told(tmp_path, replace(HEALTHY, rings=1, open_requests=1)) if "in flight" in one
    ]
    assert ", 1 ring, 1 request in flight, " in line


def test_requests_that_ended_and_records_of_earlier_agents_are_told_apart(tmp_path: Path) -> None:
    state = replace(
        HEALTHY, open_requests=8, held_requests=20, records_read=113_680, records_read_before=100_000
    )
    lines = told(tmp_path, state)
    assert lines[1].endswith("; 113680 records read (100000 before this agent)")
    assert any(", 8 requests in flight and 20 ended, waiting for their counters, " in line for line in lines)


def test_what_is_lost_now_is_a_problem_for_a_while(tmp_path: Path) -> None:
    losing = replace(HEALTHY, losses=(Loss("spans dropped", 5, NOW - 30 * S),))
    said = "problem: 5 spans dropped, the last at 2030-03-17T17:46:10Z (30 s ago)"
    assert said in told(tmp_path, losing)
    assert not [
        line for line in told(tmp_path, losing, after_s=int(RECENT_S)) if "spans dropped, the" in line
    ]


def test_what_was_lost_before_the_agent_is_no_problem_of_it_and_told_as_such(tmp_path: Path) -> None:
    losses = (Loss("records lost in rings", 11163, None, 11163), Loss("spans dropped", 9, NOW - 30 * S, 5))
    lines = told(tmp_path, replace(HEALTHY, losses=losses))
    assert [line for line in lines if line.startswith("problem")] == [
        "problem: 4 spans dropped, the last at 2030-03-17T17:46:10Z (30 s ago)"
    ]
    assert (
        "lost: 11163 records lost in rings (all before this agent), 9 spans dropped (5 before this agent);"
        in ("".join(lines))
    )


def test_spans_delivered_are_told_by_destination_alone(tmp_path: Path) -> None:
    two = (
        DestinationState("/traces", 5200, 0),
        DestinationState("http://c:4318", 0, 0, spooled_bytes=7_000_000),
    )
    lines = told(tmp_path, replace(HEALTHY, destinations=two))
    assert [line for line in lines if "spans delivered" in line] == [
        "to /traces: 5200 spans delivered",
        "to http://c:4318: 0 spans delivered, 7.0 MB wait on disk",
    ]


@pytest.mark.parametrize(
    ("waiting", "said"),
    [(0, "0 bytes"), (99, "99 bytes"), (42_519, "42.5 kB"), (100_000, "0.1 MB"), (6_780_000, "6.8 MB")],
)
def test_little_that_waits_on_disk_is_not_nothing(tmp_path: Path, waiting: int, said: str) -> None:
    one = DestinationState("http://c:4318", 0, 0, spooled_bytes=waiting, last_error="refused")
    lines = told(tmp_path, replace(HEALTHY, destinations=(one,)))
    assert f"problem: http://c:4318 takes nothing: refused, {said} wait on disk" in lines


NO_RIGHT, NO_COUNTER = "GPM: Insufficient Permissions", "NVML: Not Supported"


def test_each_counter_that_is_not_told_of_a_gpu_is_named_with_its_reason(tmp_path: Path) -> None:
    ratios = (names.GPU_DRAM_BANDWIDTH_RATIO, names.GPU_TENSOR_ACTIVE_RATIO, names.GPU_SM_ACTIVE_RATIO)
    refused = {**dict.fromkeys(ratios, NO_RIGHT), names.GPU_POWER_MW: NO_COUNTER}
    fit = CounterState(
        "GPU-2", ratios[0], names.QUALITY_ESTIMATED, None, 0, 0, False, None, 0, 0, "no fit yet"
    )
    gpus = (
        GpuState("GPU-1", "H200", missing=refused),
        GpuState("GPU-2", "H200", missing={ratios[0]: "GPM: no value"}),
    )
    state = replace(HEALTHY, gpus=gpus, attribution=(fit,))
    lines, more = told(tmp_path, state), " (--verbose says why)"
    assert lines[-2:] == [
        f"GPU-1 (H200): nothing of it is attributed yet; not told: dram_bandwidth, tensor_active, sm_active{more}",
        f"GPU-2 (H200): at worst estimated (dram_bandwidth: no fit yet); not told: dram_bandwidth{more}",
    ]
    verbose = told(tmp_path, state, verbose=True)
    at = next(index for index, line in enumerate(verbose) if line.startswith("GPU-1"))
    nobody = "not told: no sampler that is on tells it"
    assert verbose[at + 1 :] == [
        f"  dram_bandwidth: not told: {NO_RIGHT}",
        f"  tensor_active: not told: {NO_RIGHT}",
        f"  sm_active: not told: {NO_RIGHT}",
        f"  energy: {nobody}",
        f"  power: not told: {NO_COUNTER}",
        lines[-1].removesuffix(more),
        "  dram_bandwidth: estimated, no fit yet, 0 windows, not told any more: GPM: no value",
        f"  tensor_active: {nobody}",
        f"  sm_active: {nobody}",
        f"  energy: {nobody}",
    ]


def test_what_mig_leaves_to_the_whole_gpu_or_to_its_instances_is_told_only_when_asked(tmp_path: Path) -> None:
    dram, energy = names.GPU_DRAM_BANDWIDTH_RATIO, names.GPU_ENERGY_MJ
    gpus = (
        GpuState("GPU-1", "H200", missing={dram: "of its instances"}),
        GpuState("MIG-a", "H200 MIG", {"mig_of": "GPU-1"}, missing={energy: "of the whole"}),
        GpuState("MIG-b", "H200 MIG", {"mig_of": "GPU-1"}, missing={energy: "of the whole", dram: NO_RIGHT}),
    )
    state = replace(HEALTHY, gpus=gpus, attribution=())
    nothing = "nothing of it is attributed yet"
    assert told(tmp_path, state)[-3:] == [
        f"GPU-1 (H200): {nothing}",
        f"MIG-a (H200 MIG): {nothing}",
        f"MIG-b (H200 MIG): {nothing}; not told: dram_bandwidth (--verbose says why)",
    ]
    verbose = told(tmp_path, state, verbose=True)
    assert "  dram_bandwidth: not told: of its instances" in verbose
    assert "  energy: not told: of the whole" in verbose


def test_what_a_gpu_refuses_to_a_sampler_is_a_problem_with_its_reason(tmp_path: Path) -> None:
    gpu = GpuState(
        "GPU-1", "H200", silent={"gpm": NOW - 60 * S}, refused={"gpm": "GPM: Insufficient Permissions"}
    )
    said = "GPU-1: sampler gpm tells nothing of it since 2030-03-17T17:45:40Z (60 s): GPM: Insufficient Permissions"
    assert f"problem: {said}" in told(tmp_path, replace(HEALTHY, gpus=(gpu,)))


def test_samplers_and_gpus_that_are_lost_say_why_and_since_when(tmp_path: Path) -> None:
    gone = replace(
        HEALTHY,
        samplers=(SamplerState("host"), SamplerState("nvml"), SamplerState("gpm", "a reading hangs", NOW - 90 * S, True)),
        gpus=(
            GpuState("GPU-1", "H200", {}, "it fell off the bus", NOW - 7200 * S),
            GpuState("GPU-2", "H200", silent={"pcie": NOW - 60 * S}),
        ),
    )  # fmt: skip
    lines = told(tmp_path, gone)
    assert lines[0].endswith(", 3 problems")
    assert lines[1:4] == [
        "problem: GPU-1 (H200) is not read since 2030-03-17T15:46:40Z (2 h): it fell off the bus",
        "problem: sampler gpm is off since 2030-03-17T17:45:10Z (90 s): a reading hangs",
        "problem: GPU-2: sampler pcie tells nothing of it since 2030-03-17T17:45:40Z (60 s)",
    ]
    assert (
        "GPU-1 (H200): not read (it fell off the bus); at worst attributed (energy: no fit yet);" in lines[-2]
    )
    assert "samplers: host, nvml; off: gpm (--verbose says why)" in lines


def test_where_no_gpu_is_read_it_is_said_why_without_being_asked(tmp_path: Path) -> None:
    samplers = (
        SamplerState("host"),
        SamplerState("nvml", "no driver", NOW),
        SamplerState("amd", "no package", NOW),
    )
    lines = told(tmp_path, replace(HEALTHY, samplers=samplers, gpus=()))
    at = lines.index("samplers: host")
    assert lines[at + 1 : at + 3] == ["  nvml is off: no driver", "  amd is off: no package"]
    assert lines[0].endswith("healthy"), "a machine without GPUs lacks nothing"


def test_a_process_that_cannot_be_told_its_detail_is_a_problem(tmp_path: Path) -> None:
    lines = told(tmp_path, replace(HEALTHY, detail_refused=(501, 502)))
    assert lines[1].startswith("problem: PID 501, 502: the ring may not be written")


def test_eight_gpus_are_eight_lines_with_the_worst_counter_and_all_counters_when_asked(
    tmp_path: Path,
) -> None:
    keys = (
        names.GPU_ENERGY_MJ,
        names.GPU_DRAM_BANDWIDTH_RATIO,
        names.GPU_SM_ACTIVE_RATIO,
        names.GPU_TENSOR_ACTIVE_RATIO,
    )
    fits = tuple(
        CounterState(
            f"GPU-{gpu}", key, names.QUALITY_ESTIMATED if key == keys[1] else names.QUALITY_ATTRIBUTED,
            100.0 if key == keys[1] else 2000.0, 600, 7 if key == keys[0] else 0, gpu == 3 and key == keys[2], 0.125,
            40_000_000, 1 if key == keys[3] else 0, "its idle power was not seen" if key == keys[1] else None,
        )
        for gpu in range(8)
        for key in keys
    )  # fmt: skip
    state = replace(HEALTHY, gpus=tuple(GpuState(f"GPU-{gpu}", "H200") for gpu in range(8)), attribution=fits)
    lines = [line for line in told(tmp_path, state) if line.startswith("GPU-")]
    worst = "at worst estimated (dram_bandwidth: its idle power was not seen)"
    assert lines == [
        f"GPU-{gpu} (H200): {worst}{'; others may use this GPU' if gpu == 3 else ''}" for gpu in range(8)
    ]
    verbose = told(tmp_path, state, verbose=True)
    at = verbose.index(lines[3])
    usual = "attributed, condition number 2e+03, 600 windows, 12.5 % unattributed, 40 ms late"
    assert verbose[at + 1 : at + 5] == [
        f"  energy: {usual}, windows refused: 7",
        f"  dram_bandwidth: estimated, its idle power was not seen, condition number 100, {usual.split(', ', 2)[2]}",
        f"  sm_active: {usual}, others may use this GPU",
        f"  tensor_active: {usual}, fits failed: 1",
    ]


def test_one_that_hangs_is_told_as_such(tmp_path: Path) -> None:
    lock = claim(tmp_path)
    write(tmp_path)
    assert "it hangs" not in "".join(look(tmp_path, NOW + int(STALE_S) * S).lines())
    late = look(tmp_path, NOW + 45 * S).lines()
    assert late[0].endswith("3 problems")
    assert late[1] == "  problem: it told nothing for 45 s: it hangs or is stopped"
    os.close(lock)


def test_an_agent_that_was_killed_is_not_taken_for_a_live_one(tmp_path: Path) -> None:
    os.close(claim(tmp_path))
    write(tmp_path)
    seen = look(tmp_path, NOW + 600 * S)
    assert seen.alive is False
    assert seen.lines() == [
        f"agent of {tmp_path}: none runs; PID 77 ended without a stop, its last word is 10 min old"
    ]


def test_without_an_agent_or_before_its_first_word_that_is_said(tmp_path: Path) -> None:
    assert look(tmp_path, NOW).lines() == [f"agent of {tmp_path}: none runs"]
    assert look(tmp_path / "missing", NOW).alive is False
    lock = claim(tmp_path)
    assert look(tmp_path, NOW).lines()[0].endswith("runs, and has told nothing of itself yet")
    os.close(lock)
    os.close(claim(tmp_path))  # looking left no lock behind


def test_a_start_of_hundreds_of_digits_leaves_the_rest_told(tmp_path: Path) -> None:
    (first, *_) = told(tmp_path, replace(HEALTHY, started_unix_ns=10**400))
    assert first == f"agent of {tmp_path}: PID 77 runs, healthy"


def test_an_agent_of_another_version_is_not_called_healthy(tmp_path: Path) -> None:
    lock = claim(tmp_path)
    write(tmp_path, HEALTHY)
    document = json.loads((tmp_path / STATE_FILE).read_text())
    del document["agent"]["losses"]
    (tmp_path / STATE_FILE).write_text(json.dumps(document))
    assert look(tmp_path, NOW).lines() == [
        f"agent of {tmp_path}: PID 77 runs for 60 min, 1 problem",
        "  problem: what it tells cannot be read: it is of another version than this command",
    ]
    os.close(lock)
