"""What served a run, in the words of `Run`: engine, device and settings, as its traces recorded them."""

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from typing import Final

import duckdb

from vtprof_analyzer.ingest.dialects import VTPROF
from vtprof_analyzer.report.build_rows import Row, rows
from vtprof_analyzer.report.format import safe

_PARALLEL: Final = ("tp", "pp", "dp", "ep")
_AND: Final = " + "
_LONGEST: Final = 60


@dataclass(frozen=True)
class Deployment:
    """None where nothing was recorded; what differs between processes is joined with " + "."""

    engine: str | None
    device: str | None
    settings: str | None


def deployment_of(connection: duckdb.DuckDBPyConnection) -> Deployment:
    """Return the deployment of a database with the base tables."""
    query = resources.files("vtprof_analyzer.runs").joinpath("deployment.sql").read_text("utf-8")
    processes = rows(connection, query)
    # A server's API process does not run the model, and may tell but a part of how it is run.
    telling = [process for process in processes if process["weights_dtype"]] or processes
    return Deployment(
        _joined(_engine(process) for process in processes),
        _joined(_devices(processes)),
        _joined(_settings(process) for process in telling),
    )


def _joined(told: Iterable[str]) -> str | None:
    return _AND.join(sorted({text for text in told if text})) or None


def _engine(process: Row) -> str:
    engine = process["engine_name"] or ("" if process["dialect"] in (None, VTPROF) else process["dialect"])
    return safe(f"{engine} {process['engine_version'] or ''}".strip(), _LONGEST)


def _devices(processes: list[Row]) -> list[str]:
    """Return the devices of each kind, with their number where ids tell it."""
    ids: dict[str, set[str]] = {}
    for process in processes:
        if process["device"]:
            listed = {part.strip() for part in (process["ids"] or "").split(",")} - {""}
            ids.setdefault(safe(process["device"], _LONGEST), set()).update(listed)
    return [f"{len(found)} x {name}" if found else name for name, found in ids.items()]


def _settings(process: Row) -> str:
    """Return data types and parallel sizes; a size of one is none."""
    kv_dtype = process["kv_dtype"]
    told = [
        safe(process["weights_dtype"] or "", _LONGEST),
        f"KV {safe(kv_dtype, _LONGEST)}" if kv_dtype else "",
        *(f"{size.upper()} {process[size]}" for size in _PARALLEL if (process[size] or 1) > 1),
    ]
    return ", ".join(text for text in told if text)
