"""The base tables and the vocabulary say the same: one column an attribute key, of its type."""

from pathlib import Path

from otlp_builder import BASE_NS, document, span, write
from store_fixture import fetch, loaded

from vtprof_analyzer.ingest import columns, dialects
from vtprof_analyzer.ingest.load import create_tables
from vtprof_analyzer.store import open_store
from vtprof_schemas import names

SQL_TYPES = {names.INT: "BIGINT", names.DOUBLE: "DOUBLE", names.STRING: "VARCHAR"}


def table_columns(table: str) -> dict[str, str]:
    with open_store() as connection:
        create_tables(connection)
        return dict(
            fetch(
                connection,
                f"SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = '{table}'",
            )
        )


def test_every_span_attribute_of_the_vocabulary_has_its_column() -> None:
    found = table_columns("spans")
    metrics_only = {a.key for a in names.ATTRIBUTES.values() if "(metric)" in a.meaning}
    for attribute in names.ATTRIBUTES.values():
        if attribute.where not in ("resource", "agent", "probe") and attribute.key not in metrics_only:
            assert found.pop(attribute.column) == SQL_TYPES[attribute.type], attribute.key
    for key in dialects.FOREIGN_KEYS:
        assert found.pop(key.column) == SQL_TYPES[key.type]
    assert set(found) == {
        "file", "trace_id", "span_id", "parent_span_id", "name", "dialect", "resource_id", "start_ns", "end_ns", "links",
        "kind", "status_code", "extra", "unknown_keys",
    }  # fmt: skip


def test_every_resource_attribute_has_its_column() -> None:
    found = table_columns("resources")
    for attribute in names.ATTRIBUTES.values():
        if attribute.where == "resource":
            assert found.pop(attribute.column) == SQL_TYPES[attribute.type]
    assert set(found) == {"resource_id", "vllm_process_kind", "extra", "mistyped_keys"}


def test_every_metric_of_the_vocabulary_is_read() -> None:
    for key in (
        names.AGENT_RECORDS_LOST,
        names.GPU_POWER_MW,
        names.HOST_PROCESS_CPU_RATIO,
        names.GPU_ENERGY_MJ,
    ):
        assert key in columns.METRIC_NAMES


def test_a_value_of_every_attribute_arrives_in_its_column(tmp_path: Path) -> None:
    by_type = {names.INT: 41, names.DOUBLE: 0.5, names.STRING: "text"}
    # Values that can be true: three modalities fit into the prompt, a device is faster than a flop in two seconds.
    values = {a.key: by_type[a.type] for a in names.ATTRIBUTES.values()}
    values |= {names.INPUT_TOKENS: 150, names.DEVICE_PEAK_FLOPS: 5e11, names.DEVICE_BANDWIDTH: 5e10}
    spans_of = {
        "request": names.SPAN_REQUEST,
        "step": names.SPAN_WINDOW,
        "phase": names.SPAN_STEP,
        "gpu": names.SPAN_STEP,
    }
    spans_of |= names.PHASE_SPANS
    resource = {a.key: values[a.key] for a in columns.RESOURCE_ATTRIBUTES}
    spans = []
    for number, (where, name) in enumerate(spans_of.items(), start=1):
        attrs = {a.key: values[a.key] for a in columns.SPAN_ATTRIBUTES if a.where == where}
        spans.append(span(name, 0, 1, attrs, span_id=number))
    with loaded(write(tmp_path / "t.jsonl", document(*spans, resource=resource))) as db:
        for number, where in enumerate(spans_of, start=1):
            for attribute in columns.SPAN_ATTRIBUTES:
                if attribute.where == where:
                    rows = fetch(db, f"SELECT {attribute.column} FROM spans WHERE span_id = '{number:016x}'")
                    assert rows == [(values[attribute.key],)], attribute.key
        for attribute in columns.RESOURCE_ATTRIBUTES:
            assert fetch(db, f"SELECT {attribute.column} FROM resources") == [(values[attribute.key],)]
        assert fetch(db, "SELECT count(*) FROM spans WHERE len(unknown_keys) > 0 OR extra IS NOT NULL") == [
            (0,)
        ]
        assert fetch(db, "SELECT DISTINCT start_ns FROM spans") == [(BASE_NS,)]


def test_links_of_steps_are_rows_of_a_view(tmp_path: Path) -> None:
    linked = span(names.SPAN_STEP, 0, 1)
    linked["links"] = [{"traceId": f"{7:032x}", "spanId": f"{8:016x}"}]
    with loaded(write(tmp_path / "t.jsonl", document(linked))) as db:
        assert fetch(db, "SELECT linked_trace_id, linked_span_id FROM span_links") == [
            (f"{7:032x}", f"{8:016x}")
        ]
