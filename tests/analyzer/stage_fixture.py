"""Run the stages over a few spans, for tests: in a store in memory, without a cost model unless rows are given."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
from otlp_builder import document, write
from store_fixture import loaded

from vtprof_analyzer import pipeline, step_cost

COST_DEFAULTS: dict[str, Any] = {
    "step_id": 1, "steps": 1, "mixed": False, "tokens": 0, "visual_tokens": 0, "flops": 0.0, "visual_flops": 0.0,
    "bytes": 0.0, "weight_bytes": 0.0, "kv_read_bytes": 0.0, "kv_visual_read_bytes": 0.0,
}  # fmt: skip


@contextmanager
def staged(
    folder: Path,
    spans: Sequence[dict[str, Any]],
    *,
    resource: dict[str, Any] | None = None,
    costs: Sequence[dict[str, Any]] = (),
    settings: pipeline.Settings | None = None,
) -> Iterator[duckdb.DuckDBPyConnection]:
    path = write(folder / "t.jsonl", document(*spans, resource=resource))

    def given_costs(connection: duckdb.DuckDBPyConnection) -> None:
        step_cost.create_table(connection)
        for row in costs:
            full = COST_DEFAULTS | row
            columns, marks = ", ".join(full), ", ".join("?" for _ in full)
            connection.execute(f"INSERT INTO step_cost ({columns}) VALUES ({marks})", list(full.values()))

    with loaded(path) as connection:
        pipeline.run(connection, settings or pipeline.Settings(), {step_cost.STAGE: given_costs})
        yield connection
