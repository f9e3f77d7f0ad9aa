"""The SQL that turns OTLP JSON lines into typed rows, made from the vocabulary: one column an attribute key.

Pure text: nothing of a user's enters it; files and sizes are bound as parameters by the caller. A span's values are
taken by their place, which table ``span_shapes`` tells for each shape (see ``shapes``); a span of a shape that is not
there yet waits with its attributes as they came.
"""

from collections.abc import Sequence
from typing import Final

from vtprof_analyzer.ingest import dialects
from vtprof_schemas import names

SQL_TYPES: Final = {names.INT: "BIGINT", names.DOUBLE: "DOUBLE", names.STRING: "VARCHAR"}
COUNTERS: Final = tuple(
    key for key in names.ATTRIBUTES if key + ".quality" in names.ATTRIBUTES and "gpu." in key
)
"""GPU counters that stand on spans, each with ``.low``, ``.high`` and ``.quality``; others are metrics only."""

RESOURCE_ATTRIBUTES: Final = tuple(a for a in names.ATTRIBUTES.values() if a.where == "resource")
SPAN_ATTRIBUTES: Final = tuple(
    a
    for a in names.ATTRIBUTES.values()
    if a.where not in ("resource", "probe", "agent", "engine", "gpu")
    or any(a.key.startswith(c) for c in COUNTERS)
)
METRIC_NAMES: Final = tuple(
    a.key
    for a in names.ATTRIBUTES.values()
    if a.where in ("gpu", "agent", "engine") and a.type != names.STRING
)
"""Metric names that are read; all others are foreign signals."""

BUNDLED: Final = "vtprof_file"
"""Key in front of the lines of small files that are read as one."""
MAX_VALUE_CHARACTERS: Final = 16 << 10
"""Longest value that is kept of an attribute without a column."""

_VALUES = '"stringValue" VARCHAR, "intValue" BIGINT, "doubleValue" DOUBLE'
_LEAN_ATTRIBUTES: Final = f'STRUCT("key" VARCHAR, "value" STRUCT({_VALUES}))[]'
"""Attributes with the values that have columns."""
ATTRIBUTES_TYPE: Final = (
    f'STRUCT("key" VARCHAR, "value" STRUCT({_VALUES}, "boolValue" BOOLEAN, "arrayValue" JSON, "kvlistValue" JSON, '
    '"bytesValue" VARCHAR))[]'
)
"""Attributes with every value that OTLP knows."""
_RESOURCE = f'resource STRUCT("attributes" {ATTRIBUTES_TYPE})'


def _spans_column(attributes: str) -> str:
    span = (
        'STRUCT("traceId" VARCHAR, "spanId" VARCHAR, "parentSpanId" VARCHAR, "name" VARCHAR, "kind" VARCHAR, '
        '"status" STRUCT("code" VARCHAR), "startTimeUnixNano" BIGINT, "endTimeUnixNano" BIGINT, '
        f'"attributes" {attributes}, "links" STRUCT("traceId" VARCHAR, "spanId" VARCHAR)[])'
    )
    return f'"resourceSpans": \'STRUCT({_RESOURCE}, "scopeSpans" STRUCT(spans {span}[])[])[]\''


_POINT = (
    'STRUCT("startTimeUnixNano" BIGINT, "timeUnixNano" BIGINT, "asInt" BIGINT, "asDouble" DOUBLE, '
    f'"attributes" {_LEAN_ATTRIBUTES})'
)
_METRIC = (
    f'STRUCT("name" VARCHAR, gauge STRUCT("dataPoints" {_POINT}[]), sum STRUCT("dataPoints" {_POINT}[]))'
)
_METRICS_COLUMN = (
    f'"resourceMetrics": \'STRUCT({_RESOURCE}, "scopeMetrics" STRUCT(metrics {_METRIC}[])[])[]\''
)
_LOGS_COLUMN = '"resourceLogs": \'STRUCT("scopeLogs" STRUCT("logRecords" JSON[])[])[]\''
_SIGNALS: Final = ("resourceSpans", "resourceMetrics", "resourceLogs", "resourceProfiles")
_RESOURCES_COLUMNS = (
    f"\"resourceSpans\": 'STRUCT({_RESOURCE})[]', \"resourceMetrics\": 'STRUCT({_RESOURCE})[]'"
)


def _read(columns: str) -> str:
    """Return ``read_json`` with detection off: naming columns alone would still parse every file twice.

    Files are read under names without wildcards; ``$odd_files`` and ``$odd_names`` tell the true names of some. Lines
    of the file ``$bundle`` tell by a number in front which of ``$names`` they came from.
    """
    return (
        f"(SELECT *, coalesce(CASE WHEN filename = $bundle THEN list_extract($names::VARCHAR[], {BUNDLED}) END, "
        "map($odd_files::VARCHAR[], $odd_names::VARCHAR[])[filename], filename) AS file "
        f"FROM read_json($files, columns={{{BUNDLED}: 'INTEGER', {columns}}}, auto_detect=false, records=true, "
        "format='newline_delimited', maximum_object_size=$longest, filename=true))"
    )


def _read_signal(signal: str, column: str) -> str:
    """Return ``_read`` of one signal's column. A document that holds another one too fails: it would be lost."""
    others = [other for other in _SIGNALS if other != signal]
    columns = ", ".join([column, *(f'"{other}": \'STRUCT("schemaUrl" VARCHAR)[]\'' for other in others)])
    met = " OR ".join(f'coalesce(len("{other}"), 0) > 0' for other in others)
    return (
        f'(FROM {_read(columns)} WHERE "{signal}" IS NULL OR NOT ({met}) '
        "OR error('more than one signal in a document')::BOOLEAN)"
    )


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _texts(values: tuple[str, ...]) -> str:
    return ", ".join(map(_text, values))


def _slot(value: str, type_: str) -> str:
    if type_ == names.INT:
        return f'{value}."intValue"'
    if type_ == names.STRING:
        return f'{value}."stringValue"'
    # Exporters write a double that is whole as an int.
    return f'coalesce({value}."doubleValue", {value}."intValue"::DOUBLE)'


def _value(attributes: str, keys: str, key: str, type_: str) -> str:
    return _slot(f"list_extract({attributes}, list_position({keys}, {_text(key)})).value", type_)


def _lenient(value: str, type_: str) -> str:
    """Return a value that the careful reader would convert too, where another type says the same."""
    number, text = f'{value}."doubleValue"', f'{value}."stringValue"'
    if type_ == names.INT:
        whole = f"CASE WHEN {number} = trunc({number}) THEN try_cast({number} AS BIGINT) END"
        digits = (
            rf"CASE WHEN regexp_full_match({text}, '\s*[+-]?[0-9]+\s*') THEN try_cast({text} AS BIGINT) END"
        )
        return f'coalesce({value}."intValue", {whole}, {digits})'
    if type_ == names.STRING:
        return f'coalesce({text}, {value}."intValue"::VARCHAR, {number}::VARCHAR)'
    finite = f"CASE WHEN isfinite(try_cast({text} AS DOUBLE)) THEN try_cast({text} AS DOUBLE) END"
    return f'coalesce({number}, {value}."intValue"::DOUBLE, {finite})'


def _lenient_value(attributes: str, keys: str, key: str, type_: str) -> str:
    return _lenient(f"list_extract({attributes}, list_position({keys}, {_text(key)})).value", type_)


def _sglang(name: str) -> str:
    """Return a condition: a span may be of SGLang's request tracing; ``forget_lookalikes`` judges by its trace."""
    slices = f"{name} IN ({_texts(tuple(dialects.SGLANG_PHASES))})"
    others = (dialects.SGLANG_ROOT, dialects.SGLANG_THREAD)
    return " OR ".join([slices, *(f"regexp_full_match({name}, {_text(pattern)})" for pattern in others)])


KNOWN_KEYS: Final = frozenset(
    [*names.ATTRIBUTES, *(k.key for k in dialects.FOREIGN_KEYS), *dialects.IGNORED_KEYS]
)


_KINDS: Final = ("UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")
_STATUSES: Final = ("UNSET", "OK", "ERROR")
SPAN_COLUMNS: Final = {
    **{a.column: a.type for a in SPAN_ATTRIBUTES},
    **{k.column: k.type for k in dialects.FOREIGN_KEYS},
}
"""Column and type of everything that a plan can place."""
_BASE_COLUMNS: Final = (
    "file", "trace_id", "span_id", "parent_span_id", "name", "dialect", "resource_id", "start_ns", "end_ns", "kind",
    "status_code", "links",
)  # fmt: skip
_IDS: Final = ("trace_id", "span_id", "parent_span_id")
_KIND_OF_SPAN: Final = "CASE WHEN dialect = 'vtprof' THEN name ELSE dialect END"
_SLOT: Final = (
    'CASE WHEN a.value."intValue" IS NOT NULL THEN 1 WHEN a.value."doubleValue" IS NOT NULL THEN 2 '
    'WHEN a.value."stringValue" IS NOT NULL THEN 3 ELSE 0 END'
)


def create_scratch() -> str:
    """Return the statements that make the tables of a load: ``span_rows`` and ``span_shapes``.

    ``span_rows`` gets a column for an attribute when the first one comes: an empty one costs as much as a full one.
    Its ids are not compressed: that took a quarter of the time of writing, for half of what they take.
    """
    return f"""
-- One row: one span as it was read, with the columns that some span has; `spans` shows all columns.
-- cut_values         how many long values of `extra` were cut
-- suspect            whether an id, name or time may be wrong: then its file is read again, carefully
-- shape, attributes  of a span of unknown kind or shape, while it waits for its columns: what it is told by; NULL since
CREATE TABLE span_rows (
    file VARCHAR, {", ".join(f"{column} VARCHAR USING COMPRESSION uncompressed" for column in _IDS)}, name VARCHAR,
    dialect VARCHAR, resource_id UBIGINT, start_ns BIGINT, end_ns BIGINT, kind UTINYINT, status_code UTINYINT,
    links STRUCT("traceId" VARCHAR, "spanId" VARCHAR)[], extra VARCHAR, unknown_keys VARCHAR[], cut_values INTEGER,
    suspect BOOLEAN, shape UBIGINT, attributes {ATTRIBUTES_TYPE}
);
CREATE TEMP TABLE span_shapes (shape UBIGINT, rest INTEGER[], unknown VARCHAR[], mistyped BOOLEAN);
"""


def _code(text: str, prefix: str, labels: tuple[str, ...]) -> str:
    """Return an enum of OTLP as its number: JSON writers give that, or its name."""
    listed = _texts(tuple(prefix + label for label in labels))
    return (
        f"coalesce(try_cast({text} AS UTINYINT), nullif(list_position([{listed}], {text}), 0) - 1)::UTINYINT"
    )


def _odd_id(column: str, digits: int) -> str:
    # An id of zeros is none.
    return f"(NOT regexp_full_match({column}, '[0-9a-f]{{{digits}}}') OR {column} = '{'0' * digits}')"


def _from_files(rich: bool) -> str:
    """Return the CTEs that end in ``keyed``: the spans of files, each with its attributes and their shape."""
    column = _spans_column(ATTRIBUTES_TYPE if rich else _LEAN_ATTRIBUTES)
    return f"""
documents AS (
    SELECT file, unnest("resourceSpans") AS r FROM {_read_signal("resourceSpans", column)}
), scopes AS (
    SELECT file, hash(r.resource."attributes") AS resource_id, unnest(r."scopeSpans") AS scope FROM documents
), unnested AS (
    SELECT file, resource_id, unnest(scope.spans) AS s FROM scopes
), named AS (
    SELECT file, s."traceId" AS trace_id, s."spanId" AS span_id, nullif(s."parentSpanId", '') AS parent_span_id,
           s.name AS name,
           CASE WHEN s.name IN ({_texts(tuple(names.SPANS))}) THEN 'vtprof'
                WHEN s.name = {_text(dialects.VLLM_REQUEST_SPAN)} THEN 'vllm'
                WHEN {_sglang("s.name")} THEN 'sglang' END AS dialect,
           resource_id, s."startTimeUnixNano" AS start_ns, nullif(s."endTimeUnixNano", 0) AS end_ns,
           {_code('s."kind"', "SPAN_KIND_", _KINDS)} AS kind,
           {_code('s."status"."code"', "STATUS_CODE_", _STATUSES)} AS status_code,
           CASE WHEN dialect = 'vtprof' AND len(s.links) > 0 THEN s.links END AS links,
           s."attributes" AS attributes
    FROM unnested
), keyed AS (
    SELECT *,
           CASE WHEN dialect IS NOT NULL
                THEN hash({_KIND_OF_SPAN}, list_transform(attributes, lambda a: hash(a.key) + {_SLOT})) END AS shape,
           trace_id IS NULL OR {_odd_id("trace_id", 32)} OR span_id IS NULL OR {_odd_id("span_id", 16)}
               OR coalesce({_odd_id("parent_span_id", 16)}, false) OR name IS NULL
               OR start_ns IS NULL OR start_ns <= 0 AS suspect
    FROM named
)"""


def _placed_value(column: str) -> str:
    value = _slot(f"list_extract(attributes, at_{column}).value", SPAN_COLUMNS[column])
    # Most columns belong to one kind of span: taking the others' NULLs apart costs as much as a value.
    return f"CASE WHEN at_{column} IS NOT NULL THEN {value} END"


def _placed(columns: Sequence[str], rich: bool) -> str:
    """Return the SELECT from ``keyed`` that puts values into columns and, if ``rich``, the others into ``extra``."""
    values = "".join(f",\n       {_placed_value(column)} AS {column}" for column in columns)
    waits = "span_shapes.shape IS NULL"
    others = ""
    if rich:
        waits = "keyed.shape IS NOT NULL AND span_shapes.shape IS NULL"
        rest = "CASE WHEN keyed.shape IS NULL THEN range(1, len(attributes) + 1)::INTEGER[] ELSE rest END"
        others = f""", unknown AS unknown_keys, {_extra("attributes", rest)} AS extra,
       {_cut_values("attributes", rest)} AS cut_values"""
    return f"""
SELECT {", ".join(_BASE_COLUMNS)}, suspect OR coalesce(mistyped, false) AS suspect,
       CASE WHEN {waits} THEN keyed.shape END AS shape, CASE WHEN {waits} THEN attributes END AS attributes{others}{values}
FROM keyed LEFT JOIN span_shapes ON keyed.shape = span_shapes.shape
"""


def insert_spans(columns: Sequence[str], rich: bool) -> str:
    """Return the statement that reads files (``$files``, ``$longest``) into ``span_rows``, whose columns are given.

    If not ``rich``, attributes without a column are left out, and spans of unknown kind or shape wait with theirs,
    as far as these have one of the common types: cheaper by a quarter, and right where there are none of these.
    """
    return f"INSERT INTO span_rows BY NAME WITH {_from_files(rich)}{_placed(columns, rich)}"


def insert_waiting(columns: Sequence[str]) -> str:
    """Return the statement that puts the spans whose shape is known by now into ``span_rows`` once more."""
    return f"""
INSERT INTO span_rows BY NAME
WITH keyed AS (
    SELECT {", ".join(_BASE_COLUMNS)}, suspect, attributes, shape
    FROM span_rows SEMI JOIN span_shapes USING (shape) WHERE attributes IS NOT NULL
){_placed(columns, True)}"""


DELETE_WAITING: Final = """
DELETE FROM span_rows WHERE attributes IS NOT NULL AND shape IN (SELECT shape FROM span_shapes)
"""
_SHAPES: Final = f"""
SELECT shape, any_value({_KIND_OF_SPAN}), any_value(list_transform(attributes, lambda a: a.key)),
       any_value(list_transform(attributes, lambda a: {_SLOT}))
"""


def shapes_of_files() -> str:
    """Return the query of the shapes in files: hash, kind of span, keys and slots."""
    return f"WITH {_from_files(True)}{_SHAPES}FROM keyed GROUP BY shape"


def shapes_of_waiting(limit: int) -> str:
    """Return the query of shapes of spans that wait, at most ``limit``."""
    return f"{_SHAPES}FROM span_rows WHERE attributes IS NOT NULL GROUP BY shape LIMIT {limit}"


def _text_of(value: str) -> str:
    """Return an attribute's value as text; of lists and maps it is OTLP's JSON."""
    return (
        f'coalesce({value}."stringValue", {value}."intValue"::VARCHAR, {value}."doubleValue"::VARCHAR, '
        f'{value}."boolValue"::VARCHAR, {value}."arrayValue"::VARCHAR, {value}."kvlistValue"::VARCHAR, '
        f'{value}."bytesValue")'
    )


def _extra(attributes: str, places: str) -> str:
    """Return a JSON object of the attributes at ``places``; NULL without any. Costs nothing where there are none."""
    value = f"list_extract({attributes}, i).value"
    text = _text_of(value)
    quoted = (
        f'{value}."stringValue" IS NOT NULL OR {value}."bytesValue" IS NOT NULL '
        f'OR NOT isfinite({value}."doubleValue") OR length({text}) > {MAX_VALUE_CHARACTERS}'
    )
    item = (
        f"to_json(list_extract({attributes}, i).key)::VARCHAR || ':' || coalesce("
        f"CASE WHEN {quoted} THEN to_json(left({text}, {MAX_VALUE_CHARACTERS}))::VARCHAR ELSE {text} END, 'null')"
    )
    return f"'{{' || nullif(array_to_string(list_transform({places}, lambda i: {item}), ','), '') || '}}'"


def _cut_values(attributes: str, places: str) -> str:
    """Return how many values ``_extra`` cuts."""
    text = _text_of(f"list_extract({attributes}, i).value")
    return f"len(list_filter({places}, lambda i: length({text}) > {MAX_VALUE_CHARACTERS}))::INTEGER"


def insert_resources() -> str:
    """Return the statement that reads the resources of files into ``resources``, those not there yet."""
    columns = ",\n       ".join(
        f"{_lenient_value('attributes', 'keys', a.key, a.type)} AS {a.column}" for a in RESOURCE_ATTRIBUTES
    )
    mistyped = ", ".join(
        f"CASE WHEN {a.column} IS NULL AND list_contains(keys, {_text(a.key)}) THEN {_text(a.key)} END"
        for a in RESOURCE_ATTRIBUTES
    )
    read = (dialects.VLLM_PROCESS_KIND, *(a.key for a in RESOURCE_ATTRIBUTES))
    return f"""
INSERT INTO resources BY NAME
WITH found AS (
    SELECT unnest(list_concat(coalesce("resourceSpans", []), coalesce("resourceMetrics", []))).resource."attributes"
               AS attributes
    FROM {_read(_RESOURCES_COLUMNS)}
), once AS (
    SELECT hash(attributes) AS resource_id, any_value(attributes) AS attributes FROM found GROUP BY resource_id
), keyed AS (
    SELECT *, list_transform(attributes, lambda a: a.key) AS keys
    FROM once WHERE resource_id NOT IN (SELECT resource_id FROM resources)
), split AS (
    SELECT *, list_filter(range(1, len(keys) + 1), lambda i: list_extract(keys, i) NOT IN ({_texts(read)})
                                                   OR list_position(keys, list_extract(keys, i)) < i) AS rest
    FROM keyed
), valued AS (
SELECT resource_id, keys, {_extra("attributes", "rest")} AS extra,
       {_value("attributes", "keys", dialects.VLLM_PROCESS_KIND, names.STRING)} AS vllm_process_kind,
       {columns}
FROM split
)
SELECT * EXCLUDE (keys), nullif(list_filter([{mistyped}], lambda key: key IS NOT NULL), []) AS mistyped_keys FROM valued
"""


def insert_metrics() -> str:
    """Return the statement that reads metrics into ``metric_samples``.

    Foreign ones come as a row without a value, and so do those that are neither gauge nor sum.
    """
    keys = 'list_transform(point."attributes", lambda a: a.key)'
    return f"""
INSERT INTO metric_samples BY NAME
WITH documents AS (
    SELECT file, unnest("resourceMetrics") AS r FROM {_read_signal("resourceMetrics", _METRICS_COLUMN)}
), scopes AS (
    SELECT file, hash(r.resource."attributes") AS resource_id, unnest(r."scopeMetrics") AS scope FROM documents
), metrics AS (
    SELECT file, resource_id, unnest(scope.metrics) AS m FROM scopes
), points AS (
    SELECT file, resource_id, m.name AS name,
           unnest(CASE WHEN m.name IN ({_texts(METRIC_NAMES)}) AND (m.gauge IS NOT NULL OR m.sum IS NOT NULL)
                       THEN coalesce(m.gauge."dataPoints", m.sum."dataPoints", [])
                       ELSE [NULL] END) AS point
    FROM metrics
)
SELECT file, name, resource_id, nullif(point."startTimeUnixNano", 0) AS start_ns, point."timeUnixNano" AS ts_ns,
       coalesce(point."asInt"::DOUBLE, point."asDouble") AS value,
       {_lenient_value('point."attributes"', keys, names.HW_ID, names.STRING)} AS hw_id,
       {_lenient_value('point."attributes"', keys, names.PHASE, names.STRING)} AS phase,
       name IN ({_texts(METRIC_NAMES)}) AS known
FROM points
"""


def count_log_records() -> str:
    """Return the query of the OTLP log records by file, which are not used."""
    return f"""
SELECT file, coalesce(sum(len(scope."logRecords")), 0)::BIGINT
FROM (SELECT file, unnest("resourceLogs") AS r FROM {_read_signal("resourceLogs", _LOGS_COLUMN)}) AS documents,
     unnest(r."scopeLogs") AS scopes(scope)
GROUP BY file
"""
