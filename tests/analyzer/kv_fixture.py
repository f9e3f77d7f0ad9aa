"""Steps that hold KV, requests that tell their tokens, and stores of several processes, for tests of KV stages."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import duckdb
from otlp_builder import document, request, span, write
from store_fixture import loaded

from vtprof_analyzer import pipeline, step_cost
from vtprof_analyzer.pipeline import Settings
from vtprof_schemas import names

A: Final = {names.SERVICE_INSTANCE_ID: "a", names.KV_BYTES_PER_TOKEN: 2}
B: Final = {names.SERVICE_INSTANCE_ID: "b", names.KV_BYTES_PER_TOKEN: 2}
"""Two processes whose tokens take 2 bytes."""


def step(start: int, end: int | None, held: int, visual: int, trace: int, **more: int) -> dict[str, object]:
    """Return a step that holds so many tokens; ``more`` by name of the attribute after ``vtprof.step.``."""
    attrs = {names.STEP_COUNT: 1, names.STEP_KV_USED_TOKENS: held, names.STEP_KV_VISUAL_TOKENS: visual}
    attrs.update({getattr(names, "STEP_" + key.upper()): value for key, value in more.items()})
    return span(names.SPAN_STEP, start, end, attrs, trace=trace)


@contextmanager
def staged_in_processes(
    folder: Path, *parts: tuple[dict[str, Any], list[dict[str, object]]], derived: int | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Run the stages over spans of several processes: pairs of resource and spans."""
    path = write(folder / "t.jsonl", *(document(*spans, resource=resource) for resource, spans in parts))
    with loaded(path) as db:
        pipeline.run(db, Settings(kv_bytes_per_token=derived), {step_cost.STAGE: step_cost.create_table})
        yield db


def phase(
    name: str, start: int, end: int, trace: int, span_id: int, attrs: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return a phase of the request that `request` makes in that trace."""
    return span(
        names.PHASE_SPANS[name], start, end, {names.PHASE: name, **(attrs or {})}, trace=trace, span_id=span_id, parent=1
    )  # fmt: skip


def sized_request(trace: int, text: int, image: int) -> list[dict[str, object]]:
    """Return a request of 100 ns without phases, with three output tokens."""
    attrs = {
        names.TTFT_NS: 40, names.INPUT_TOKENS: text + image, names.OUTPUT_TOKENS: 3, names.TOKENS_TEXT: text,
        names.TOKENS_IMAGE: image,
    }  # fmt: skip
    return request(0, 100, attrs, trace=trace)
