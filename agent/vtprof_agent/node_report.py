"""What this node offers: GPUs, counters, permissions, engines, rings, settings, and what each missing thing costs."""

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from vtprof_agent import agent_state
from vtprof_agent.attach.candidates import candidates
from vtprof_agent.attach.processes import tracing_allowed
from vtprof_agent.config import Config, Settings, without_secrets
from vtprof_agent.endpoint_checks import checks, cleaned
from vtprof_agent.progress_store import check
from vtprof_agent.rings_report import look
from vtprof_agent.samplers.nvml_session import SHARED
from vtprof_agent.samplers.sampler import SAMPLERS, load
from vtprof_schemas.errors import BackendError, ConfigError

ENGINES = ("transformers", "vllm", "sglang")
COSTS: Final[Mapping[str, str]] = {
    "host": "no CPU time and memory of the inference processes",
    "gpm": "no DRAM bandwidth, tensor and SM activity from the driver; a dcgm-exporter may tell (--dcgm-url)",
    "nvml": "no energy, power, clocks and memory of NVIDIA GPUs",
    "pcie": "no PCIe traffic",
    "amd": "no counters of AMD GPUs",
    "dcgm": "no DRAM and tensor activity of NVIDIA GPUs before Hopper",
}
"""What goes missing without a sampler."""
_GPU_DEVICES: Final = "/dev/nvidia*", "/dev/kfd"
_SYS_NICE: Final = 1 << 23


def report(settings: Settings) -> dict[str, Any]:
    """Look at the node and return the document of `doctor --format json`."""
    config = settings.config
    gpus, samplers = _samplers(config)
    try:
        rings, problems = look(config.ring_dir)
    except BackendError as error:
        rings, problems = [], [str(error)]
    running = candidates()
    permissions = _permissions(config)
    agent = agent_state.look(config.ring_dir, time.time_ns())
    looked = checks(config, agent.alive is True)
    problems += [f"{one['what']}: {one['problem']}; {one['costs']}" for one in permissions if one["problem"]]
    problems += [check.line() for check in looked if check.problem is not None]
    problems += _without_bandwidth(gpus, samplers)
    return {
        "gpus": gpus,
        "driver": _driver(),
        "engines": [
            {"name": name, "version": found} for name in ENGINES if (found := _version(name)) is not None
        ],
        "attach": tracing_allowed(),
        "permissions": permissions,
        "processes": [asdict(candidate) for candidate in running if candidate.engine is not None],
        "other_python_processes": sum(candidate.engine is None for candidate in running),
        "agent": agent.document(),
        "rings": [ring.document() for ring in rings],
        "samplers": samplers,
        "endpoints": [asdict(check) for check in looked],
        "settings": [
            {
                "name": field.name,
                "value": _plain(getattr(config, field.name)),
                "origin": settings.origins[field.name],
            }
            for field in fields(Config)
        ],
        "problems": problems,
        "warnings": [check.line() for check in looked if check.warning is not None],
    }


def _samplers(config: Config) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    gpus: dict[str, dict[str, Any]] = {}
    states: list[dict[str, Any]] = []
    for name in SAMPLERS:
        reason: str | None = "not among the samplers chosen"
        if not config.samplers or name in config.samplers:
            try:
                reason = _open(name, config.dcgm_url, gpus)
            except (BackendError, ConfigError) as error:
                reason = str(error)
            reason = cleaned(reason, config.dcgm_url) if reason and config.dcgm_url else reason
        states.append(
            {"name": name, "available": reason is None, "reason": reason, "costs": COSTS.get(name, "")}
        )
    for gpu in gpus.values():
        gpu.setdefault("gpm", False)
        gpu["mig"] = any(other.get("mig_of") == gpu["uuid"] for other in gpus.values())
    return list(gpus.values()), states


def _open(name: str, dcgm_url: str | None, gpus: dict[str, dict[str, Any]]) -> str | None:
    """Open a sampler, add the devices it finds, and close it; return why it is not here."""
    sampler = load(name, dcgm_url)
    reason = sampler.why_not()
    if reason is not None:
        return reason
    try:
        sampler.open()
        for device in sampler.devices():
            gpus.setdefault(device.uuid, {"uuid": device.uuid, "name": device.name}).update(device.details)
    finally:
        sampler.close()
    return None


def _driver() -> str | None:
    """Return the version of the NVIDIA driver."""
    if SHARED.why_not() is not None:
        return None
    SHARED.open()
    try:
        return str(SHARED.nvml.nvmlSystemGetDriverVersion())
    except SHARED.nvml.NVMLError:
        return None
    finally:
        SHARED.close()


def _without_bandwidth(gpus: list[dict[str, Any]], samplers: list[dict[str, Any]]) -> Iterator[str]:
    if any(one["available"] for one in samplers if one["name"] in ("dcgm", "amd")):
        return
    for gpu in gpus:
        if not gpu["gpm"]:
            yield (
                f"GPU {gpu['uuid']}: no performance metrics (GPM, from Hopper on); no DRAM bandwidth nor tensor activity"
                " of it, and their attribution: give the page of a dcgm-exporter with --dcgm-url"
            )


def _permissions(config: Config) -> list[dict[str, Any]]:
    """Return what this user may do: what, what is wrong with it, and what that costs."""
    problem = None
    try:
        check(config.ring_dir)
    except BackendError as error:
        problem = str(error)
    costs = "nothing can be followed: run as the user or group of the inference process"
    found: list[tuple[str, str | None, str]] = [(f"rings in {config.ring_dir}", problem, costs)]
    devices = [
        path for pattern in _GPU_DEVICES for path in sorted(Path("/").glob(pattern[1:])) if not path.is_dir()
    ]
    closed = [str(path) for path in devices if not os.access(path, os.R_OK | os.W_OK)]
    if devices:
        costs = "no counters of those GPUs: run as root or in their group"
        found.append(("GPU devices", f"no permission for {', '.join(closed)}" if closed else None, costs))
    tracing = tracing_allowed()
    costs = "`attach` cannot reach running servers; `exec` and the probe's plugin need no such right"
    found.append(("tracing of processes", tracing if tracing.startswith("none") else None, costs))
    costs = "`attach` may stop a thread for some ms on a busy machine instead of a fraction of one"
    found.append(("real-time scheduling", None if _may_schedule() else "no CAP_SYS_NICE", costs))
    return [{"what": what, "problem": problem, "costs": costs} for what, problem, costs in found]


def _may_schedule() -> bool:
    try:
        status = Path("/proc/self/status").read_text("ascii", "replace")
        return bool(int(status.partition("CapEff:")[2].split()[0], 16) & _SYS_NICE)
    except (OSError, ValueError, IndexError):
        return False


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    if isinstance(value, str):
        return without_secrets(value)
    return str(value) if isinstance(value, Path) else value
