"""What this node offers: GPUs, counters, permissions, engines, rings, settings, and what each missing thing costs."""

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from vtprof_agent import agent_state
from vtprof_agent.attach.candidates import candidates
from vtprof_agent.attach.processes import read_process, tracing_allowed
from vtprof_agent.attach.refusal import Refused
from vtprof_agent.attach.rings import open_rings
from vtprof_agent.config import ORIGIN_DEFAULT, Config, Settings, without_secrets
from vtprof_agent.endpoint_checks import checks
from vtprof_agent.gpu_checks import look_at_gpus
from vtprof_agent.gpu_checks import problems as gpu_problems
from vtprof_agent.private_rings import sessions
from vtprof_agent.progress_store import check
from vtprof_agent.rings_report import RingLine, look
from vtprof_agent.samplers.nvml_session import SHARED
from vtprof_schemas.errors import BackendError

ENGINES = ("transformers", "vllm", "sglang")
_GPU_DEVICES: Final = "/dev/nvidia*", "/dev/kfd"
_SYS_NICE: Final = 1 << 23


def report(settings: Settings) -> dict[str, Any]:
    """Look at the node and return the document of `doctor --format json`."""
    config = settings.config
    looked_at = look_at_gpus(config)
    others = sessions()
    folders = [config.ring_dir, *(others if settings.origins["ring_dir"] == ORIGIN_DEFAULT else [])]
    rings: list[RingLine] = []
    problems: list[str] = []
    for folder in folders:
        try:
            lines, said = look(folder)
        except BackendError as error:
            problems.append(str(error))
            continue
        rings += lines
        problems += said
    running = candidates()
    permissions = _permissions(config)
    agent = agent_state.look(config.ring_dir, time.time_ns())
    looked = [
        replace(one, problem=one.problem and settings.named(one.problem))
        for one in checks(config, agent.alive is True)
    ]
    problems += [f"{one['what']}: {one['problem']}; {one['costs']}" for one in permissions if one["problem"]]
    problems += [check.line() for check in looked if check.problem is not None]
    problems += gpu_problems(looked_at, config)
    return {
        "gpus": looked_at.devices(),
        "driver": _driver(),
        "engines": [
            {"name": name, "version": found} for name in ENGINES if (found := _version(name)) is not None
        ],
        "attach": tracing_allowed(),
        "permissions": permissions,
        "processes": [
            {**asdict(candidate), "ring": _ring_of(candidate.pid, (config.ring_dir, *others))}
            for candidate in running
            if candidate.engine is not None
        ],
        "other_python_processes": sum(candidate.engine is None for candidate in running),
        "agent": agent.document(),
        "ring_dirs": [str(folder) for folder in folders],
        "rings": [ring.document() for ring in rings],
        "samplers": looked_at.samplers(),
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


def _ring_of(pid: int, folders: Sequence[Path]) -> str | None:
    """Return the ring that a process records to at present."""
    try:
        process = read_process(pid)
        return next((str(ring) for folder in folders for ring in open_rings(process, folder)), None)
    except (Refused, BackendError, OSError):
        return None  # it has ended, or may not be looked into: attach says so


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
