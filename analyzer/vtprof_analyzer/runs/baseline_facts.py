"""What a baseline tells of itself: a JSON object in its file's metadata, made from runs and read back with care."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from vtprof_analyzer.regress.requests import Run
from vtprof_analyzer.report.format import safe
from vtprof_schemas.errors import DataError

SCHEMA_VERSION: Final = 1
KEY: Final = "vtprof.baseline"
MOST_RUNS: Final = 1_000
MOST_MODELS: Final = 10_000
LONGEST_TEXT: Final = 500
_MOST_LINES: Final = 100
_MOST_COUNT: Final = 1 << 53


class NewerBaseline(DataError):
    """A baseline that a later version of vtprof wrote."""


@dataclass(frozen=True)
class RunFacts:
    """What a baseline's metadata says of one of its runs."""

    label: str
    """What it was saved from, as the user called it."""
    engine: str | None
    device: str | None
    settings: str | None
    models: tuple[str, ...]
    requests: int
    begin_unix_nano: int | None
    """Start of the first request."""
    end_unix_nano: int | None
    """Start of the last request."""
    saved_unix_nano: int | None
    skipped: dict[str, int]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Baseline:
    """What a baseline's metadata says."""

    name: str
    file: Path
    saved_unix_nano: int | None
    note: str | None
    vtprof_version: str | None
    runs: tuple[RunFacts, ...]
    """In the order in which they were saved."""
    file_bytes: int = 0

    @property
    def requests(self) -> int:
        """Return the number of requests of all runs."""
        return sum(run.requests for run in self.runs)


def damaged(file: Path, why: str) -> DataError:
    """Return the error of a baseline that cannot be used."""
    return DataError(f"{safe(file)}: {why}; remove it and save it anew, or give another baseline")


def document_of(
    name: str, note: str | None, runs: Sequence[tuple[Run, int | None]], now: int, version: str
) -> str:
    """Return the metadata of runs, each with when it was saved [Unix ns]."""
    document = {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "saved_unix_nano": now,
        "note": _text(note),
        "vtprof_version": version,
        "runs": [asdict(_described(run, saved)) for run, saved in runs],
    }
    return json.dumps(document)


def model_name(name: str) -> str:
    """Return the name of a served model as files hold it."""
    return valid_text(name)[:LONGEST_TEXT]


def valid_text(value: str) -> str:
    """Return text that UTF-8 can hold."""
    return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()


def _described(run: Run, saved: int | None) -> RunFacts:
    requests = run.requests
    return RunFacts(
        label=_text(run.label) or "",
        engine=_text(run.engine),
        device=_text(run.device),
        settings=_text(run.settings),
        models=tuple(dict.fromkeys(map(model_name, requests.models))),
        requests=len(requests),
        begin_unix_nano=int(requests.start_ns[0]) if len(requests) else None,
        end_unix_nano=int(requests.start_ns[-1]) if len(requests) else None,
        saved_unix_nano=saved,
        skipped=_counts(run.skipped),
        notes=_texts(run.notes),
    )


def facts_of(told: bytes, file: Path, file_bytes: int) -> Baseline:
    """Return what the metadata of a file say, without what in it cannot be. Raises DataError."""
    try:
        document = json.loads(told)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise damaged(file, f"damaged ({KEY} is no JSON object)")
    version = document.get("schema_version")
    if isinstance(version, int | float) and version > SCHEMA_VERSION:
        raise NewerBaseline(
            f"{safe(file)}: written by a newer vtprof; upgrade vtprof, or give another baseline"
        )
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise damaged(file, f"not a baseline of schema_version {SCHEMA_VERSION}")
    listed = document.get("runs")
    if not isinstance(listed, list) or not 0 < len(listed) <= MOST_RUNS:
        raise damaged(file, f"tells of no runs, or of more than {MOST_RUNS:,}")
    return Baseline(
        name=file.stem,
        file=file,
        saved_unix_nano=_moment(document.get("saved_unix_nano")),
        note=_text(document.get("note")),
        vtprof_version=_text(document.get("vtprof_version")),
        runs=tuple(run_facts(one if isinstance(one, dict) else {}) for one in listed),
        file_bytes=file_bytes,
    )


def run_facts(told: Mapping[str, Any]) -> RunFacts:
    """Return what is told of a run."""
    return RunFacts(
        label=_text(told.get("label")) or "",
        engine=_text(told.get("engine")),
        device=_text(told.get("device")),
        settings=_text(told.get("settings")),
        models=_texts(told.get("models"), MOST_MODELS),
        requests=_count(told.get("requests")) or 0,
        begin_unix_nano=_moment(told.get("begin_unix_nano")),
        end_unix_nano=_moment(told.get("end_unix_nano")),
        saved_unix_nano=_moment(told.get("saved_unix_nano")),
        skipped=_counts(told.get("skipped")),
        notes=_texts(told.get("notes")),
    )


def _text(value: Any) -> str | None:
    return value[:LONGEST_TEXT] if isinstance(value, str) and value else None


def _texts(value: Any, most: int = _MOST_LINES) -> tuple[str, ...]:
    """Return the texts of a list, empty ones too."""
    listed = value[:most] if isinstance(value, list | tuple) else ()
    return tuple(dict.fromkeys(one[:LONGEST_TEXT] for one in listed if isinstance(one, str)))


def _counts(value: Any) -> dict[str, int]:
    items = list(value.items())[:_MOST_LINES] if isinstance(value, dict) else []
    return {
        key[:LONGEST_TEXT]: count
        for key, given in items
        if isinstance(key, str) and (count := _count(given)) is not None
    }


def _count(value: Any) -> int | None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST_COUNT
    return value if is_count else None


def _moment(value: Any) -> int | None:
    is_moment = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63
    return value if is_moment else None
