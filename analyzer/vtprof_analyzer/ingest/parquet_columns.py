"""The SQL that turns the columns of flat Parquet into those of the base tables. Pure text.

A column is taken by its name in ``tables.sql``, or by the key of its attribute (``step_index`` or
``vtprof.step.index``). What is missing is NULL. A type that says the same is converted: integers of any width, whole
doubles (as pandas writes integers with gaps), timestamps for times, bytes for ids. What has no column goes to
``extra``, folders named ``key=value`` included.
"""

import json
from collections.abc import Mapping
from typing import Final, Literal

from vtprof_analyzer.ingest import dialects
from vtprof_schemas import names

Table = Literal["spans", "metric_samples", "resources"]

FILE: Final = "vtprof_file"
"""The reader's column with a file's name."""
MAX_VALUE_CHARACTERS: Final = 16 << 10
"""Longest value that is kept of a column that the table lacks."""
NEEDED: Final[dict[Table, tuple[str, ...]]] = {
    "spans": ("trace_id", "span_id", "name", "start_ns"),
    "metric_samples": ("name", "ts_ns", "value"),
    "resources": ("resource_id",),
}
_OWN: Final = frozenset({"file", "dialect", "odd_attributes", "mistyped", "mistyped_keys", "known"})
"""Columns that the reader fills by itself, whatever a file says."""
_ID_DIGITS: Final = {"trace_id": 32, "span_id": 16, "parent_span_id": 16}
_TIMES: Final = ("start_ns", "end_ns", "ts_ns")
_INTEGERS: Final = (
    "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT",
)  # fmt: skip
_FLOATS: Final = ("FLOAT", "DOUBLE")
_LOSSY: Final = ("HUGEINT", "UBIGINT", "UHUGEINT", "BLOB", *_FLOATS)
"""Types of which not every value can be converted."""
_COLUMN_OF_KEY: Final = {a.key: a.column for a in names.ATTRIBUTES.values()}


def quote(name: str) -> str:
    """Return a column's name for SQL."""
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    """Return a text for SQL."""
    return "'" + value.replace("'", "''") + "'"


def matched(have: Mapping[str, str], want: Mapping[str, str]) -> dict[str, str]:
    """Return {column of the table: column of the file} of those in both; exact names come before attribute keys."""
    found: dict[str, str] = {}
    for name in have:
        if name.lower() in want and name.lower() not in _OWN:
            found.setdefault(name.lower(), name)
    for name in have:
        if (column := _COLUMN_OF_KEY.get(name, "")) in want:
            found.setdefault(column, name)
    return found


def converted(column: str, source: str, have: str, want: str) -> str | None:
    """Return the expression for ``column`` from a column of another type; None when the types say different things."""
    given = quote(source)
    if column in _ID_DIGITS:
        return _id(given, have, column)
    if column == "resource_id":
        return _resource_id(given, have)
    if column in _TIMES and have.startswith("TIMESTAMP"):
        return f"epoch_ns({given})"
    if have == '"NULL"':
        return f"NULL::{want}"
    if want in ("BIGINT", "UTINYINT"):
        if have in _INTEGERS:
            return given if have == want else f"try_cast({given} AS {want})"
        if have in _FLOATS and column not in _TIMES:
            return f"CASE WHEN {given} = trunc({given}) THEN try_cast({given} AS {want}) END"
        return None
    if want == "DOUBLE":
        return f"{given}::DOUBLE" if have in (*_INTEGERS, *_FLOATS) or have.startswith("DECIMAL") else None
    if want == "VARCHAR":
        if have == "BLOB":
            # Writers that name no type for text.
            return f"try(decode({given}))"
        return (
            f"{given}::VARCHAR"
            if have in ("VARCHAR", "JSON", "UUID", *_INTEGERS) or have.startswith("ENUM")
            else None
        )
    return f"{given}::{want}" if have.replace('"', "").upper() == want.replace('"', "").upper() else None


def has_value(source: str) -> str:
    """Return the condition that a row has a value in a column."""
    return f"{quote(source)} IS NOT NULL"


def lost(column: str, source: str, have: str, expression: str | None) -> str | None:
    """Return the condition on a row that its value of a column becomes unknown; None where none can.

    ``expression`` is what ``converted`` returned. Gaps that a writer filled with NaN are no values, nor are empty ids.
    """
    if expression is None:
        return has_value(source)
    if (
        column in (*_ID_DIGITS, "kind", "status_code")
        or have not in _LOSSY
        or not expression.startswith(("CASE", "try"))
    ):
        return None
    gaps = f" AND NOT isnan({quote(source)})" if have in _FLOATS else ""
    return f"{has_value(source)}{gaps} AND {expression} IS NULL"


def _id(given: str, have: str, column: str) -> str | None:
    if have == "UUID" and column == "trace_id":
        return f"replace({given}::VARCHAR, '-', '')"
    if have not in ("BLOB", "VARCHAR"):
        return None
    digits = f"lower(hex({given}))" if have == "BLOB" else f"lower({given})"
    # A root's parent may be empty, or zeros.
    return f"nullif(nullif({digits}, ''), {text('0' * _ID_DIGITS[column])})"


def _resource_id(given: str, have: str) -> str | None:
    if have == "UBIGINT":
        return given
    if have == "VARCHAR":
        return f"hash({given})"
    # The same bits, where a writer had no unsigned type.
    return f"({given}::HUGEINT & 18446744073709551615)::UBIGINT" if have in _INTEGERS else None


def extra(have: Mapping[str, str], unknown: list[str]) -> str:
    """Return the expression of the JSON object of columns that the table lacks, added to a column ``extra``."""
    items = []
    for name in unknown:
        value = f"base64({quote(name)})" if have[name] == "BLOB" else quote(name)
        key = text(json.dumps(name) + ":")
        item = f"to_json({value})::VARCHAR"
        cut = f"to_json(left({value if have[name] == 'VARCHAR' else item}, {MAX_VALUE_CHARACTERS}))::VARCHAR"
        items.append(
            f"CASE WHEN {quote(name)} IS NOT NULL THEN {key} || "
            f"CASE WHEN length({item}) > {MAX_VALUE_CHARACTERS} THEN {cut} ELSE {item} END END"
        )
    given = next(
        (name for name in have if name.lower() == "extra" and have[name] in ("VARCHAR", "JSON")), None
    )
    own = ""
    if given:
        json_ = f"try_cast({quote(given)} AS JSON)"
        own = f"CASE WHEN json_type({json_}) = 'OBJECT' THEN nullif({json_}::VARCHAR, '{{}}') END"
    if not items:
        return own or "NULL::VARCHAR"
    kept = f"({own})[2:-2], " if own else ""
    return f"'{{' || nullif(concat_ws(',', {kept}{', '.join(items)}), '') || '}}'"


def unknown_keys(unknown: list[str]) -> str:
    """Return the expression of the names of those columns that a row fills."""
    if not unknown:
        return "NULL::VARCHAR[]"
    names_ = ", ".join(f"CASE WHEN {quote(name)} IS NOT NULL THEN {text(name)} END" for name in unknown)
    return f"nullif(list_filter([{names_}]::VARCHAR[], lambda name: name IS NOT NULL), [])"


def dialect(name: str) -> str:
    """Return the expression of a span's dialect from its name, as the JSON reader has it."""

    def listed(given: tuple[str, ...]) -> str:
        return ", ".join(map(text, given))

    patterns = " OR ".join(
        f"regexp_full_match({name}, {text(pattern)})"
        for pattern in (dialects.SGLANG_ROOT, dialects.SGLANG_THREAD)
    )
    return (
        f"CASE WHEN {name} IN ({listed(tuple(names.SPANS))}) THEN 'vtprof' "
        f"WHEN {name} = {text(dialects.VLLM_REQUEST_SPAN)} THEN 'vllm' "
        f"WHEN {name} IN ({listed(tuple(dialects.SGLANG_PHASES))}) OR {patterns} THEN 'sglang' END"
    )


def usable_span() -> str:
    """Return the condition on a converted row of spans that both readers ask for: ids, a name and a start."""
    ids = " AND ".join(
        f"length({column}) = {digits} AND {column} <> {text('0' * digits)} AND try(unhex({column})) IS NOT NULL"
        for column, digits in list(_ID_DIGITS.items())[:2]
    )
    return f"coalesce({ids} AND name IS NOT NULL AND start_ns > 0, false)"
