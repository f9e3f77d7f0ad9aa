"""What was read where no span can be used, so that a command can say it."""

from dataclasses import dataclass

import duckdb

from vtprof_analyzer.report.format import counted, safe


@dataclass(frozen=True)
class Instead:
    """What was there instead of spans that can be used."""

    other_spans: int
    """Spans of programs that are none of vtprof's, vLLM's or SGLang's."""
    notes: tuple[str, ...]
    """The first two notes in the order of files and lines: the file and what was wrong with it, printable."""
    metrics: str = ""
    """The points of vtprof's own metrics, in words; empty without any."""


def read_instead(connection: duckdb.DuckDBPyConnection) -> Instead | None:
    """Return what was read instead of spans that can be used; None where there is at least one."""
    ((known, others),) = connection.execute(
        "SELECT count(*) FILTER (dialect IS NOT NULL), count(*) FILTER (dialect IS NULL) FROM spans"
    ).fetchall()
    if known:
        return None
    notes = connection.execute(
        "SELECT file, what FROM ingest_notes ORDER BY file, line NULLS FIRST, what LIMIT 2"
    ).fetchall()
    return Instead(others, tuple(f"{safe(file)}: {safe(what)}" for file, what in notes), _metrics(connection))


def _metrics(connection: duckdb.DuckDBPyConnection) -> str:
    ((points, first, names),) = connection.execute(
        "SELECT count(*), min(name), count(DISTINCT name) FROM metric_samples"
    ).fetchall()
    if not points:
        return ""
    others = f" and {counted(names - 1, 'other metric')}" if names > 1 else ""
    return f"{counted(points, 'point')} of {first}{others}"
