"""One path that a user names becomes runs: what it holds is told from its bytes."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Final

from vtprof_analyzer.ingest.prepare import shown_name
from vtprof_analyzer.ingest.sources import Sources, find_sources
from vtprof_analyzer.regress.requests import Run
from vtprof_analyzer.report.format import safe
from vtprof_analyzer.runs.kinds import is_named_table, kind_of
from vtprof_schemas.errors import DataError

_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Of the temporary folder: not the input's fault."""
Progress = Callable[[int], None]
"""Called with the bytes read since its last call."""


def read_runs(path: Path, progress: Progress = lambda _: None, *, cache: bool = True) -> list[Run]:
    """Return the runs under a path: traces (folder, file or pattern), a request table, a database or a baseline.

    ``cache``: keep what was read of traces beside them, and use what was kept.
    Raises DataError, in one line, for a path that does not exist or cannot be used, NoData for one without requests.
    """
    shown = safe(shown_name(path))
    try:
        read = _read_file if path.is_file() else _read_several
        return read(path, shown, progress, cache)
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise
        raise DataError(f"{shown}: cannot be read ({error.strerror}); check the file") from error


def _read_several(path: Path, shown: str, progress: Progress, cache: bool) -> list[Run]:
    """Return the runs of a folder or pattern."""
    sources = find_sources([path])
    tables = _tables(path, sources)
    if not tables:
        return [_read_traces(path, shown, sources, progress, cache)]
    from vtprof_analyzer.runs.join_tables import read_tables

    runs = read_tables(tables, shown)
    progress(sum(table.stat().st_size for table in tables))
    return runs


def _read_file(path: Path, shown: str, progress: Progress, cache: bool) -> list[Run]:
    # What each kind takes is imported for it alone: a comparison of two small tables is to take a blink.
    from vtprof_analyzer.runs import baseline_file

    if baseline_file.is_baseline(path):
        from vtprof_analyzer.runs import baselines

        runs = baselines.load(path)
    else:
        match kind_of(path):
            case "table":
                from vtprof_analyzer.runs.tables import read_table

                runs = read_table(path, shown)
            case "database":
                from vtprof_analyzer.runs.saved import read_database

                runs = [read_database(path, shown)]
            case "traces":
                return [_read_traces(path, shown, find_sources([path]), progress, cache)]
    progress(path.stat().st_size)
    return runs


def _read_traces(path: Path, shown: str, sources: Sources, progress: Progress, cache: bool) -> Run:
    from vtprof_analyzer.runs.traces import read_traces

    return read_traces(path, shown, sources, progress, cache=cache)


def _tables(path: Path, sources: Sources) -> list[Path]:
    """Return the request tables of a folder or pattern that holds no traces."""
    if any(file.suffix != ".parquet" or kind_of(file) != "table" for file in sources.files):
        return []
    listed = path.rglob("*") if path.is_dir() else ()
    return sorted({*sources.files, *(file for file in listed if is_named_table(file) and file.is_file())})
