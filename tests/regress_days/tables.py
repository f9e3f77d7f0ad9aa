"""Served requests as a reader gives them, and as the request tables that a user has."""

import csv
import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from regress_days.serve import Served
from vtprof_analyzer.regress.requests import Floats, Requests, Run

START_NS: Final = 1_790_000_000_000_000_000
NS_PER_MS: Final = 1_000_000


@dataclass(frozen=True)
class Recorded:
    """Which of the optional columns a table has."""

    in_flight: bool = True
    hits: bool = True
    others: bool = True
    """Number of images and cached tokens."""


ALL: Final = Recorded()
BARE: Final = Recorded(in_flight=False, hits=False, others=False)


def requests_of(
    served: Mapping[str, Served],
    recorded: Recorded = ALL,
    *,
    begin_ns: int = START_NS,
    name: str = "r",
    known: Sequence[str] = (),
) -> Requests:
    """Join what the engines of each model served, in order of arrival; ``known`` names more models than were used."""
    models = tuple(dict.fromkeys([*known, *served]))
    count = sum(len(one.asked) for one in served.values())
    arrival = np.concatenate([one.asked.arrival_ms for one in served.values()])
    order = np.argsort(arrival, kind="stable")

    def joined(columns: Sequence[Any], shown: bool = True) -> Floats:
        if not shown:
            return np.full(count, np.nan)
        return np.concatenate(columns).astype(np.float64)[order]

    sides = list(served.values())
    visual = [_visual(one) for one in sides]
    ttft, preprocess, queue, encode, prefill = (
        joined([getattr(one, column) for one in sides])
        for column in ("ttft_ms", "preprocess_ms", "queue_ms", "encode_ms", "prefill_ms")
    )
    images = [one.asked.image_count.astype(np.float64) for one in sides]
    hits = [
        np.divide(one.hits, number, out=np.full(len(number), np.nan), where=number > 0)
        for one, number in zip(sides, images, strict=True)
    ]
    in_flight = [_in_flight(one) for one in sides] if recorded.in_flight else []
    absent = np.full(count, np.nan)
    model = np.concatenate([np.full(len(one.asked), models.index(each)) for each, one in served.items()])
    return Requests(
        ids=np.array([f"{name}{number:07d}" for number in range(count)]),
        start_ns=begin_ns + np.rint(arrival[order] * NS_PER_MS).astype(np.int64),
        model=model[order].astype(np.int64),
        models=models,
        text_tokens=joined([one.asked.text_tokens for one in sides]),
        visual_tokens=joined(visual),
        audio_tokens=absent,
        output_tokens=joined([one.asked.output_tokens for one in sides]),
        cached_tokens=joined([one.cached_tokens for one in sides], recorded.others),
        images=joined(images, recorded.others),
        encoder_hit=joined(hits, recorded.hits),
        in_flight=joined(in_flight, recorded.in_flight),
        preprocess_ms=preprocess,
        queue_ms=queue,
        encode_ms=encode,
        transfer_ms=absent,
        prefill_ms=prefill,
        unexplained_ms=ttft - preprocess - queue - encode - prefill,
        ttft_ms=ttft,
        tpot_ms=joined([one.tpot_ms for one in sides]),
        kv_bytes=joined([one.kv_bytes for one in sides]),
        weight=np.ones(count),
    )


def _visual(served: Served) -> Floats:
    owner = np.repeat(np.arange(len(served.asked)), served.asked.image_count)
    return np.bincount(owner, served.asked.image_tokens, len(served.asked)).astype(np.float64)


def _in_flight(served: Served) -> Floats:
    """Return how many others were there, mean over each request's time: the integral of their number."""
    begin, end = served.asked.arrival_ms, served.finish_ms
    at = np.concatenate([begin, end])
    order = np.argsort(at, kind="stable")
    number = np.cumsum(np.concatenate([np.ones(len(begin)), -np.ones(len(end))])[order])
    integral = np.concatenate([[0.0], np.cumsum(number[:-1] * np.diff(at[order]))])
    where = np.empty(len(at), dtype=np.int64)
    where[order] = np.arange(len(at))
    area = integral[where[len(begin) :]] - integral[where[: len(begin)]]
    return np.asarray(area / np.maximum(end - begin, 1e-9) - 1, dtype=np.float64)


COLUMNS: Final = {
    "n_text_tokens": "text_tokens",
    "n_visual_tokens": "visual_tokens",
    "queue_ms": "queue_ms",
    "preprocess_ms": "preprocess_ms",
    "encode_ms": "encode_ms",
    "prefill_ms": "prefill_ms",
    "ttft_ms": "ttft_ms",
    "tpot_ms": "tpot_ms",
    "n_output_tokens": "output_tokens",
    "kv_bytes": "kv_bytes",
}
OPTIONAL: Final = {
    "n_images": "images",
    "cached_tokens": "cached_tokens",
    "encoder_cache_hit": "encoder_hit",
    "requests_in_flight": "in_flight",
}
"""Left out of a table where nothing is known."""


def frame(requests: Requests) -> pl.DataFrame:
    """Return the request table of a run; what is not known is null."""
    names = np.array(requests.models)
    columns: dict[str, Any] = {
        "request_id": requests.ids,
        "start_unix_nano": requests.start_ns,
        "model": names[requests.model],
    }
    columns |= {column: getattr(requests, source) for column, source in COLUMNS.items()}
    for column, source in OPTIONAL.items():
        if not np.isnan(getattr(requests, source)).all():
            columns[column] = getattr(requests, source)
    return pl.DataFrame(columns).fill_nan(None)


def write(run: Run, path: Path) -> Path:
    """Write a run as a request table: .parquet, .csv or .csv.gz by the path's ending."""
    table = frame(run.requests)
    if path.name.endswith(".parquet"):
        table.write_parquet(path)
    elif path.name.endswith(".gz"):
        with gzip.open(path, "wt", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([table.columns, *table.iter_rows()])
    else:
        table.write_csv(path)
    return path
