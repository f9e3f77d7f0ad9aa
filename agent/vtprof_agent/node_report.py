"""What this node offers: GPUs, engines, rings, settings and their origins, and what is wrong; for `doctor`."""

import os
from dataclasses import asdict, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from vtprof_agent.attach.candidates import candidates
from vtprof_agent.attach.processes import tracing_allowed
from vtprof_agent.config import Config, Settings
from vtprof_agent.rings_report import look
from vtprof_agent.samplers.sampler import SAMPLERS, load
from vtprof_schemas.errors import BackendError

ENGINES = ("transformers", "vllm", "sglang")


def report(settings: Settings) -> dict[str, Any]:
    """Look at the node and return the document of `doctor --format json`."""
    gpus, samplers = _samplers()
    try:
        rings, problems = look(settings.config.ring_dir)
    except BackendError as error:
        rings, problems = [], [str(error)]
    running = candidates()
    problems += _folder_problems(settings.config)
    return {
        "gpus": gpus,
        "engines": [
            {"name": name, "version": found} for name in ENGINES if (found := _version(name)) is not None
        ],
        "attach": tracing_allowed(),
        "processes": [asdict(candidate) for candidate in running if candidate.engine is not None],
        "other_python_processes": sum(candidate.engine is None for candidate in running),
        "rings": [ring.document() for ring in rings],
        "samplers": samplers,
        "settings": [
            {
                "name": field.name,
                "value": _plain(getattr(settings.config, field.name)),
                "origin": settings.origins[field.name],
            }
            for field in fields(Config)
        ],
        "problems": problems,
    }


def _samplers() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    gpus: list[dict[str, Any]] = []
    states: list[dict[str, Any]] = []
    for name in SAMPLERS:
        sampler = load(name)
        reason = sampler.why_not()
        if reason is None:
            try:
                sampler.open()
                gpus += [{"uuid": d.uuid, "name": d.name, **d.details} for d in sampler.devices()]
            except BackendError as error:
                reason = str(error)
        sampler.close()
        states.append({"name": name, "available": reason is None, "reason": reason})
    return gpus, states


def _folder_problems(config: Config) -> list[str]:
    problems = []
    if not config.ring_dir.is_dir():
        problems.append(
            f"{config.ring_dir}: no such folder yet; the first probe or `vtprof-agent run` makes it"
        )
    elif not os.access(config.ring_dir, os.R_OK | os.W_OK | os.X_OK):
        problems.append(
            f"{config.ring_dir}: no permission; run as the user or group of the inference process"
        )
    if (
        config.out_dir is not None
        and config.out_dir.exists()
        and not os.access(config.out_dir, os.W_OK | os.X_OK)
    ):
        problems.append(f"{config.out_dir}: no permission to write; choose another --out")
    return problems


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value
