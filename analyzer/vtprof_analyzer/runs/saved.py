"""Read a database that `vtprof analyze --db` wrote: tables of ours alone, none of its views and macros is used."""

from pathlib import Path
from typing import Final

import duckdb

from vtprof_analyzer.ingest.databases import MARK
from vtprof_analyzer.ingest.parquet_columns import text
from vtprof_analyzer.regress.requests import Run
from vtprof_analyzer.report.format import safe
from vtprof_analyzer.runs.traces import run_of
from vtprof_analyzer.store import lack_of, open_store
from vtprof_schemas.errors import DataError

_SAVED: Final = "saved"
_SPANS: Final = ("span_rows", "spans")
"""Where the spans are: rows below a view or, where they came from the cache, a table of that name."""
_COLUMNS: Final[dict[str, dict[str, str]]] = {
    "spans": {
        "resource_id": "UBIGINT", "dialect": "VARCHAR", "name": "VARCHAR", "start_ns": "BIGINT", "end_ns": "BIGINT",
        "step_running": "DOUBLE", "step_count": "BIGINT",
    },
    "resources": {
        "resource_id": "UBIGINT", "service_instance_id": "VARCHAR", "engine_name": "VARCHAR",
        "engine_version": "VARCHAR", "hw_name": "VARCHAR", "hw_id": "VARCHAR", "weights_dtype": "VARCHAR",
        "kv_dtype": "VARCHAR", "parallel_tp": "BIGINT", "parallel_pp": "BIGINT", "parallel_dp": "BIGINT",
        "parallel_ep": "BIGINT", "kv_bytes_per_token": "BIGINT", "kv_fixed_bytes": "BIGINT",
    },
    "request_base": {
        "request_number": "BIGINT", "trace_id": "VARCHAR", "resource_id": "UBIGINT", "model": "VARCHAR",
        "status": "VARCHAR", "arrival_ns": "BIGINT", "end_ns": "BIGINT", "negative_duration": "BOOLEAN",
        "impossible_ttft": "BOOLEAN", "tpot_ns": "DOUBLE", "sequences": "BIGINT", "weight": "DOUBLE",
        "input_tokens": "BIGINT", "output_tokens": "BIGINT", "text_tokens": "BIGINT", "visual_tokens": "BIGINT",
        "audio_tokens": "BIGINT", "cached_tokens": "BIGINT", "image_items": "BIGINT", "video_items": "BIGINT",
        "recorded_kv_bytes": "BIGINT",
    },
    "phase_intervals": {
        "request_number": "BIGINT", "phase": "VARCHAR", "cache_hits": "BIGINT", "items": "BIGINT",
        "negative_duration": "BOOLEAN", "end_missing": "BOOLEAN",
    },
    "request_budget": {
        "request_number": "BIGINT", "ttft_ns": "BIGINT", "preprocess_ns": "BIGINT", "queue_ns": "BIGINT",
        "encode_ns": "BIGINT", "transfer_ns": "BIGINT", "prefill_ns": "BIGINT", "unexplained_ns": "BIGINT",
    },
}  # fmt: skip
"""What `trace_requests` and `deployment` read. A column of spans that no span had is not there."""


def read_database(path: Path, shown: str) -> Run:
    """Return the run of a database; raise DataError for one that is not ours, or of another version."""
    with open_store() as connection:
        connection.execute("SET preserve_insertion_order = true")
        try:
            connection.execute(f"ATTACH {text(str(path.resolve()))} AS {_SAVED} (READ_ONLY)")
            # Nothing that the file holds can reach another one from here on.
            connection.execute("SET enable_external_access = false")
            _take(connection, shown)
            return run_of(connection, shown)
        except duckdb.Error as error:
            if lack_of(error):
                raise
            why = safe(str(error).strip().splitlines()[0], 160)
            raise DataError(
                f"{shown}: the database cannot be read ({why}); analyze the traces anew"
            ) from error


def _take(connection: duckdb.DuckDBPyConnection, shown: str) -> None:
    """Make the tables that are read, as views of the file's. Names and functions are those of this connection."""
    there: dict[str, set[str]] = {}
    # Tables alone: a view is code of the file's.
    query = (
        "SELECT c.table_name, c.column_name FROM duckdb_columns() AS c"
        " JOIN duckdb_tables() AS t USING (table_oid, database_name)"
        f" WHERE c.database_name = '{_SAVED}' AND t.schema_name = 'main'"
    )
    for table, column in connection.execute(query).fetchall():
        there.setdefault(table, set()).add(column)
    if MARK not in there:
        raise DataError(
            f"{shown}: is a database, but not one of vtprof's; give what `vtprof analyze --db` wrote"
        )
    for table, columns in _COLUMNS.items():
        source = next((name for name in _SPANS if name in there), table) if table == "spans" else table
        have = there.get(source, set())
        missing = [column for column in columns if column not in have]
        if not have or (missing and table != "spans"):
            lacks = f"column {missing[0]} of {table}" if have else f"table {table}"
            raise DataError(
                f"{shown}: was made by another version of vtprof (without {lacks}); analyze the traces anew"
            )
        picked = ", ".join(
            f"{column if column in have else 'NULL'}::{type_} AS {column}"
            for column, type_ in columns.items()
        )
        connection.execute(f"CREATE VIEW {table} AS SELECT {picked} FROM {_SAVED}.main.{source}")
