"""Read traces, whatever `vtprof analyze` reads, into one run, with the same cache; only the stages that it takes."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import duckdb

from vtprof_analyzer.ingest.cache import through_cache
from vtprof_analyzer.ingest.cache_key import key_of
from vtprof_analyzer.ingest.instead import read_instead
from vtprof_analyzer.ingest.load import create_tables, load
from vtprof_analyzer.ingest.sources import Sources
from vtprof_analyzer.regress.requests import Run
from vtprof_analyzer.report.format import counted, safe
from vtprof_analyzer.runs.deployment import deployment_of
from vtprof_analyzer.runs.trace_requests import run_stages, sifted_requests
from vtprof_analyzer.store import open_store, use_few_threads, work_in_memory
from vtprof_analyzer.versions import leave_newer_out
from vtprof_schemas.errors import NoData

_NO_VISUAL: Final = (
    "visual tokens are not recorded: all of a prompt counts as text, and images that change in size or number"
    " cannot be told from a slower engine in preprocess and encode"
)


def read_traces(
    path: Path, shown: str, sources: Sources, progress: Callable[[int], None], *, cache: bool = True
) -> Run:
    """Return the run that the traces under ``path`` tell of. Raises NoData where no request can be used."""
    if not sources.files:
        skipped = f" ({counted(sources.skipped, 'other file')})" if sources.skipped else ""
        raise NoData(
            f"{shown}: no trace files and no request tables{skipped}; record first, or point to them"
        )
    key = key_of(sources, [path]) if cache else None
    with open_store() as connection, ExitStack() as held:
        use_few_threads(connection, sum(sources.sizes.values()))
        create_tables(connection)
        held.enter_context(through_cache(connection, key, lambda: load(connection, sources, progress)))
        _require_spans(connection, shown)
        leave_newer_out(connection)
        work_in_memory(connection)
        run_stages(connection)
        return run_of(connection, shown, _load_notes(connection))


def run_of(connection: duckdb.DuckDBPyConnection, label: str, notes: tuple[str, ...] = ()) -> Run:
    """Return the run that a database holds, in which `run_stages` or a whole analysis was run.

    Raises NoData where none of its requests can be used.
    """
    sifted = sifted_requests(connection)
    if not len(sifted.requests):
        skipped = "; ".join(f"{number} {reason}" for reason, number in sifted.skipped.items())
        raise NoData(
            f"{label}: no request can be used ({skipped or 'no span of a request'}); record some first"
        )
    told = deployment_of(connection)
    ((unknown,),) = connection.execute(
        "SELECT count(*) FILTER (visual_tokens IS NULL) > count(*) / 2 FROM request_base"
    ).fetchall()
    if unknown:
        notes = (*notes, _NO_VISUAL)
    return Run(
        label,
        sifted.requests,
        engine=told.engine,
        device=told.device,
        settings=told.settings,
        skipped=sifted.skipped,
        notes=(*notes, *sifted.notes),
    )


def _require_spans(connection: duckdb.DuckDBPyConnection, shown: str) -> None:
    """Raise NoData, saying what was there instead, when no span can be used."""
    instead = read_instead(connection)
    if instead is None:
        return
    there = f" ({counted(instead.other_spans, 'span')} of other programs)" if instead.other_spans else ""
    if instead.metrics and not instead.other_spans:
        there = f" (metrics without spans: {instead.metrics})"
    told = f"; {instead.notes[0]}" if instead.notes else ""
    raise NoData(
        f"{shown}: neither traces nor a request table{there}{told};"
        " give traces, or a table with start_unix_nano and ttft_ms"
    )


def _load_notes(connection: duckdb.DuckDBPyConnection) -> tuple[str, ...]:
    """Return a line on what could not be read."""
    ((lines, messages, spans),) = connection.execute(
        "SELECT coalesce(sum(malformed_lines + truncated_lines), 0)::BIGINT,"
        " coalesce(sum(dropped_messages), 0)::BIGINT, coalesce(sum(dropped_spans), 0)::BIGINT FROM ingest_files"
    ).fetchall()
    notes = connection.execute("SELECT file, what FROM ingest_notes ORDER BY file, what LIMIT 2").fetchall()
    told = [f"{safe(file)}: {safe(what)}" for file, what in notes]
    if lines or messages or spans:
        unread = [
            counted(lines, "unreadable line"),
            *([counted(messages, "unreadable message")] if messages else []),
        ]
        told.insert(0, f"{', '.join(unread)} and {counted(spans, 'unusable span')} left out")
    return tuple(told)
