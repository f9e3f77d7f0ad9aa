"""States that an agent tells of itself, and what `status` says of them, for the agent's tests."""

import os
from dataclasses import replace
from pathlib import Path

from vtprof_agent.agent_state import AgentState, DestinationState, Loss, StateWriter, look
from vtprof_agent.counters.rolling import CounterState
from vtprof_agent.progress_store import claim
from vtprof_agent.samplers.health import GpuState, SamplerState
from vtprof_schemas import names

S = 1_000_000_000
NOW = 1_900_000_000 * S
STATE = AgentState(
    pid=77, version="0.1.0", started_unix_ns=NOW - 3600 * S, cpu_ratio=0.0213, rss_bytes=61_200_000, probe_ratio=0.0012,
    detail=2, detail_reason="the agent's CPU time 0.0600 cores, limit 0.05", detail_seconds={3: 3000.0, 2: 600.0},
    destinations=(
        DestinationState("http://me:secret@collector:4318/v1?key=secret", 1234, 5, 2, 6_780_000, "refused"),
    ),
    samplers=(SamplerState("host"), SamplerState("nvml"), SamplerState("amd", "no amdsmi", NOW - 3600 * S)),
    gpus=(GpuState("GPU-1", "NVIDIA H200", {"gpm": True}),),
    attribution=(
        CounterState("GPU-1", names.GPU_ENERGY_MJ, names.QUALITY_ATTRIBUTED, float("inf"), 600, 0, True, 0.3, 0),
    ),
    rings=2, records_read=10_000, records_lost=3, open_requests=4, keep_ratio=0.1, requests_sampled_out=880,
    losses=(Loss("records lost in rings", 3, NOW - 3600 * S), Loss("spans dropped", 5), Loss("faults", 0)),
)  # fmt: skip
HEALTHY = replace(
    STATE, detail=3, detail_reason=None, destinations=(replace(STATE.destinations[0], last_error=None),)
)


def write(folder: Path, state: AgentState = STATE, unix_ns: int = NOW) -> None:
    StateWriter(folder, lambda: 0, lambda: unix_ns).write(lambda: state)


def told(folder: Path, state: AgentState, *, after_s: int = 0, verbose: bool = False) -> list[str]:
    lock = claim(folder)
    write(folder, state)
    lines = look(folder, NOW + after_s * S).lines(verbose=verbose)
    os.close(lock)
    return [line.removeprefix("  ") for line in lines]
