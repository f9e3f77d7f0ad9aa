"""Model and device of a run: from the traces, or from ``--model`` and ``--device`` where these are given.

What is not known becomes one note that says what would make it known; only what the user typed can be an error.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from vtprof_analyzer.cost.kv import kv_bytes_per_token, kv_fixed_bytes
from vtprof_analyzer.cost.work import Precision
from vtprof_analyzer.devices.catalogue import find_device, suggest
from vtprof_analyzer.devices.roofs import Roof, choose_roof
from vtprof_analyzer.models.registry import is_known, load_spec, model_type, parse_config
from vtprof_analyzer.models.spec import ModelSpec
from vtprof_analyzer.pipeline import Settings, Stage
from vtprof_analyzer.report import model as shown
from vtprof_analyzer.report.build_deployment import Physics, recorded
from vtprof_analyzer.report.build_rows import Row
from vtprof_analyzer.step_cost import CostInputs, create_table, fill_table
from vtprof_schemas import names
from vtprof_schemas.errors import ConfigError, DataError

CONFIG_FILE = "config.json"


@dataclass(frozen=True)
class RunPhysics:
    """What the stages and the report need to know of model and device."""

    settings: Settings
    step_cost_stage: Stage
    shown: Physics
    roof: Roof | None


def find_physics(connection: duckdb.DuckDBPyConnection, model: Path | None, device: str | None) -> RunPhysics:
    """Return the physics of a run; raise ConfigError or DataError for a model or device the user named wrongly."""
    resource = recorded(connection)
    notes: list[str] = []
    config = _read_config(model) if model else _recorded_config(resource, notes)
    spec = _spec(config, model is not None, notes)
    dtype = resource.get("weights_dtype") or (spec.dtype if spec else None)
    ranks = int(resource.get("parallel_tp") or 1)
    roofs, roof, device_name = _roofs(resource, device, dtype, ranks, notes)
    precision = Precision.of(dtype, resource.get("kv_dtype"))
    if spec and precision is None:
        notes.append(
            f"data type {dtype or 'not recorded'} of the weights or {resource.get('kv_dtype')} of the KV cache: bytes"
            f" and roofline are not known; record {names.WEIGHTS_DTYPE} and {names.KV_DTYPE}"
        )
    inputs = CostInputs(spec, precision, roof) if spec and precision else None
    known_kv = inputs is not None
    settings = Settings(
        kv_bytes_per_token=kv_bytes_per_token(spec.language, precision.kv_bytes, ranks)
        if spec and precision
        else None,
        kv_fixed_bytes=kv_fixed_bytes(spec.language, precision.kv_bytes, ranks)
        if spec and precision
        else None,
        peak_flops_per_s=roof.peak_flops_per_s if roof else None,
    )
    return RunPhysics(
        settings,
        create_table if inputs is None else lambda db: fill_table(db, inputs),
        Physics(
            model_type=model_type(config) if config else None,
            cost_model=known_kv,
            roof=_shown(roof) if roof else None,
            roofs=[_shown(r) for r in roofs],
            device=device_name,
            notes=notes,
        ),
        roof,
    )


def _read_config(path: Path) -> dict[str, Any]:
    file = path / CONFIG_FILE if path.is_dir() else path
    try:
        text = file.read_text("utf-8")
    except FileNotFoundError as error:
        raise ConfigError(
            f"--model {path}: no {CONFIG_FILE} there; give the model's folder or its config file"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"--model {file}: cannot be read ({error}); give the model's {CONFIG_FILE}"
        ) from error
    try:
        return parse_config(text)
    except DataError as error:
        raise ConfigError(f"--model {file}: {error}") from error


def _recorded_config(resource: Row, notes: list[str]) -> dict[str, Any] | None:
    text = resource.get("model_config")
    if not text:
        notes.append(
            f"the model is not recorded ({names.MODEL_CONFIG}): no FLOPs, bytes or roofline; --model FOLDER supplies it"
        )
        return None
    try:
        return parse_config(text)
    except DataError as error:
        notes.append(f"recorded {error}; --model FOLDER supplies it")
        return None


def _spec(config: Mapping[str, Any] | None, typed: bool, notes: list[str]) -> ModelSpec | None:
    """Return the spec of a config. A config that the user named may not be at fault; a recorded one is noted."""
    if config is None:
        return None
    if not is_known(config):
        notes.append(
            f"model type {json.dumps(model_type(config))} has no cost model yet: no FLOPs, bytes or roofline"
        )
        return None
    try:
        return load_spec(config)
    except DataError as error:
        if typed:
            raise
        notes.append(f"recorded {error}")
        return None


def _roofs(
    resource: Row, device: str | None, dtype: str | None, ranks: int, notes: list[str]
) -> tuple[list[Roof], Roof | None, str | None]:
    """Return all roofs, the one to use, and the device's name."""
    if device is not None:
        found = find_device(device)
        if found is None:
            close = ", ".join(suggest(device))
            raise ConfigError(
                f"--device {device}: not one device of the table; "
                + (f"did you mean {close}?" if close else "no name is close")
            )
        # What was measured on the recorded machine says nothing about another one.
        choice = choose_roof(found.name, dtype, devices=ranks)
        notes.extend(choice.notes)
        return choice.roofs, choice.roof, found.name
    choice = choose_roof(
        resource.get("hw_name"),
        dtype,
        resource.get("device_peak_flops_per_s"),
        resource.get("device_bandwidth_bytes_per_s"),
        resource.get("device_peak_source"),
        devices=ranks,
    )
    notes.extend(choice.notes)
    return choice.roofs, choice.roof, None


def _shown(roof: Roof) -> shown.Roof:
    return shown.Roof(
        roof.kind, roof.peak_flops_per_s, roof.bandwidth_bytes_per_s, roof.ridge, roof.dtype, roof.source
    )
