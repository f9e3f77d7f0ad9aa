"""A baseline's rows: the columns of runs as the file has them, and runs from columns that may hold anything."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from vtprof_analyzer.ingest.parquet_columns import quote
from vtprof_analyzer.regress.requests import Flags, Floats, Integers, Requests, Run
from vtprof_analyzer.report.format import counted, safe
from vtprof_analyzer.runs.baseline_facts import LONGEST_TEXT, Baseline, RunFacts, model_name, valid_text
from vtprof_analyzer.runs.sift import LARGEST_COUNT, LONGEST_MS

NEEDED: Final = ("run", "start_unix_nano")
"""Columns of integers without which there are no runs."""
COLUMNS: Final = {
    "text_tokens": "n_text_tokens",
    "visual_tokens": "n_visual_tokens",
    "audio_tokens": "n_audio_tokens",
    "output_tokens": "n_output_tokens",
    "cached_tokens": "cached_tokens",
    "images": "n_images",
    "encoder_hit": "encoder_cache_hit",
    "in_flight": "requests_in_flight",
} | {
    name: name
    for name in (
        "preprocess_ms", "queue_ms", "encode_ms", "transfer_ms", "prefill_ms", "unexplained_ms", "ttft_ms", "tpot_ms",
        "kv_bytes", "weight",
    )
}  # fmt: skip
"""Column of the file by that of the requests, for all that are numbers."""
INTEGERS: Final = (
    "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT",
)  # fmt: skip
_NUMBERS: Final = (*INTEGERS, "UHUGEINT", "FLOAT", "DOUBLE")
_LONGEST_ID: Final = 128


def table_of(runs: Sequence[Run]) -> dict[str, Any]:
    """Return the columns of the file."""

    def joined(column: str) -> Any:
        return np.concatenate([getattr(run.requests, column) for run in runs])

    models = [
        np.array([*map(model_name, run.requests.models), ""], dtype=object)[run.requests.model]
        for run in runs
    ]
    ids = [np.array([valid_text(str(id_)) for id_ in run.requests.ids], dtype=object) for run in runs]
    return {
        "run": np.repeat(np.arange(1, len(runs) + 1, dtype=np.int32), [len(run.requests) for run in runs]),
        "request_id": np.concatenate(ids),
        "start_unix_nano": joined("start_ns"),
        "model": np.concatenate(models),
    } | {column: joined(name) for name, column in COLUMNS.items()}


def expressions(types: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return the expression of each column of requests that the file has, and notes on those of a wrong type."""
    columns = {
        "run": "TRY_CAST(run AS BIGINT)",
        "start_ns": "TRY_CAST(start_unix_nano AS BIGINT)",
    }
    notes = []
    for name, column in COLUMNS.items():
        type_ = types.get(column)
        if type_ in _NUMBERS or (type_ or "").startswith("DECIMAL"):
            columns[name] = f"TRY_CAST({quote(column)} AS DOUBLE)"
        elif type_ is not None:
            notes.append(f"column {column} is {safe(type_, 40)} where a number is wanted; taken as unknown")
    if types.get("request_id") == "VARCHAR":
        columns["ids"] = f"left(coalesce(request_id, ''), {_LONGEST_ID})"
    elif "request_id" in types:
        notes.append("column request_id is no text; requests are called by their numbers")
    if types.get("model") == "VARCHAR":
        columns["model"] = f"left(coalesce(model, ''), {LONGEST_TEXT})"
    elif "model" in types:
        notes.append("column model is no text; taken as unknown")
    return columns, notes


def runs_of(
    found: Mapping[str, Any], names: Sequence[str], baseline: Baseline, notes: list[str]
) -> list[Run]:
    """Return the runs that rows belong to."""
    number = np.ma.filled(found["run"], 0)
    known = (number >= 1) & (number <= len(baseline.runs))
    order = np.argsort(number[known], kind="stable")
    rows = np.flatnonzero(known)[order]
    edges = np.searchsorted(number[rows], np.arange(1, len(baseline.runs) + 2))
    runs = [
        _run(found, rows[edges[index] : edges[index + 1]], names, told, notes)
        for index, told in enumerate(baseline.runs)
    ]
    if strays := int((~known).sum()):
        first = runs[0]
        runs[0] = replace(
            first, skipped=_more(first.skipped, "request of no run that the baseline tells of", strays)
        )
    return runs


def _run(
    found: Mapping[str, Any], rows: Integers, names: Sequence[str], told: RunFacts, notes: list[str]
) -> Run:
    start = np.ma.filled(found["start_ns"][rows], -1)
    numbers = {name: _floats(found.get(name), rows) for name in COLUMNS}
    if "weight" not in found:
        numbers["weight"] = np.ones(len(rows))
    usable, skipped = np.ones(len(rows), np.bool_), dict(told.skipped)
    for reason, faulty in _faults(start, numbers):
        if new := int(np.count_nonzero(usable & faulty)):
            skipped = _more(skipped, reason, new)
            usable &= ~faulty
    chosen = np.flatnonzero(usable)
    chosen = chosen[np.argsort(start[chosen], kind="stable")]
    ids = found["ids"][rows] if "ids" in found else (rows + 1).astype(str).astype(object)
    model, models = _models(found["model"][rows][chosen], names, told.models)
    if len(rows) != told.requests:
        notes = [
            *notes,
            f"the baseline tells of {counted(told.requests, 'request')} and holds {len(rows):,}: it was changed",
        ]
    requests = Requests(
        ids=ids[chosen],
        start_ns=start[chosen],
        model=model,
        models=models,
        **{name: values[chosen] for name, values in numbers.items()},
    )
    return Run(told.label, requests, told.engine, told.device, told.settings, skipped, (*told.notes, *notes))


def _floats(values: Any, rows: Integers) -> Floats:
    if values is None:
        return np.full(len(rows), np.nan)
    return np.asarray(np.ma.filled(values[rows].astype(np.float64), np.nan))


def _faults(start: Integers, numbers: Mapping[str, Floats]) -> Iterator[tuple[str, Flags]]:
    """Yield what cannot be, in words, and which requests have it; NaN is a number that is not known."""
    yield "no start time", start < 0
    for name, values in numbers.items():
        most = 1.0 if name == "encoder_hit" else LONGEST_MS if name.endswith("_ms") else LARGEST_COUNT
        column = COLUMNS[name]
        yield f"infinite {column}", np.isinf(values)
        yield f"negative {column}", values < 0
        yield f"impossible {column}", values > most
    yield "weight not above 0", ~(numbers["weight"] > 0)


def _models(codes: Any, names: Sequence[str], told: tuple[str, ...]) -> tuple[Integers, tuple[str, ...]]:
    """Return the index of each request's model, and the models: those that the metadata lists come first."""
    present = {names[code]: code for code in np.unique(codes).tolist()}
    models = tuple(dict.fromkeys([*told, *present]))
    index = np.zeros(len(names) or 1, dtype=np.int64)
    for place, model in enumerate(models):
        if model in present:
            index[present[model]] = place
    return index[codes], models


def _more(skipped: Mapping[str, int], reason: str, count: int) -> dict[str, int]:
    return {**skipped, reason: skipped.get(reason, 0) + count}
