"""One analysis from end to end: files to tables, stages, rules, report. What `vtprof analyze` calls."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import duckdb

from vtprof_analyzer import pipeline, step_cost
from vtprof_analyzer.facts import read_facts
from vtprof_analyzer.ingest.duplicates import remove_duplicates
from vtprof_analyzer.ingest.load import create_tables, load
from vtprof_analyzer.ingest.prepare import shown_name
from vtprof_analyzer.ingest.sources import Sources, find_sources
from vtprof_analyzer.physics import find_physics
from vtprof_analyzer.report.build import Objectives, Reading, build
from vtprof_analyzer.report.format import safe
from vtprof_analyzer.report.model import Report
from vtprof_analyzer.store import open_store
from vtprof_rules.evaluate import evaluate
from vtprof_rules.load import LoadedRules, load_packs
from vtprof_rules.outcome import Outcome
from vtprof_schemas.errors import NoData


@dataclass(frozen=True)
class Options:
    """What the user asked for."""

    paths: list[Path]
    model: Path | None = None
    device: str | None = None
    slo_ttft_ms: float | None = None
    slo_tpot_ms: float | None = None
    rules: list[Path] = field(default_factory=list)
    database: Path | None = None


def analyze(options: Options, progress: Callable[[int], None] = lambda _: None) -> Report:
    """Return the report of the traces under ``options.paths``.

    ``progress`` gets the bytes read since its last call. Raises VtprofError with one line for what the user can
    repair: a missing path, nothing to read, a bad rule pack, an unknown device.
    """
    packs = load_packs(options.rules)
    sources = find_sources(options.paths)
    with open_store(options.database) as connection:
        create_tables(connection)
        load(connection, sources, progress)
        duplicates = remove_duplicates(connection)
        _require_spans(connection, options.paths, sources)
        physics = find_physics(connection, options.model, options.device)
        pipeline.run(connection, physics.settings, {step_cost.STAGE: physics.step_cost_stage})
        outcomes = _judge(connection, packs)
        reading = Reading([shown_name(path) for path in options.paths], sources.skipped, duplicates)
        objectives = Objectives(options.slo_ttft_ms, options.slo_tpot_ms)
        return build(connection, reading, physics.shown, objectives, outcomes, physics.roof)


def _require_spans(connection: duckdb.DuckDBPyConnection, paths: list[Path], sources: Sources) -> None:
    """Raise NoData, saying what was there instead, when no span can be used."""
    named = ", ".join(safe(path) for path in paths)
    if not sources.files:
        skipped = f" ({sources.skipped} other files)" if sources.skipped else ""
        raise NoData(
            f"{named}: no trace files{skipped}; record first, or point to *.jsonl, *.json, .gz or .zst of these"
        )
    (counted,) = connection.execute(
        "SELECT count(*) FILTER (dialect IS NOT NULL), count(*) FILTER (dialect IS NULL) FROM spans"
    ).fetchall()
    if counted[0]:
        return
    (files,) = connection.execute(
        "SELECT sum(lines)::BIGINT, sum(malformed_lines + truncated_lines)::BIGINT, sum(ignored_signals)::BIGINT"
        " FROM ingest_files"
    ).fetchall()
    there = f"{files[0]} lines in {len(sources.files)} files, {files[1]} of them unreadable"
    raise NoData(
        f"{named}: no spans of vtprof, vLLM or SGLang ({there}, {counted[1]} other spans, {files[2]} other signals);"
        " record with vtprof-agent first"
    )


def _judge(connection: duckdb.DuckDBPyConnection, packs: LoadedRules) -> list[Outcome]:
    with connection.cursor() as evidence:
        evidence.execute("SET schema = 'evidence'")
        return evaluate(packs, read_facts(connection), evidence)
