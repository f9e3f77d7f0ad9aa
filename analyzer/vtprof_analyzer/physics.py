"""Model and device of a run: from the traces, or from ``--model`` and ``--device`` where these are given.

What is not known becomes one note that says what would make it known; only what the user typed can be an error.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb

from vtprof_analyzer import counterfactuals, model_sizes
from vtprof_analyzer.cost.kv import kv_bytes_per_token, kv_fixed_bytes
from vtprof_analyzer.cost.work import Precision
from vtprof_analyzer.devices.catalogue import find_device
from vtprof_analyzer.devices.measured import Calibrations, read_calibrations
from vtprof_analyzer.devices.roofs import CPU, Roof, RoofChoice, choose_roof
from vtprof_analyzer.devices.typed import Typed, typed_device
from vtprof_analyzer.models.bundled import find_bundled
from vtprof_analyzer.models.config_file import CONFIG_FILE, read_config_text, shown_path
from vtprof_analyzer.models.find import exists
from vtprof_analyzer.models.registry import is_known, load_spec, model_type, parse_config
from vtprof_analyzer.models.spec import ModelSpec
from vtprof_analyzer.physics_groups import Groups, find_groups, ranked
from vtprof_analyzer.pipeline import Settings, Stage
from vtprof_analyzer.recorded_parallel import recorded_parallel
from vtprof_analyzer.report import model as shown
from vtprof_analyzer.report.build_deployment import Physics, recorded
from vtprof_analyzer.report.build_rows import Row, one, rows
from vtprof_analyzer.step_cost import CostInputs, fill_table
from vtprof_schemas import names
from vtprof_schemas.errors import DataError

_NO_STEPS = "these spans hold no engine steps"


@dataclass(frozen=True)
class RunPhysics:
    """What the stages and the report need to know of model and device."""

    settings: Settings
    step_cost_stage: Stage
    fact_stages: dict[str, Stage]
    """By their place among the SQL stages: those that ask the cost model for facts."""
    shown: Physics
    roof: Roof | None


def find_physics(connection: duckdb.DuckDBPyConnection, model: Path | None, device: str | None) -> RunPhysics:
    """Return the physics of a run; raise ConfigError or DataError for a model or device the user named wrongly."""
    resource = recorded(connection)
    notes: list[str] = []
    has_steps = _has_steps(connection)
    config = (
        _typed_config(connection, model, notes) if model else _recorded_config(resource, has_steps, notes)
    )
    spec, no_cost = _spec(config, model is not None)
    notes.extend(spec.notes if spec else ())
    dtype = resource.get("weights_dtype") or (spec.dtype if spec else None)
    ranks = int(resource.get("parallel_tp") or 1)
    stored = read_calibrations()
    if stored.note:
        notes.append(stored.note)
    named = typed_device(device) if device is not None else None
    choice = _roofs(resource, named, dtype, ranks, stored, notes)
    roof = choice.roof
    precision = Precision.of(dtype, resource.get("kv_dtype"), spec.quantization if spec else None)
    if spec and precision is None:
        no_cost = _no_precision(resource, dtype, has_steps)
    if no_cost and config is not None:
        notes.append(no_cost)
    if has_steps:
        notes.extend(choice.notes)
    elif device is not None:
        notes.append(f"--device {device}: {_NO_STEPS}, so that its roof has nothing to judge")
    known = spec if precision else None
    inputs = None
    if known and precision:
        parallel, faults = recorded_parallel(resource, known)
        notes.extend(faults)
        inputs = CostInputs(known, precision, roof, parallel)
    notes.extend(_without_tower(connection, spec, model, resource))
    groups = find_groups(connection, config if model else None, named, stored)
    if groups is not None:
        notes[:0] = [note for note in groups.notes if note not in notes]
    costed = groups.inputs if groups and groups.inputs else [inputs] if inputs else []
    if groups and groups.inputs:
        no_cost = None
    settings = Settings(
        kv_bytes_per_token=kv_bytes_per_token(known.language, precision.kv_bytes, ranks)
        if known and precision
        else None,
        kv_fixed_bytes=kv_fixed_bytes(known.language, precision.kv_bytes, ranks)
        if known and precision
        else None,
        context_tokens=spec.language.context_tokens if spec else None,
    )
    if groups and groups.inputs:
        settings = Settings(resource_kv=groups.resource_kv)
    return RunPhysics(
        settings,
        lambda db: fill_table(db, costed),
        {
            model_sizes.STAGE: lambda db: model_sizes.fill_table(db, costed, named.device if named else None),
            counterfactuals.STAGE: lambda db: counterfactuals.fill_table(db, costed),
        },
        Physics(
            model_type=model_type(config) if config else None,
            cost_model=bool(costed),
            roof=_shown(roof) if roof else None,
            roofs=_all_roofs(
                choice, ranked(named.device.name if named else resource.get("hw_name"), ranks), groups
            ),
            device=named.device.name if named else None,
            notes=notes,
            no_cost=no_cost if has_steps else f"{_NO_STEPS}: FLOPs, bytes and verdicts are not known",
            no_roof=None if roof else "; ".join(choice.notes) or None,
        ),
        roof,
    )


def _without_tower(
    connection: duckdb.DuckDBPyConnection, spec: ModelSpec | None, model: Path | None, resource: Row
) -> list[str]:
    """Say that a model, the user's or the recorded one, cannot have encoded the images that the traces hold."""
    if spec is None or spec.vision is not None:
        return []
    # A config that was recorded is that of its own process; the user's stands for all of them.
    whose = "" if model else f" AND resource_id = {int(resource['resource_id'])}"
    seen = "tokens_image > 0 OR tokens_video > 0 OR step_encode_patches > 0"
    query = f"SELECT count(*) AS n FROM spans WHERE ({seen}){whose}"
    if not one(connection, query)["n"]:
        return []
    who = f"--model {shown_path(model)}" if model else spec.model_type
    if spec.audio is not None:
        return [f"{who} has no vision tower: encode of images and videos has no cost"]
    return [f"{who} is a text-only model: encode has no cost"]


def _has_steps(connection: duckdb.DuckDBPyConnection) -> bool:
    query = f"SELECT count(*) AS n FROM spans WHERE name IN ('{names.SPAN_STEP}', '{names.SPAN_WINDOW}')"
    return bool(one(connection, query)["n"])


def _typed_config(connection: duckdb.DuckDBPyConnection, model: Path, notes: list[str]) -> dict[str, Any]:
    """Return the config that the user named, and note when it takes the place of others that were recorded."""
    config = _read_config(model)
    others = [before for before in _recorded_configs(connection) if before != config]
    if others:
        whose = "the recorded config" if len(others) == 1 else f"{len(others)} recorded configs"
        types = sorted({model_type(before) or "a model without type" for before in others})
        notes.append(
            f"--model replaces {whose}: {model_type(config)} in place of {', '.join(types)}, not the same settings"
        )
    return config


def _recorded_configs(connection: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    """Return the configs that processes of these traces recorded, each once, without those that cannot be read."""
    configs: list[dict[str, Any]] = []
    query = """
    SELECT DISTINCT model_config FROM resources
    WHERE model_config IS NOT NULL AND resource_id IN (SELECT resource_id FROM spans WHERE dialect IS NOT NULL)
    """
    for row in rows(connection, query):
        try:
            config = parse_config(row["model_config"])
        except DataError:
            continue
        if config not in configs:
            configs.append(config)
    return configs


def _read_config(path: Path) -> dict[str, Any]:
    bundled = None if exists(path) else find_bundled(str(path))
    if bundled is not None and bundled.files.config is not None:
        return dict(bundled.files.config)
    text, file = read_config_text(path), shown_path(path)
    try:
        config = parse_config(text)
    except DataError as error:
        raise DataError(f"--model {file}: {error}") from error
    if model_type(config) is None:
        raise DataError(
            f"--model {file}: model_type is missing; use the {CONFIG_FILE} of the model as published"
        )
    return config


def _recorded_config(resource: Row, has_steps: bool, notes: list[str]) -> dict[str, Any] | None:
    text = resource.get("model_config")
    if not text:
        notes.append(
            f"the model is not recorded ({names.MODEL_CONFIG}): no FLOPs, bytes or roofline; --model FOLDER supplies it"
            if has_steps
            else f"the model is not recorded; --model FOLDER gives KV bytes, but no FLOPs or roofline: {_NO_STEPS}"
        )
        return None
    try:
        return parse_config(text)
    except DataError as error:
        notes.append(f"recorded {error}; --model FOLDER supplies it")
        return None


def _spec(config: Mapping[str, Any] | None, typed: bool) -> tuple[ModelSpec | None, str | None]:
    """Return the spec of a config, or None and why. A config that the user named may not be at fault."""
    if config is None:
        return (
            None,
            f"the model's config is not known ({names.MODEL_CONFIG}, or --model): no FLOPs, bytes or verdicts",
        )
    try:
        return load_spec(config), None
    except DataError as error:
        if not is_known(config):
            kind = model_type(config) or "a model without type"
            return None, f"no cost model for {kind} yet: FLOPs, bytes and verdicts are not known"
        if typed:
            raise
        return None, f"recorded {error}"


def _no_precision(resource: Row, dtype: str | None, has_steps: bool) -> str:
    """Say which data type is missing or unknown, and what would make it known."""
    kv = resource.get("kv_dtype")
    what = (
        f"data type {dtype!r} of the weights" if dtype
        else "the data type of the weights"
    )  # fmt: skip
    if not dtype:
        remedy = f"record {names.WEIGHTS_DTYPE}, or name torch_dtype in the config" if has_steps else (
            "name torch_dtype in the config"
        )  # fmt: skip
        return f"{what} is not recorded: FLOPs, bytes and verdicts are not known; {remedy}"
    if kv:
        what += f" or {kv!r} of the KV cache"
    return f"{what} is not one the cost model knows: FLOPs, bytes and verdicts are not known"


def _roofs(
    resource: Row, named: Typed | None, dtype: str | None, ranks: int, stored: Calibrations, notes: list[str]
) -> RoofChoice:
    """Return the roofs of the device that the user named, or of the one that was recorded."""
    if named is not None:
        # What was measured on the recorded machine says nothing about another one.
        choice = named.roofs(dtype, ranks, stored)
        if named.note:
            notes.append(named.note)
        if not _ran_on(resource, named):
            name, ran_on = named.device.name, resource.get("hw_name") or resource.get("device_kind")
            whose = f"the roof is {name}'s" if choice.roof else f"--device names {name}"
            if ran_on == name:
                ran_on = f"{resource.get('device_cores')} cores of {name}"
                whose = f"--device names {named.cores} of them"
            notes.append(f"times were recorded on {ran_on}; {whose}")
            choice = _doubted(choice, "the roof is not that of the device that ran")
        return choice
    return choose_roof(
        resource.get("hw_name"),
        dtype,
        resource.get("device_peak_flops_per_s"),
        resource.get("device_bandwidth_bytes_per_s"),
        resource.get("device_peak_source"),
        devices=ranks,
        device_kind=resource.get("device_kind"),
        measured=stored.roof(resource.get("hw_name"), dtype, resource.get("device_cores")),
        cores=resource.get("device_cores"),
    )


def _ran_on(resource: Row, named: Typed) -> bool:
    """Tell whether the times may be of the device that the user named: nothing that was recorded says otherwise."""
    name, kind = resource.get("hw_name"), resource.get("device_kind")
    if kind is not None and (kind == CPU) != (named.device.kind == CPU):
        return False
    if named.cores is None:
        return not name or find_device(name) == named.device
    return not name or (name == named.device.name and (resource.get("device_cores") or 0) <= named.cores)


def _doubted(choice: RoofChoice, why: str) -> RoofChoice:
    """Return the roofs with low confidence, for a reason."""
    roofs = [replace(roof, confidence="low", doubt=why) for roof in choice.roofs]
    return replace(choice, roofs=roofs, roof=roofs[0] if roofs else None)


def _all_roofs(choice: RoofChoice, device: str | None, groups: Groups | None) -> list[shown.Roof]:
    """Return the roofs to show: of the first device all, the best first; after that one the best of each other device."""
    others: list[shown.Roof] = []
    for inputs, whose in zip(groups.inputs, groups.devices, strict=True) if groups else ():
        if inputs.roof is not None and not any(_alike(inputs.roof, roof) for roof in choice.roofs):
            others.append(_shown(inputs.roof, whose))
    own = [_shown(roof, device if others else None) for roof in choice.roofs]
    return [*own[:1], *dict.fromkeys(others), *own[1:]]


def _alike(one: Roof, other: Roof) -> bool:
    return replace(one, confidence="", doubt="", source="") == replace(
        other, confidence="", doubt="", source=""
    )


def _shown(roof: Roof, device: str | None = None) -> shown.Roof:
    return shown.Roof(
        roof.kind,
        roof.peak_flops_per_s,
        roof.bandwidth_bytes_per_s,
        roof.ridge,
        roof.dtype,
        roof.source,
        device,
    )
