"""Can this be trusted: the counts of the reader and of the stages, in one record."""

import reprlib

import duckdb

from vtprof_analyzer.report.build_rows import one, rows
from vtprof_analyzer.report.model import Integrity, IntegrityNote
from vtprof_schemas import names

MAX_NOTES = 20
_MAX_UNKNOWN_NAMED = 3
_STATUSES = (names.STATUS_OK, names.STATUS_ABORTED, names.STATUS_REJECTED, names.STATUS_ERROR)


def build_integrity(connection: duckdb.DuckDBPyConnection, files_skipped: int, duplicates: int) -> Integrity:
    """Return the counts; notes name the first faults, and the most frequent unknown attributes."""
    files = one(
        connection,
        """
        SELECT count(*) FILTER (damaged OR format IS NOT NULL) AS files,
               -- A database beside traces: sound, but nothing to read.
               count(*) FILTER (NOT damaged AND format IS NULL) AS left_out,
               coalesce(sum(malformed_lines), 0)::BIGINT AS malformed,
               coalesce(sum(truncated_lines), 0)::BIGINT AS truncated,
               coalesce(sum(ignored_signals), 0)::BIGINT AS ignored, coalesce(sum(dropped_spans), 0)::BIGINT AS dropped,
               coalesce(sum(dropped_messages), 0)::BIGINT AS dropped_messages,
               count(*) FILTER (damaged) AS damaged, coalesce(sum(values_out_of_range), 0)::BIGINT AS out_of_range
        FROM ingest_files
        """,
    )
    spans = one(connection, "FROM integrity")
    clocks = one(connection, "SELECT max(abs(offset_ns)) / 1e6 AS largest_ms FROM clock_offsets")
    ids = one(connection, "SELECT conflicting_ids FROM ingest_counts")
    total = spans["used_spans"] + files["dropped"]
    return Integrity(
        files_read=files["files"],
        files_skipped=files_skipped + files["left_out"],
        malformed_lines=files["malformed"],
        truncated_lines=files["truncated"],
        duplicates=duplicates,
        orphans=spans["orphans"],
        end_missing=spans["end_missing"],
        negative_duration=spans["negative_duration"],
        unknown_attributes=spans["unknown_attributes"],
        ignored_spans=spans["ignored_spans"],
        ignored_signals=files["ignored"],
        requests_without_tokens=spans["requests_without_tokens"],
        requests_without_phases=spans["requests_without_phases"],
        records_lost=spans["records_lost"],
        # One machine's clock cannot show an offset; between machines it can.
        clock_offset_ms=clocks["largest_ms"],
        complete_spans_share=(spans["used_spans"] - spans["incomplete_spans"]) / total if total else None,
        notes=_notes(connection),
        damaged_files=files["damaged"],
        values_out_of_range=files["out_of_range"],
        hook_errors=spans["hook_errors"],
        folded_iterations=spans["folded_iterations"],
        sampled_requests=spans["sampled_requests"],
        estimated_requests=spans["estimated_requests"],
        dropped_spans=files["dropped"],
        dropped_messages=files["dropped_messages"],
        conflicting_ids=ids["conflicting_ids"],
    )


def _notes(connection: duckdb.DuckDBPyConnection) -> list[IntegrityNote]:
    unknown = rows(
        connection,
        """
        SELECT file, key, count(*) AS uses FROM (SELECT file, unnest(unknown_keys) AS key FROM spans)
        GROUP BY ALL ORDER BY uses DESC, key, file
        """,
    )
    found = [
        IntegrityNote(
            row["file"],
            None,
            f"attribute {row['key']} is not in the vocabulary; left out ({row['uses']} spans)",
        )
        for row in unknown[:_MAX_UNKNOWN_NAMED]
    ]
    odd = rows(
        connection,
        f"""
        SELECT any_value(s.file) AS file, s.request_status AS text, count(*) AS requests
        FROM request_base AS q JOIN spans AS s USING (trace_id, span_id)
        WHERE q.status = 'unknown' GROUP BY text ORDER BY requests DESC, text LIMIT {_MAX_UNKNOWN_NAMED}
        """,
    )
    found += [
        IntegrityNote(
            row["file"],
            None,
            f"request status {reprlib.repr(row['text'])} is not one of {', '.join(_STATUSES)}: counted as none of them"
            f" ({row['requests']} requests)",
        )
        for row in odd
    ]
    written = rows(
        connection, "SELECT file, line, what FROM ingest_notes ORDER BY file, line NULLS FIRST, what"
    )
    faults = [IntegrityNote(row["file"], row["line"], row["what"]) for row in written]
    return (faults + found)[:MAX_NOTES]
