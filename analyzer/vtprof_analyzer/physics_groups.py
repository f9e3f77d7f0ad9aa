"""Processes that differ in model, data types, parallel size or device: each group's steps are costed by its own.

One folder may hold the traces of several models, devices or engines; what one process recorded says nothing of another.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import duckdb

from vtprof_analyzer.cost.kv import kv_bytes_per_token, kv_fixed_bytes
from vtprof_analyzer.cost.work import Precision
from vtprof_analyzer.devices.measured import Calibrations
from vtprof_analyzer.devices.roofs import choose_roof
from vtprof_analyzer.devices.typed import Typed
from vtprof_analyzer.models.registry import load_spec, model_type, parse_config
from vtprof_analyzer.models.spec import ModelSpec
from vtprof_analyzer.recorded_parallel import recorded_parallel
from vtprof_analyzer.report.build_rows import Row, rows
from vtprof_analyzer.step_cost import CostInputs
from vtprof_schemas.errors import DataError

_PROCESSES = """
WITH used AS (
    SELECT resource_id, count(*) AS spans, mode(request_model) FILTER (request_model IS NOT NULL) AS model,
           coalesce(sum(greatest(1, coalesce(step_count, 1))) FILTER (
               name IN ('vtprof.step', 'vtprof.window') AND step_count IS DISTINCT FROM 0), 0)::BIGINT AS steps,
           count(*) FILTER (name IN ('vtprof.request', 'llm_request')) AS requests
    FROM spans WHERE dialect IS NOT NULL GROUP BY resource_id
)
-- A resource that was exported before the model was loaded lacks what later ones of its process say.
SELECT list(r.resource_id) AS resource_ids, sum(u.steps)::BIGINT AS steps, sum(u.requests)::BIGINT AS requests,
       any_value(u.model) AS model, max(r.model_config) AS model_config, max(r.weights_dtype) AS weights_dtype,
       max(r.kv_dtype) AS kv_dtype, max(r.parallel_tp) AS parallel_tp, max(r.parallel_pp) AS parallel_pp,
       max(r.parallel_dp) AS parallel_dp, max(r.parallel_ep) AS parallel_ep, max(r.engine_config) AS engine_config,
       max(r.hw_name) AS hw_name,
       max(r.device_peak_flops_per_s) AS peak, max(r.device_bandwidth_bytes_per_s) AS bandwidth,
       max(r.device_peak_source) AS peak_source, max(r.device_kind) AS device_kind,
       -- Cores are those of the device only where the device is the CPU.
       max(r.device_cores) FILTER (r.device_kind = 'cpu') AS cores, max(r.engine_name) AS engine
FROM resources AS r LEFT JOIN used AS u USING (resource_id)
GROUP BY coalesce(r.service_instance_id, r.resource_id::VARCHAR)
HAVING sum(u.spans) > 0
ORDER BY steps DESC, requests DESC, min(r.resource_id)
"""
_NAMED = 4
"""Models without cost that are named."""
_MODEL = ("model_config",)
_SIZES = ("weights_dtype", "kv_dtype", "parallel_tp", "parallel_pp", "parallel_dp", "parallel_ep")
_ENGINE = ("engine_config",)
_DEVICE = ("hw_name", "peak", "bandwidth", "peak_source", "device_kind", "cores")


@dataclass(frozen=True)
class Groups:
    """Groups of processes that are costed apart."""

    inputs: list[CostInputs]
    devices: list[str | None]
    """Name of each group's device, as many times as the group has ranks."""
    resource_kv: dict[int, tuple[float, float, int | None]]
    """Resource to KV bytes of one token and of one sequence, from its own model's config."""
    notes: list[str]


def find_groups(
    connection: duckdb.DuckDBPyConnection,
    typed_config: Mapping[str, Any] | None,
    typed_device: Typed | None,
    stored: Calibrations,
) -> Groups | None:
    """Return the groups, or None where all processes are alike.

    ``typed_config`` and ``typed_device`` are what the user named: they stand for every process; ``stored`` is what was
    measured on this machine.
    """
    processes = [_Process(row, typed_config) for row in rows(connection, _PROCESSES)]
    # What only one process recorded, as an engine's worker beside its server, holds for all that may belong to it.
    for fields in (_MODEL, _SIZES, _DEVICE, _ENGINE):
        tellers = [process for process in processes if _told(process.row, fields)]
        if len({_values(process.row, fields) for process in tellers}) == 1:
            for process in processes:
                if any(_may_be_one(process.row, teller.row) for teller in tellers):
                    process.row.update(zip(fields, _values(tellers[0].row, fields), strict=True))
    for process in processes:
        process.read()
    alike: dict[tuple[Any, ...], list[_Process]] = {}
    for process in processes:
        alike.setdefault(process.key(typed_device is not None), []).append(process)
    notes = _mixtures(processes, typed_config is None, typed_device is None)
    if len(alike) < 2:
        return Groups([], [], {}, notes) if notes else None
    inputs: list[CostInputs] = []
    devices: list[str | None] = []
    resource_kv = {}
    for members in alike.values():
        first, row = members[0], members[0].row
        ids = frozenset(id_ for member in members for id_ in member.row["resource_ids"])
        dtype = row["weights_dtype"] or (first.spec.dtype if first.spec else None)
        precision = Precision.of(dtype, row["kv_dtype"], first.spec.quantization if first.spec else None)
        if first.spec is None or precision is None:
            count = sum(member.row["steps"] for member in members)
            reason = first.fault or f"the data type {dtype or 'of its weights'} is not known"
            if count:
                whose = list(dict.fromkeys(member.label() for member in members if member.row["steps"]))
                more = f" and {len(whose) - _NAMED} more" if len(whose) > _NAMED else ""
                notes.append(f"{', '.join(whose[:_NAMED])}{more}: {count:,} steps without cost: {reason}")
            continue
        parallel, faults = recorded_parallel(row, first.spec)
        ranks = parallel.tensor
        choice = (
            typed_device.roofs(dtype, ranks, stored)
            if typed_device
            else choose_roof(
                row["hw_name"],
                dtype,
                row["peak"],
                row["bandwidth"],
                row["peak_source"],
                ranks,
                row["device_kind"],
                stored.roof(row["hw_name"], dtype, row["cores"]),
                row["cores"],
            )
        )
        notes += [note for note in (*choice.notes, *faults) if note not in notes]
        inputs.append(CostInputs(first.spec, precision, choice.roof, parallel, ids))
        devices.append(ranked(typed_device.device.name if typed_device else row["hw_name"], ranks))
        language = first.spec.language
        sizes = (
            kv_bytes_per_token(language, precision.kv_bytes, ranks),
            kv_fixed_bytes(language, precision.kv_bytes, ranks),
            language.context_tokens,
        )
        resource_kv.update(dict.fromkeys(ids, sizes))
    return Groups(inputs, devices, resource_kv, notes)


def ranked(device: str | None, ranks: int) -> str | None:
    """Return the name of a device as its roof is labelled: ``2 × NVIDIA H200`` where two share each step."""
    return f"{ranks} × {device}" if device and ranks > 1 else device


class _Process:
    """One process, with its model once it was read."""

    def __init__(self, row: Row, typed_config: Mapping[str, Any] | None) -> None:
        self.row = row
        self.config = typed_config
        self.spec: ModelSpec | None = None
        self.fault: str | None = None

    def read(self) -> None:
        try:
            if self.config is None and self.row["model_config"]:
                self.config = parse_config(self.row["model_config"])
            if self.config is not None:
                self.spec = load_spec(self.config)
            else:
                self.fault = "its model is not recorded"
        except DataError as error:
            self.fault = str(error)

    def key(self, is_device_typed: bool) -> tuple[Any, ...]:
        device = None if is_device_typed else _values(self.row, _DEVICE)
        # The text of a config may differ where its sizes do not.
        parallel = recorded_parallel(self.row, self.spec)[0] if self.spec else None
        return (self.spec or self.row["model_config"], _values(self.row, _SIZES), parallel, device)

    def label(self) -> str:
        named = (self.config or {}).get("_name_or_path")
        found = self.row["model"] or named or (model_type(self.config) if self.config else None)
        return str(found or "a model that is not recorded")


def _values(row: Row, fields: tuple[str, ...]) -> tuple[Any, ...]:
    return tuple(row[field] for field in fields)


def _told(row: Row, fields: tuple[str, ...]) -> bool:
    return any(value is not None for value in _values(row, fields))


def _may_be_one(one: Row, other: Row) -> bool:
    """Tell whether two processes may be of one server: they name neither two models nor two engines."""
    pairs = [(one[field], other[field]) for field in ("model", "engine")]
    return all(left is None or right is None or left == right for left, right in pairs)


def _mixtures(processes: list[_Process], models: bool, devices: bool) -> list[str]:
    """Return one line for each thing that these traces hold several of."""
    specs = {process.spec or process.row["model_config"] for process in processes}
    labels = {process.label() for process in processes}
    sized = len(labels) < len(specs)
    notes = []
    if models:
        of_model = {
            id(p): f"{p.label()} ({p.spec.params.total / 1e9:.3g} B parameters)"
            if sized and p.spec
            else p.label()
            for p in processes
            if p.spec or p.row["model_config"]
        }
        notes += _mixture("models", [(of_model.get(id(p)), p.row) for p in processes])
    if devices:
        notes += _mixture("devices", [(p.row["hw_name"], p.row) for p in processes])
    return notes + _mixture("engines", [(p.row["engine"], p.row) for p in processes])


def _mixture(kind: str, members: list[tuple[str | None, Row]]) -> list[str]:
    steps: dict[str, int] = {}
    requests: dict[str, int] = {}
    for name, row in members:
        if name is not None:
            steps[name] = steps.get(name, 0) + row["steps"]
            requests[name] = requests.get(name, 0) + row["requests"]
    if len(steps) < 2:
        return []
    counts, unit = (steps, "steps") if any(steps.values()) else (requests, "requests")
    listed = ", ".join(
        f"{name} ({count:,} {unit})" for name, count in sorted(counts.items(), key=lambda n: -n[1])
    )
    apart = {"models": "each step is costed by its own", "devices": "each step has its own roof"}
    return [f"{len(counts)} {kind} in these traces: {listed}" + (f"; {apart[kind]}" if kind in apart else "")]
