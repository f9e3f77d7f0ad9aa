"""One analysis from end to end: files to tables, stages, rules, report. What `vtprof analyze` calls."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import duckdb

from vtprof_analyzer import interference_stage, pipeline, step_cost
from vtprof_analyzer.describe import describe_tables
from vtprof_analyzer.facts import read_facts
from vtprof_analyzer.ingest.cache import through_cache
from vtprof_analyzer.ingest.cache_key import key_of
from vtprof_analyzer.ingest.databases import made_of, what_it_is
from vtprof_analyzer.ingest.formats import is_database
from vtprof_analyzer.ingest.instead import read_instead
from vtprof_analyzer.ingest.load import create_tables, load
from vtprof_analyzer.ingest.prepare import shown_name
from vtprof_analyzer.ingest.sources import Sources, find_sources
from vtprof_analyzer.physics import find_physics
from vtprof_analyzer.report.build import Objectives, Reading, build
from vtprof_analyzer.report.build_findings import Judgement
from vtprof_analyzer.report.digits import in_digits
from vtprof_analyzer.report.format import counted, safe
from vtprof_analyzer.report.model import Report
from vtprof_analyzer.saving_intervals import with_intervals
from vtprof_analyzer.store import give_stages_room, open_store, use_few_threads, work_in_memory
from vtprof_analyzer.versions import leave_newer_out
from vtprof_rules.evaluate import evaluate
from vtprof_rules.load import LoadedRules, load_packs
from vtprof_rules.outcome import Outcome
from vtprof_rules.overrides import switched_off, with_params
from vtprof_rules.rule import Rule
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
    rule_params: list[str] = field(default_factory=list)
    """``ID.name=value`` each."""
    rules_off: list[str] = field(default_factory=list)
    """``ID=reason`` each."""
    database: Path | None = None
    usd_per_node_hour: float | None = None
    nodes: int | None = None
    cache: bool = True
    """Keep what was read beside the traces, and use what was kept there."""


def analyze(options: Options, progress: Callable[[int], None] = lambda _: None) -> Report:
    """Return the report of the traces under ``options.paths``.

    ``progress`` gets the bytes read since its last call. Raises VtprofError with one line for what the user can
    repair: a missing path, nothing to read, a bad rule pack, an unknown device.
    """
    packs = with_params(load_packs(options.rules), options.rule_params)
    off = switched_off(packs, options.rules_off)
    sources = find_sources(options.paths)
    key = key_of(sources, options.paths) if options.cache else None
    keep = options.database is not None
    with open_store(options.database) as connection, ExitStack() as held:
        use_few_threads(connection, sum(sources.sizes.values()))
        create_tables(connection)

        def read() -> None:
            load(connection, sources, progress, in_place=not keep)

        held.enter_context(through_cache(connection, key, read, copy=keep))
        _require_spans(connection, options.paths, sources)
        leave_newer_out(connection)
        physics = find_physics(connection, options.model, options.device)
        settings = replace(
            physics.settings,
            slo_ttft_ms=options.slo_ttft_ms,
            slo_tpot_ms=options.slo_tpot_ms,
            usd_per_node_hour=options.usd_per_node_hour,
            nodes=options.nodes,
        )
        give_stages_room(connection)
        if not keep:
            work_in_memory(connection)
        python_stages = {
            step_cost.STAGE: physics.step_cost_stage,
            **physics.fact_stages,
            interference_stage.STAGE: interference_stage.fill_table,
        }
        pipeline.run(connection, settings, python_stages)
        if keep:
            describe_tables(connection)
        judgement = _judge(connection, packs, off)
        reading = Reading(
            [shown_name(path) for path in options.paths], sources.skipped, _duplicates(connection)
        )
        objectives = Objectives(options.slo_ttft_ms, options.slo_tpot_ms)
        return in_digits(build(connection, reading, physics.shown, objectives, judgement, physics.roof))


def _require_spans(connection: duckdb.DuckDBPyConnection, paths: list[Path], sources: Sources) -> None:
    """Raise NoData, saying what was there instead, when no span can be used."""
    named = ", ".join(safe(path) for path in paths)
    if not sources.files:
        skipped = f" ({counted(sources.skipped, 'other file')})" if sources.skipped else ""
        raise NoData(
            f"{named}: no trace files{skipped}; record first, or point to *.jsonl, *.json, *.pb, *.parquet or packed ones"
        )
    instead = read_instead(connection)
    if instead is None:
        return
    with suppress(OSError):
        if all(is_database(path) for path in sources.files):
            raise NoData(f"{named}: {_of_database(sources.files[0])}")
    ((lines, unread, signals, dropped),) = connection.execute(
        "SELECT sum(lines)::BIGINT, sum(malformed_lines + truncated_lines + coalesce(dropped_messages, 0))::BIGINT,"
        " sum(ignored_signals)::BIGINT, sum(dropped_spans)::BIGINT FROM ingest_files"
    ).fetchall()
    files = counted(len(sources.files), "file")
    unusable = f", {counted(dropped, 'span')} without a valid id, name or time" if dropped else ""
    if instead.metrics and not instead.other_spans:
        lost = f", {counted(unread, 'line or message', 'lines or messages')} unreadable" if unread else ""
        raise NoData(
            f"{named}: metrics without spans ({instead.metrics} in {files}{lost}{unusable}): a report needs the spans"
            " that were recorded with them; give the folder with the agent's *.traces.jsonl"
        )
    if instead.notes and not lines:
        others = ", and others like it" if len(instead.notes) > 1 else ""
        raise NoData(f"{named}: no spans: {instead.notes[0]}{others}; point to OTLP traces")
    if signals and not instead.other_spans and not unread and not dropped:
        raise NoData(
            f"{named}: no spans, only metrics or logs that vtprof does not read ({signals} in {files});"
            " record with vtprof-agent first"
        )
    others = f"{counted(instead.other_spans, 'other span')}, {counted(signals, 'other signal')}{unusable}"
    raise NoData(
        f"{named}: no spans of vtprof, vLLM or SGLang ({counted(lines, 'line')} in {files}, {unread} unreadable, {others});"
        " record with vtprof-agent first"
    )


def _of_database(path: Path) -> str:
    """Return what a database is, and what to give in its place."""
    files = made_of(path)
    if not files:
        return f"{what_it_is(path)}; point to OTLP traces"
    others = f" and {counted(len(files) - 1, 'other')}" if len(files) > 1 else ""
    return (
        f"{what_it_is(path)}; give what it was made of"
        f" ({safe(files[0])}{others}), or have `vtprof compare` read it"
    )


def _duplicates(connection: duckdb.DuckDBPyConnection) -> int:
    ((duplicates,),) = connection.execute("SELECT duplicates FROM ingest_counts").fetchall()
    return int(duplicates)


def _judge(connection: duckdb.DuckDBPyConnection, packs: LoadedRules, off: Mapping[str, str]) -> Judgement:
    facts = read_facts(connection)
    ((database,),) = connection.execute("SELECT current_database()").fetchall()
    with connection.cursor() as evidence:
        evidence.execute(f"SET schema = '{database}.evidence'")
        outcomes = evaluate(packs, facts, evidence, off)
    told = with_intervals(connection, outcomes, packs.rules, facts)
    return Judgement(packs.rules, facts, [*told, *(_replaced(*pair) for pair in packs.replaced)])


def _replaced(old: Rule, new: Rule) -> Outcome:
    """Return the outcome of a rule whose place one of the user's took: it is not gone without a word."""
    return Outcome(old.id, "suppressed", old.title, old.phase, f"replaced by {new.id} of {new.path}")
