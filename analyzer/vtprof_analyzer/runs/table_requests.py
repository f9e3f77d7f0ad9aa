"""The columns of a request table become runs: what they tell apart, derive and leave out."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vtprof_analyzer.regress.requests import Flags, Floats, Integers, Run
from vtprof_analyzer.report.format import counted, safe
from vtprof_analyzer.runs.coded import coded
from vtprof_analyzer.runs.sift import Columns, sift
from vtprof_analyzer.runs.table_columns import HIT, KEY, RECORDED, START
from vtprof_analyzer.runs.table_csv import Rejects
from vtprof_analyzer.runs.table_units import check_start_unit, check_time_units
from vtprof_schemas.errors import DataError, NoData

BAD: Final = "vtprof_bad"
"""A column of ours: whether a number of the row is text."""
_MOST_RUNS: Final = 1_000
_UNREADABLE: Final = "unreadable line"
_BAD_TEXT: Final = "text in a number column"
_FIELDS: Final = {
    "text_tokens": "n_text_tokens", "visual_tokens": "n_visual_tokens", "audio_tokens": "n_audio_tokens",
    "output_tokens": "n_output_tokens", "cached_tokens": "cached_tokens", "images": "n_images",
    "encoder_hit": HIT, "in_flight": "requests_in_flight", "preprocess_ms": "preprocess_ms", "queue_ms": "queue_ms",
    "encode_ms": "encode_ms", "transfer_ms": "transfer_ms", "prefill_ms": "prefill_ms",
    "unexplained_ms": "unexplained_ms", "ttft_ms": "ttft_ms", "tpot_ms": "tpot_ms", "kv_bytes": "kv_bytes",
    "weight": "weight",
}  # fmt: skip
"""{field of `Requests`: column of a table}."""
_MAY_BE_NAN: Final = ("encoder_hit", "in_flight")
"""Written as NaN these are unknown: there is often nothing that they could tell."""


def runs_of(shown: str, values: dict[str, NDArray[Any]], rejects: Rejects, notes: list[str]) -> list[Run]:
    """Return the runs of a table's columns, which are used up; numbers that are not told are masked.

    Raises DataError for columns in another unit than their names say, NoData where no request can be used.
    """
    count = len(values[START])
    rejected = {_UNREADABLE: rejects.count} if rejects.count else {}
    if rejects.first:
        notes.append(f"{shown}: {rejects.first}")
    if not count:
        if rejects.count:
            raise DataError(f"{shown}: none of {counted(rejects.count, 'line')} can be read: {rejects.first}")
        raise NoData(f"{shown}: no requests: only a header")
    columns, unit_note = _columns(shown, values, count)
    if unit_note:
        notes.append(unit_note)
    bad = _flags(values.pop(BAD)) if BAD in values else None
    parts = _split(shown, values)
    values.clear()
    runs = []
    for name, rows in parts:
        part = _select(columns, rows) if rows is not None else columns
        runs.append(_run(f"{shown} run {safe(name, 40)}" if name is not None else shown, part, bad, rows))
    first = runs[0]
    runs[0] = Run(
        first.label, first.requests, skipped={**rejected, **first.skipped}, notes=(*notes, *first.notes)
    )
    if not any(len(run.requests) for run in runs):
        skipped = "; ".join(f"{number} {reason}" for run in runs for reason, number in run.skipped.items())
        raise NoData(f"{shown}: no request can be used ({safe(skipped)})")
    return runs


def _run(label: str, columns: Columns, bad: Flags | None, rows: Integers | None) -> Run:
    skipped: dict[str, int] = {}
    if bad is not None:
        mine = bad if rows is None else bad[rows]
        if faulty := int(np.count_nonzero(mine)):
            skipped[_BAD_TEXT] = faulty
            columns = _select(columns, np.flatnonzero(~mine))
    sifted = sift(columns)
    return Run(label, sifted.requests, skipped={**skipped, **sifted.skipped}, notes=sifted.notes)


def _columns(shown: str, values: dict[str, NDArray[Any]], count: int) -> tuple[Columns, str | None]:
    start = values.pop(START)
    start_ns = np.ma.filled(start, 0).astype(np.int64, copy=False)
    check_start_unit(shown, start_ns)
    floats: dict[str, Floats] = {}
    literal_nan: dict[str, Flags] = {}
    for field, name in _FIELDS.items():
        if name not in values:
            continue
        raw = values.pop(name)
        floats[field] = np.ma.filled(raw, np.nan).astype(np.float64, copy=False)
        nan = np.isnan(np.ma.getdata(raw)) & ~np.ma.getmaskarray(raw)
        if field not in _MAY_BE_NAN and nan.any():
            literal_nan[field] = nan
    if "tpot_ms" in literal_nan and "output_tokens" in floats:
        # Of one token there is no time per further token.
        literal_nan["tpot_ms"] &= ~(floats["output_tokens"] < 2)
    _derive(floats, values)
    note = check_time_units(shown, floats)
    models, model = coded(values.pop("model")) if "model" in values else (("",), np.zeros(count, np.int64))
    request_ids = values.pop("request_id", None)
    keys = values.pop(KEY, request_ids)
    ids = values.pop("trace_id", request_ids)
    if ids is not None and request_ids is not None and ids is not request_ids:
        ids = np.where(ids == "", request_ids, ids)
    if ids is None:
        ids = np.array([f"row {number}" for number in range(1, count + 1)], object)
    status = values.pop("status", None)
    if status is not None:
        names, codes = coded(status)
        status = np.array([name.strip().lower() for name in names], object)[codes]
    return Columns(floats, start_ns, ids, keys, model, models, status, literal_nan), note


def _derive(floats: dict[str, Floats], values: dict[str, NDArray[Any]]) -> None:
    """Fill in what other columns tell: text tokens from all tokens, items from images and videos."""
    if "n_prompt_tokens" in values and "visual_tokens" in floats:
        prompt = np.ma.filled(values.pop("n_prompt_tokens"), np.nan).astype(np.float64)
        text_ = prompt - floats["visual_tokens"] - np.nan_to_num(floats.get("audio_tokens", np.zeros(1)))
        told = floats.get("text_tokens", np.full(len(prompt), np.nan))
        floats["text_tokens"] = np.where(np.isnan(told) & (text_ >= 0), text_, told)
    if "n_videos" in values:
        videos = np.ma.filled(values.pop("n_videos"), np.nan).astype(np.float64)
        images = floats.get("images", np.full(len(videos), np.nan))
        both = np.nan_to_num(images) + np.nan_to_num(videos)
        floats["images"] = np.where(np.isnan(images) & np.isnan(videos), np.nan, both)
    if RECORDED in values and "kv_bytes" in floats:
        floats["kv_bytes"] = np.where(_flags(values.pop(RECORDED)), np.nan, floats["kv_bytes"])


def _flags(raw: NDArray[Any]) -> Flags:
    return np.ma.filled(raw, False).astype(np.bool_, copy=False)


def _split(shown: str, values: dict[str, NDArray[Any]]) -> list[tuple[str | None, Integers | None]]:
    """Return the name and the rows of each run; None for all rows of a table of one run."""
    if "run" not in values:
        return [(None, None)]
    names, codes = coded(values["run"])
    if len(names) > _MOST_RUNS:
        raise DataError(
            f"{shown}: column run has {len(names):,} different values; it is to tell a few runs apart"
        )
    if len(names) == 1:
        return [(names[0] or None, None)]
    order = np.argsort(codes, kind="stable")
    bounds = np.searchsorted(codes[order], np.arange(len(names) + 1))
    return [(name, order[bounds[code] : bounds[code + 1]]) for code, name in enumerate(names)]


def _select(columns: Columns, rows: Integers) -> Columns:
    return Columns(
        {field: values[rows] for field, values in columns.floats.items()},
        columns.start_ns[rows],
        columns.ids[rows],
        None if columns.keys is None else columns.keys[rows],
        columns.model[rows],
        columns.models,
        None if columns.status is None else columns.status[rows],
        None
        if columns.literal_nan is None
        else {field: flags[rows] for field, flags in columns.literal_nan.items()},
    )
