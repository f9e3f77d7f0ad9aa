"""Stage `step_cost`: the cost model over every step, as arrays of some 200,000. Reads `steps`, creates `step_cost`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import duckdb
import numpy as np

from vtprof_analyzer.cost.parallel import Parallel
from vtprof_analyzer.cost.parts import PartCost
from vtprof_analyzer.cost.steps import ONE_DEVICE, step_costs
from vtprof_analyzer.cost.times import split_seconds
from vtprof_analyzer.cost.work import Floats, Precision, StepWork
from vtprof_analyzer.devices.roofs import ATTAINABLE, Roof
from vtprof_analyzer.models.spec import ModelSpec
from vtprof_analyzer.store import with_room
from vtprof_schemas import names

STAGE: Final = "55_step_cost.py"
"""Its place among the SQL stages."""

TABLE: Final = """
-- One row: one phase's part of one step, by the cost model. No rows when the model is not known, and none for windows of
-- folded iterations that mix phases (`steps.folded`).
CREATE TABLE step_cost (
    step_id BIGINT,                 -- row of `steps`
    phase VARCHAR,                  -- encode, prefill or decode
    steps BIGINT,                   -- iterations folded into the step
    mixed BOOLEAN,                  -- prefill and decode ran in the same step
    parts UTINYINT DEFAULT 1,       -- rows of this step: 3 where it encoded, too
    tokens DOUBLE,                  -- computed: prompt tokens, patches, or tokens of decode with the drafts verified
    visual_tokens DOUBLE,           -- the image and video part of prompt tokens
    flops DOUBLE,                   -- a multiply-add is two
    visual_flops DOUBLE,            -- the part whose query is a visual token
    bytes DOUBLE,                   -- all bytes moved [B]
    weight_bytes DOUBLE,            -- weights read; in a mixed step split by tokens [B]
    kv_read_bytes DOUBLE,           -- KV read [B]
    kv_visual_read_bytes DOUBLE,    -- the visual part of it, in decode [B]
    communication_bytes DOUBLE,     -- sent between devices, by all of them together; not in bytes [B]
    time_s DOUBLE,                  -- time of this part [s]: measured for the step, attributed to its parts
    wall_s DOUBLE,                  -- wall time of this part [s]; NULL where time_s is wall time already
    floor_s DOUBLE,                 -- roofline floor, communication included [s]; NULL without a roof
    communication_s DOUBLE,         -- of which communication [s]; NULL where the speed of the links is not known
    peak_flops_per_s DOUBLE,        -- ceilings of the step's own device [FLOP/s]; NULL without a roof
    bandwidth_bytes_per_s DOUBLE,   -- likewise [B/s]
    attainable BOOLEAN,             -- the ceilings were measured on such a machine; false: a data sheet's
    uncertain BOOLEAN               -- the ceilings are doubtful, or another device's
)
"""

_NS_PER_S: Final = 1e9
CHUNK_STEPS: Final = 200_000
"""Steps that are costed at once: some 90 MB of arrays, however many steps the run has."""
_LOW: Final = "low"
WORK_COLUMNS: Final = {
    "count": "steps",
    "prefill_requests": "prefill_requests",
    "prefill_tokens": "prefill_tokens",
    "prefill_visual_tokens": "prefill_visual_tokens",
    "prefill_attention_pairs": "prefill_pairs",
    "prefill_visual_attention_pairs": "prefill_visual_pairs",
    "decode_requests": "decode_requests",
    "decode_tokens": "decode_tokens",
    "decode_context_tokens": "decode_context_tokens",
    "decode_visual_tokens": "decode_visual_tokens",
    "encode_items": "encode_items",
    "encode_patches": "encode_patches",
    "encode_attention_pairs": "encode_pairs",
}
"""Field of the cost model's input to column of `steps`."""


@dataclass(frozen=True)
class CostInputs:
    """What the cost model needs beside the steps."""

    spec: ModelSpec
    precision: Precision
    roof: Roof | None
    parallel: Parallel = ONE_DEVICE
    resource_ids: frozenset[int] | None = None
    """Whose steps these are; None is everybody's."""


def create_table(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the empty table: what a run has whose model is not known."""
    connection.execute(TABLE)


def fill_table(
    connection: duckdb.DuckDBPyConnection, groups: Sequence[CostInputs], chunk_steps: int = CHUNK_STEPS
) -> None:
    """Create the table and cost every step of a group that is not folded, each by its own model on its own device."""

    def fill() -> None:
        create_table(connection)
        for inputs in groups:
            for columns in _read_steps(connection, inputs.resource_ids, chunk_steps):
                _fill(connection, inputs, columns)

    # One transaction: each commit rewrites the end of what the table holds already.
    with_room(connection, fill)


def _fill(connection: duckdb.DuckDBPyConnection, inputs: CostInputs, columns: dict[str, Floats]) -> None:
    work = StepWork.of(**{field: columns[column] for field, column in WORK_COLUMNS.items()})
    costs = step_costs(inputs.spec, work, inputs.precision, parallel=inputs.parallel)
    on_gpu = np.isfinite(columns["gpu_time_ns"])
    seconds = np.where(on_gpu, columns["gpu_time_ns"], columns["duration_ns"]) / _NS_PER_S
    encode_seconds = np.where(on_gpu, columns["encode_gpu_time_ns"], columns["encode_ns"]) / _NS_PER_S
    times = split_seconds(costs, inputs.roof, seconds, encode_seconds)
    wall_per_second = np.divide(
        columns["duration_ns"] / _NS_PER_S, seconds, out=np.zeros(len(work)), where=seconds > 0
    )
    mixed = (work.prefill_tokens > 0) & (work.decode_requests > 0)
    none = np.zeros(len(work))
    parts: list[tuple[str, PartCost, Floats, Floats, Floats]] = [
        (names.ENCODE, costs.encode, times.encode, work.encode_patches, work.encode_patches),
        (names.PREFILL, costs.prefill, times.prefill, work.prefill_tokens, work.prefill_visual_tokens),
        (names.DECODE, costs.decode, times.decode, work.decode_tokens, none),
    ]
    if not inputs.spec.encoder_flops_known:
        parts = parts[1:]  # what is counted of it would look like all of it
    count = sum((cost.flops > 0).astype(np.int64) for _, cost, *_ in parts)
    told: list[dict[str, Any]] = []
    for number, (phase, cost, time, tokens, visual_tokens) in enumerate(parts):
        given: dict[str, Any] = {
            "step_id": columns["step_id"],
            "phase": np.full(len(work), number),
            "steps": work.count,
            "mixed": mixed & (phase != names.ENCODE),
            "parts": count,
            "tokens": tokens,
            "visual_tokens": visual_tokens,
            "time_s": time,
            "wall_s": np.where(on_gpu, time * wall_per_second, np.nan),
            **_cost_columns(cost, inputs.roof),
        }
        worked = cost.flops > 0
        told.append({name: values[worked] for name, values in given.items()})
    rows = {name: np.concatenate([part[name] for part in told]) for name in told[0]}
    _insert(connection, [phase for phase, *_ in parts], rows, inputs.roof)


def _cost_columns(cost: PartCost, roof: Roof | None) -> dict[str, Floats]:
    unknown = np.full(len(cost.flops), np.nan)
    return {
        "flops": cost.flops,
        "visual_flops": cost.flops_visual,
        "bytes": cost.bytes,
        "weight_bytes": cost.bytes_weights,
        "kv_read_bytes": cost.bytes_kv_read,
        "kv_visual_read_bytes": cost.bytes_kv_visual,
        "communication_bytes": cost.bytes_communication,
        "floor_s": cost.floor_seconds(roof) if roof else unknown,
        "communication_s": cost.communication_seconds(roof) if roof and roof.link_bytes_per_s else unknown,
    }


def _read_steps(
    connection: duckdb.DuckDBPyConnection, resource_ids: frozenset[int] | None, chunk_steps: int
) -> Iterator[dict[str, Floats]]:
    """Yield columns of unfolded `steps`, all or those of some resources, as float arrays in chunks; NULL is NaN."""
    wanted = [
        "step_id",
        *WORK_COLUMNS.values(),
        "duration_ns",
        "gpu_time_ns",
        "encode_ns",
        "encode_gpu_time_ns",
    ]
    listed = ", ".join(f"{name}::DOUBLE AS {name}" for name in wanted)
    ((last,),) = connection.execute("SELECT coalesce(max(step_id), 0) FROM steps").fetchall()
    for first in range(1, last + 1, chunk_steps):
        found = connection.execute(
            f"SELECT {listed} FROM steps WHERE step_id BETWEEN $first AND $last AND NOT folded"
            " AND ($all OR list_contains($ids::UBIGINT[], resource_id))",
            {
                "first": first,
                "last": first + chunk_steps - 1,
                "all": resource_ids is None,
                "ids": sorted(resource_ids or ()),
            },
        ).fetchnumpy()
        if len(found["step_id"]):
            yield {name: np.ma.filled(found[name], np.nan) for name in wanted}


def _insert(
    connection: duckdb.DuckDBPyConnection, phases: list[str], columns: dict[str, Any], roof: Roof | None
) -> None:
    """Append rows, all parts of many steps at once; their column `phase` holds places in ``phases``."""
    connection.register("part", columns)
    connection.execute(
        """
        INSERT INTO step_cost BY NAME
        SELECT * REPLACE (
                   step_id::BIGINT AS step_id, $phases[phase + 1] AS phase,
                   CASE WHEN isfinite(wall_s) THEN wall_s END AS wall_s,
                   CASE WHEN isfinite(floor_s) THEN floor_s END AS floor_s,
                   CASE WHEN isfinite(communication_s) THEN communication_s END AS communication_s),
               $peak AS peak_flops_per_s, $bandwidth AS bandwidth_bytes_per_s,
               $attainable AS attainable, $uncertain AS uncertain
        FROM part
        """,
        {
            "phases": phases,
            "peak": roof.peak_flops_per_s if roof else None,
            "bandwidth": roof.bandwidth_bytes_per_s if roof else None,
            "attainable": roof.kind == ATTAINABLE if roof else None,
            "uncertain": roof.confidence == _LOW if roof else None,
        },
    )
    connection.unregister("part")
