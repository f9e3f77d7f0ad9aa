"""Analyze a folder of broken files in one go, from reading to the report, and compare the tables with the oracle."""

import tempfile
from pathlib import Path

import duckdb

from fuzz import oracle
from fuzz.cases import Case, make
from vtprof_analyzer.analyze import Options, analyze
from vtprof_analyzer.report.json_text import render
from vtprof_schemas.errors import NoData

_SPANS = "SELECT file, trace_id, span_id, name, start_ns, input_tokens FROM spans"
_COUNTED = """
    SELECT file FROM ingest_files
    WHERE damaged OR malformed_lines + truncated_lines + dropped_spans + ignored_signals + dropped_messages > 0
    UNION SELECT file FROM ingest_notes
"""


def failures(seeds: range) -> list[str]:
    """Return, a line each, what went wrong with the cases of these seeds. Lets exceptions out."""
    cases = [make(seed) for seed in seeds]
    with tempfile.TemporaryDirectory(prefix="vtprof-fuzz-") as name:
        folder, database = Path(name, "traces"), Path(name, "run.duckdb")
        folder.mkdir()
        for case in cases:
            (folder / case.name).write_bytes(case.data)
        try:
            render(analyze(Options([folder], database=database, cache=False)))
        except NoData:
            # Said in one line; right where nothing was to be found.
            return [f"{case.name} ({case.made}): lost: all" for case in cases if case.expected]
        rows: dict[str, list[tuple[object, ...]]] = {}
        with duckdb.connect(str(database), read_only=True) as connection:
            for file, *row in connection.execute(_SPANS).fetchall():
                rows.setdefault(Path(file).name, []).append(tuple(row))
            counted = {Path(file).name for (file,) in connection.execute(_COUNTED).fetchall()}
    return [line for case in cases for line in _wrong(case, rows.get(case.name, []), case.name in counted)]


def _wrong(case: Case, rows: list[tuple[object, ...]], counted: bool) -> list[str]:
    found = [f"{case.name} ({case.made}): {what}" for what in oracle.missing(case.expected, rows)]
    if case.faulty and not counted:
        found.append(f"{case.name} ({case.made}): it has a fault that nothing counts")
    return found
