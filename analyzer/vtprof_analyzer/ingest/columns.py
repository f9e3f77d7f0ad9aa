"""The SQL that turns OTLP JSON lines into typed rows, made from the vocabulary: one column an attribute key.

Pure text: nothing of a user's enters it; files and sizes are bound as parameters by the caller. Keys are looked up
only on spans that may carry them, one ``CASE`` a kind of span: on a wide vocabulary that halves the load's CPU.
"""

from typing import Final

from vtprof_analyzer.ingest import dialects
from vtprof_schemas import names

SQL_TYPES: Final = {names.INT: "BIGINT", names.DOUBLE: "DOUBLE", names.STRING: "VARCHAR"}
COUNTERS: Final = tuple(
    key for key in names.ATTRIBUTES if key + ".quality" in names.ATTRIBUTES and "gpu." in key
)
"""GPU counters that stand on spans, each with ``.low``, ``.high`` and ``.quality``; others are metrics only."""
_COUNTER_SUFFIXES = ("", ".low", ".high", ".quality")

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

_ATTRIBUTES = (
    'STRUCT("key" VARCHAR, "value" STRUCT("stringValue" VARCHAR, "intValue" BIGINT, "doubleValue" DOUBLE))[]'
)
_RESOURCE = f'resource STRUCT("attributes" {_ATTRIBUTES})'
_SPAN = (
    'STRUCT("traceId" VARCHAR, "spanId" VARCHAR, "parentSpanId" VARCHAR, "name" VARCHAR, '
    f'"startTimeUnixNano" BIGINT, "endTimeUnixNano" BIGINT, "attributes" {_ATTRIBUTES}, '
    '"links" STRUCT("traceId" VARCHAR, "spanId" VARCHAR)[])'
)
_POINT = (
    'STRUCT("startTimeUnixNano" BIGINT, "timeUnixNano" BIGINT, "asInt" BIGINT, "asDouble" DOUBLE, '
    f'"attributes" {_ATTRIBUTES})'
)
_METRIC = (
    f'STRUCT("name" VARCHAR, gauge STRUCT("dataPoints" {_POINT}[]), sum STRUCT("dataPoints" {_POINT}[]))'
)
_SPANS_COLUMN = f'"resourceSpans": \'STRUCT({_RESOURCE}, "scopeSpans" STRUCT(spans {_SPAN}[])[])[]\''
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

    Files are read under names without wildcards; ``$odd_files`` and ``$odd_names`` tell the true names of some.
    """
    return (
        f"(SELECT *, coalesce(map($odd_files::VARCHAR[], $odd_names::VARCHAR[])[filename], filename) AS file "
        f"FROM read_json($files, columns={{{columns}}}, auto_detect=false, records=true, "
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


def _value(attributes: str, keys: str, key: str, type_: str) -> str:
    value = f"list_extract({attributes}, list_position({keys}, {_text(key)})).value"
    if type_ == names.INT:
        return f'{value}."intValue"'
    if type_ == names.STRING:
        return f'{value}."stringValue"'
    # Exporters write a double that is whole as an int.
    return f'coalesce({value}."doubleValue", {value}."intValue"::DOUBLE)'


def _groups() -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Return (condition on the span, [(column, key, type)]) for each kind of span that carries keys of its own."""
    spans_of: dict[str, tuple[str, ...]] = {
        "request": (names.SPAN_REQUEST,),
        "step": (names.SPAN_STEP, names.SPAN_WINDOW),
        "phase": tuple(names.SPANS),
    }
    spans_of.update((phase, (span,)) for phase, span in names.PHASE_SPANS.items())
    groups = []
    for where, spans in spans_of.items():
        members = [(a.column, a.key, a.type) for a in SPAN_ATTRIBUTES if a.where == where]
        groups.append((f"name IN ({_texts(spans)})", members))
    for counter in COUNTERS:
        attributes = [names.ATTRIBUTES[counter + suffix] for suffix in _COUNTER_SUFFIXES]
        groups.append(
            (f"list_position(keys, {_text(counter)}) > 0", [(a.column, a.key, a.type) for a in attributes])
        )
    for dialect, keys in ((dialects.VLLM, dialects.VLLM_KEYS), (dialects.SGLANG, dialects.SGLANG_KEYS)):
        groups.append((f"dialect = {_text(dialect)}", [(k.column, k.key, k.type) for k in keys]))
    return groups


def _sglang(name: str) -> str:
    """Return a condition: a span may be of SGLang's request tracing; ``forget_lookalikes`` judges by its trace."""
    slices = f"{name} IN ({_texts(tuple(dialects.SGLANG_PHASES))})"
    others = (dialects.SGLANG_ROOT, dialects.SGLANG_THREAD)
    return " OR ".join([slices, *(f"regexp_full_match({name}, {_text(pattern)})" for pattern in others)])


def forget_lookalikes() -> str:
    """Return the statement that gives up spans with names like SGLang's in traces without a request of SGLang's."""
    return """
UPDATE spans SET dialect = NULL, unknown_keys = NULL
WHERE dialect = 'sglang'
  AND trace_id NOT IN (SELECT trace_id FROM spans WHERE dialect = 'sglang' AND sglang_rid IS NOT NULL)
"""


def _mistyped() -> str:
    """Return a condition on an attribute ``a``: a known key whose value is not of the key's type."""
    empty = {
        names.INT: 'a.value."intValue" IS NULL',
        names.STRING: 'a.value."stringValue" IS NULL',
        names.DOUBLE: 'a.value."doubleValue" IS NULL AND a.value."intValue" IS NULL',
    }
    known = [(a.key, a.type) for a in SPAN_ATTRIBUTES] + [(k.key, k.type) for k in dialects.FOREIGN_KEYS]
    parts = []
    for type_, condition in empty.items():
        keys = tuple(key for key, key_type in known if key_type == type_)
        parts.append(f"(a.key IN ({_texts(keys)}) AND {condition})")
    return " OR ".join(parts)


KNOWN_KEYS: Final = frozenset(
    [*names.ATTRIBUTES, *(k.key for k in dialects.FOREIGN_KEYS), *dialects.IGNORED_KEYS]
)


def insert_spans() -> str:
    """Return the statement that reads files (``$files``, ``$longest``) into ``spans``."""
    groups = _groups()
    packs = [
        f"CASE WHEN {condition} THEN struct_pack("
        + ", ".join(
            f"{column} := {_value('attributes', 'keys', key, type_)}" for column, key, type_ in members
        )
        + f") END AS group_{number}"
        for number, (condition, members) in enumerate(groups)
    ]
    columns = [
        f"group_{number}.{column}" for number, (_, members) in enumerate(groups) for column, _, _ in members
    ]
    found = " + ".join(f"({column} IS NOT NULL)::INT" for column in columns)
    separator = ",\n           "
    return f"""
INSERT INTO spans BY NAME
WITH documents AS (
    SELECT file, unnest("resourceSpans") AS r FROM {_read_signal("resourceSpans", _SPANS_COLUMN)}
), scopes AS (
    SELECT file, hash(r.resource."attributes") AS resource_id, unnest(r."scopeSpans") AS scope FROM documents
), unnested AS (
    SELECT file, resource_id, unnest(scope.spans) AS s FROM scopes
), named AS (
    SELECT file, resource_id, s, s.name AS name, s."attributes" AS attributes,
           CASE WHEN s.name IN ({_texts(tuple(names.SPANS))}) THEN 'vtprof'
                WHEN s.name = {_text(dialects.VLLM_REQUEST_SPAN)} THEN 'vllm'
                WHEN {_sglang("s.name")} THEN 'sglang' END AS dialect,
           CASE WHEN dialect IS NOT NULL THEN list_transform(s."attributes", lambda a: a.key) END AS keys
    FROM unnested
), wide AS (
    SELECT *, {separator.join(packs)}
    FROM named
)
SELECT file, s."traceId" AS trace_id, s."spanId" AS span_id,
       nullif(s."parentSpanId", '') AS parent_span_id, name, dialect, resource_id,
       s."startTimeUnixNano" AS start_ns, nullif(s."endTimeUnixNano", 0) AS end_ns,
       CASE WHEN dialect = 'vtprof' AND len(s.links) > 0 THEN s.links END AS links,
       CASE WHEN len(keys) <> {found} THEN attributes END AS odd_attributes,
       {separator.join(columns)}
FROM wide
"""


def explain_odd_attributes() -> str:
    """Return the statement that tells unknown keys from mistyped values, on the few spans that have either.

    Inside the load it would be worked out for every span: a lambda is not skipped with its ``CASE``.
    """
    known = _texts(tuple(sorted(KNOWN_KEYS)))
    return f"""
UPDATE spans SET
    unknown_keys = list_filter(list_transform(odd_attributes, lambda a: a.key), lambda k: k NOT IN ({known})),
    mistyped = len(list_filter(odd_attributes, lambda a: {_mistyped()})) > 0,
    odd_attributes = NULL
WHERE odd_attributes IS NOT NULL
"""


def odd_span() -> str:
    """Return a condition on ``spans``: what only the careful reader can judge, so that both judge alike."""

    def odd(column: str, digits: int) -> str:
        # An id of zeros is none.
        return f"(NOT regexp_full_match({column}, '[0-9a-f]{{{digits}}}') OR {column} = '{'0' * digits}')"

    return (
        f"trace_id IS NULL OR {odd('trace_id', 32)} OR span_id IS NULL OR {odd('span_id', 16)} "
        f"OR {odd('parent_span_id', 16)} OR name IS NULL OR start_ns IS NULL OR start_ns <= 0"
    )


def insert_resources() -> str:
    """Return the statement that reads the resources of files into ``resources``, those not there yet."""
    columns = ",\n       ".join(
        f"{_value('attributes', 'keys', a.key, a.type)} AS {a.column}" for a in RESOURCE_ATTRIBUTES
    )
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
)
SELECT resource_id,
       {_value("attributes", "keys", dialects.VLLM_PROCESS_KIND, names.STRING)} AS vllm_process_kind,
       {columns}
FROM keyed
"""


def insert_metrics() -> str:
    """Return the statement that reads metrics into ``metric_samples``: foreign ones as a row without a value."""
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
           unnest(CASE WHEN m.name IN ({_texts(METRIC_NAMES)})
                       THEN coalesce(m.gauge."dataPoints", m.sum."dataPoints", [])
                       ELSE [NULL] END) AS point
    FROM metrics
)
SELECT file, name, resource_id, nullif(point."startTimeUnixNano", 0) AS start_ns, point."timeUnixNano" AS ts_ns,
       coalesce(point."asInt"::DOUBLE, point."asDouble") AS value,
       {_value('point."attributes"', 'list_transform(point."attributes", lambda a: a.key)', names.HW_ID, names.STRING)}
           AS hw_id,
       {_value('point."attributes"', 'list_transform(point."attributes", lambda a: a.key)', names.PHASE, names.STRING)}
           AS phase,
       name IN ({_texts(METRIC_NAMES)}) AS known
FROM points
"""


def count_log_records() -> str:
    """Return the statement that counts the OTLP log records of files, which are not used."""
    return f"""
SELECT coalesce(sum(len(scope."logRecords")), 0)::BIGINT
FROM (SELECT unnest("resourceLogs", recursive := false) AS r FROM {_read_signal("resourceLogs", _LOGS_COLUMN)}) AS documents,
     unnest(r."scopeLogs") AS scopes(scope)
"""
