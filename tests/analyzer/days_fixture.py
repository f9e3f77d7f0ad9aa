"""Analyze a synthetic day, for acceptance tests: the analyzer's tables beside the truth."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
from synthetic.day import Day

from vtprof_analyzer.analyze import Options, analyze
from vtprof_analyzer.report.model import Report

TOKENS = ("input_tokens", "output_tokens", "text_tokens", "image_tokens", "video_tokens", "cached_tokens")


@dataclass(frozen=True)
class Analyzed:
    """A day, what `vtprof analyze` reported of it, and its database."""

    day: Day
    report: Report
    database: Path

    def table(self, query: str, **parameters: Any) -> pl.DataFrame:
        """Return the rows of a query over the analyzer's tables."""
        with duckdb.connect(str(self.database), read_only=True) as connection:
            found = connection.execute(query, parameters)
            columns = [column[0] for column in found.description or ()]
            return pl.DataFrame(found.fetchall(), columns, orient="row", infer_schema_length=None)


def analyzed(day: Day, folder: Path, **options: Any) -> Analyzed:
    """Write a day into a folder and analyze it; ``options`` are those of `Options`."""
    day.write(folder / "traces")
    database = folder / "run.duckdb"
    report = analyze(Options([folder / "traces"], database=database, **options))
    return Analyzed(day, report, database)


def requests(found: Analyzed) -> pl.DataFrame:
    """Return the truth of the requests that were recorded, with the analyzer's row of each beside it (``_found``)."""
    rows = found.table("FROM request_base").select(
        "request_id", "request_number", "weight", "ttft_ns", "tpot_ns", *TOKENS
    )
    truth = found.day.truth["requests"].filter(pl.col("recorded"))
    joined = truth.join(rows, on="request_id", suffix="_found", maintain_order="left")
    assert len(joined) == len(truth) == len(rows)
    return joined
