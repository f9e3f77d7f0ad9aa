"""What each table and column is, put on them as comments for whoever opens the database of ``analyze --db``.

No text is written here: tables have the comment above their ``CREATE``, columns what that says of them or what stands behind
them, facts and evidence what the rules' vocabulary says.
"""

import fnmatch
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Final

import duckdb

from vtprof_analyzer import interference_stage, pipeline, step_cost
from vtprof_analyzer.ingest.columns import create_scratch
from vtprof_analyzer.verdict import Thresholds
from vtprof_analyzer.versions import ALL_VERSIONS
from vtprof_rules.vocabulary import EVIDENCE_COLUMNS, FACT_VIEWS, FACTS, Column

_CREATED: Final = re.compile(
    r"^((?:--[^\n]*\n)+)CREATE (?:TABLE|VIEW|SCHEMA) ([\w.]+)(?: \((.*?)\n\)| AS\b|;)", re.M | re.S
)
"""A header, what it is of, and the columns that are declared."""
_DECLARED: Final = re.compile(r"^ +(\w+) [A-Z].*?-- (.+)$", re.M)
_NAMES: Final = re.compile(r"([a-z*][\w*]*(?:, [a-z*][\w*]*)*)( +)(\S.*)")
"""Columns, or patterns of them, in front of what a header says of them."""
_ALIGNED: Final = 19
"""Where that begins, unless two blanks tell."""
_MORE: Final = re.compile(r"; ([a-z]\w*(?:, [a-z]\w*)*): ")
"""Columns within it, after others."""
_FIELD: Final = re.compile(r'^    (\w+): [^\n]*\n    """(.+?)"""', re.M | re.S)
_LIKE: Final = {
    "span_rows": ("spans",),
    "span_links": ("spans",),
    "gpu_samples": ("metric_samples",),
    "engine_samples": ("metric_samples", "resources"),
    "scoped_requests": ("request_facts",),
    "all_facts": ("facts_time", "facts_roofline", "facts_configuration"),
}
"""Tables whose columns are others'."""


@dataclass(frozen=True)
class _Documented:
    """What the documentation says of a table."""

    text: str
    columns: Mapping[str, str]


def describe_tables(connection: duckdb.DuckDBPyConnection) -> None:
    """Put comments on all tables, views and columns that are documented."""
    columns: dict[tuple[str, str], list[str]] = {}
    for schema, table, column in connection.execute(
        "SELECT schema_name, table_name, column_name FROM duckdb_columns()"
        " WHERE NOT internal AND database_name = current_database() AND schema_name IN ('main', 'evidence')"
    ).fetchall():
        columns.setdefault((schema, table), []).append(column)
    views = connection.execute(
        "SELECT schema_name, view_name FROM duckdb_views() WHERE NOT internal"
    ).fetchall()
    documented = _documented(columns)
    statements = []
    for (schema, table), names in columns.items():
        known = documented.get(table.removesuffix(ALL_VERSIONS) if schema == "main" else f"{schema}.{table}")
        if known is None:
            continue
        kind = "VIEW" if (schema, table) in views else "TABLE"
        statements.append(f"COMMENT ON {kind} {schema}.{table} IS {_text(known.text)}")
        statements += [
            f'COMMENT ON COLUMN {schema}.{table}."{name}" IS {_text(known.columns[name])}'
            for name in names
            if name in known.columns
        ]
    connection.begin()
    connection.execute(";\n".join(statements))
    connection.commit()


def _documented(tables: Mapping[tuple[str, str], list[str]]) -> dict[str, _Documented]:
    """Return what is documented, by table; those of schema evidence with it in front."""
    found: dict[str, _Documented] = {}
    for header, name, declared in (match for text in _texts() for match in _CREATED.findall(text)):
        lines = [line.removeprefix("--").removeprefix(" ") for line in header.splitlines()]
        told = _in_header(lines, tables.get(_place(name), []))
        text = "\n".join(line.strip() for line in lines)
        found[name] = _Documented(text, told | dict(_DECLARED.findall(declared)))
    facts = {name: _with_unit(fact) for name, fact in FACTS.items()}
    for name, one in [*found.items()]:
        columns = dict(one.columns)
        for other in _LIKE.get(name, ()):
            columns = {**found[other].columns, **columns}
        if name.startswith(("facts_", "all_facts")) or name == "process_settings":
            columns = facts | {"scope": found["fact_scopes"].columns["scope"]} | columns
        elif name == "settings":
            columns = _settings()
        schema, table = _place(name)
        if schema == "evidence":
            vocabulary = EVIDENCE_COLUMNS[table].items()
            # What rules may not name is as in the table of that name.
            columns = dict(found[table].columns) if table in found else {}
            columns |= {column: _with_unit(known) for column, known in vocabulary}
        found[name] = _Documented(
            one.text if schema == "main" else f"{one.text}\n{found[schema].text}", columns
        )
    for view, text in FACT_VIEWS.items():
        found[view] = _Documented(f"{text[0].upper()}{text[1:]}", found["all_facts"].columns)
    return found


def _texts() -> Iterator[str]:
    """Yield all that creates tables."""
    yield resources.files("vtprof_schemas").joinpath("tables.sql").read_text("utf-8")
    yield create_scratch()
    yield from (pipeline.PARAMETERS, step_cost.TABLE, interference_stage.TABLE)
    for name in pipeline.stage_names():
        yield resources.files("vtprof_analyzer.stages").joinpath(name).read_text("utf-8")


def _in_header(lines: list[str], columns: list[str]) -> dict[str, str]:
    """Return what a header says of columns: ``name, name  text``, with what follows on lines that are indented."""
    entries: list[tuple[list[str], str]] = []
    for line in lines:
        match = _NAMES.fullmatch(line)
        spaced = match is not None and (len(match[2]) > 1 or match.start(3) == _ALIGNED)
        named = [fnmatch.filter(columns, name) for name in match[1].split(", ")] if match and spaced else []
        if match and named and all(named):
            several = f"{match[1]}: " if len(named) > 1 else ""
            entries.append(([name for names in named for name in names], several + match[3]))
        elif entries and line.startswith("  "):
            entries[-1] = (entries[-1][0], f"{entries[-1][1]} {line.strip()}")
        elif entries:
            break
    told: dict[str, str] = {}
    for of, text in entries:
        begin = 0
        for more in _MORE.finditer(text):
            if set(more[1].split(", ")) <= set(columns):
                told = dict.fromkeys(of, text[begin : more.start()]) | told
                of, begin = more[1].split(", "), more.end()
        told = dict.fromkeys(of, text[begin:]) | told
    return told


def _settings() -> dict[str, str]:
    """Return what is said of the parameters; those of verdicts stand in a class of their own."""
    told = {}
    for of, prefix in ((pipeline.Settings, ""), (Thresholds, "verdict_")):
        for name, text in _FIELD.findall(inspect.getsource(of)):
            told[prefix + name] = " ".join(text.split())
    return told


def _with_unit(known: Column) -> str:
    return f"{known.meaning} [{known.unit}]" if known.unit else known.meaning


def _place(name: str) -> tuple[str, str]:
    schema, _, table = name.rpartition(".")
    return schema or "main", table


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
