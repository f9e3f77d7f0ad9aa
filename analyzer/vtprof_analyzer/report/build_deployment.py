"""What ran, as the traces recorded it, and one line for each thing that they do not say."""

from dataclasses import dataclass, field

import duckdb

from vtprof_analyzer.ingest.dialects import SGLANG, VLLM, VTPROF
from vtprof_analyzer.report.build_rows import Row, one, rows
from vtprof_analyzer.report.model import Deployment, DeviceKind, Roof
from vtprof_schemas import names

VLLM_NOTES = (
    (
        "vLLM's own spans do not tell images, visual tokens, model, cached tokens, encode time or preprocessing:"
        " these are unknown here, not zero"
    ),
    (
        "prefill of vLLM's spans runs from first scheduling to first token: it contains the vision encoder and other"
        " requests' steps"
    ),
    "unexplained contains preprocessing: TTFT less queue and prefill is only an upper bound of it",
    (
        "aborted and rejected requests have no span at all in vLLM: they are in no number here, and every request that is"
        " counts as ok"
    ),
)

SGLANG_NOTES = (
    (
        "SGLang's own spans do not tell images, visual tokens or encode time: these are unknown here, not zero;"
        " preprocess is its tokenize stage, which loads and processes media"
    ),
    (
        "prefill of SGLang's spans runs from first scheduling to the end of the prompt: it contains the vision encoder"
        " and other requests' steps, and ends before the first token reaches the API server"
    ),
)


@dataclass(frozen=True)
class Physics:
    """What is known of model and device beyond the traces: from ``--model``, ``--device`` and the catalogues."""

    model_type: str | None = None
    cost_model: bool = False
    roof: Roof | None = None
    roofs: list[Roof] = field(default_factory=list)
    device: str | None = None
    notes: list[str] = field(default_factory=list)
    no_cost: str | None = None
    no_roof: str | None = None


_USED = """
SELECT resource_id, count(*) AS n,
       count(*) FILTER (name IN ('vtprof.request', 'llm_request') OR sglang_rid IS NOT NULL) AS requests,
       coalesce(sum(greatest(1, coalesce(step_count, 1))) FILTER (
           name IN ('vtprof.step', 'vtprof.window') AND step_count IS DISTINCT FROM 0), 0) AS steps
FROM spans WHERE dialect IS NOT NULL GROUP BY resource_id
"""
_DEVICES = f"""
WITH used AS ({_USED}), processes AS (
    -- What was exported before the model was loaded has no name yet.
    SELECT max(hw_id) AS hw_ids, max(hw_name) AS hw_name, max(host_name) AS host_name, sum(requests) AS requests
    FROM used JOIN resources USING (resource_id)
    GROUP BY coalesce(service_instance_id, resource_id::VARCHAR)
), ids AS (
    -- A process of several devices lists their ids.
    SELECT trim(unnest(string_split(hw_ids, ','))) AS hw_id, hw_name, requests FROM processes
    UNION ALL
    -- A CPU has none: beside devices that have it is one of its machine's.
    SELECT concat_ws('/', host_name, hw_name), hw_name, requests FROM processes
    WHERE coalesce(hw_ids, '') = '' AND hw_name IS NOT NULL AND EXISTS (FROM processes WHERE hw_ids <> '')
), devices AS (
    SELECT hw_id, max(hw_name) AS name, sum(requests) AS requests FROM ids WHERE hw_id <> '' GROUP BY hw_id
)
SELECT name, count(*) AS count, sum(count(*)) OVER ()::BIGINT AS whole
FROM devices GROUP BY name ORDER BY sum(requests) DESC, name
"""


def recorded(connection: duckdb.DuckDBPyConnection) -> Row:
    """Return the resource with a model's config of the process that served most requests (or ran most steps), as one row."""
    found = rows(
        connection,
        f"""
        SELECT r.* FROM ({_USED}) AS used JOIN resources AS r USING (resource_id)
        ORDER BY r.model_config IS NULL, used.requests DESC, used.n DESC, resource_id
        LIMIT 1
        """,
    )
    return found[0] if found else {}


def _described(connection: duckdb.DuckDBPyConnection) -> Row:
    """Return the resource of the engine that did most of the run, as one row: the heading is about it."""
    found = rows(
        connection,
        f"""
        WITH added AS (
            SELECT resource_id, n, requests, sum(steps) OVER process AS all_steps, sum(requests) OVER process AS all_requests
            FROM ({_USED}) JOIN resources USING (resource_id)
            WINDOW process AS (PARTITION BY coalesce(service_instance_id, resource_id::VARCHAR))
        )
        SELECT r.* FROM added AS a JOIN resources AS r USING (resource_id)
        ORDER BY coalesce(r.role, '') = 'api', a.all_steps DESC, a.all_requests DESC, r.model_config IS NULL,
                 a.requests DESC, a.n DESC, resource_id
        LIMIT 1
        """,
    )
    return found[0] if found else {}


def build_deployment(connection: duckdb.DuckDBPyConnection, physics: Physics) -> Deployment:
    """Return the deployment; ``None`` where nothing recorded it."""
    resource = _described(connection)
    used = one(
        connection,
        """
        SELECT count(*) FILTER (dialect = 'vllm') AS vllm, count(*) FILTER (dialect = 'vtprof') AS vtprof,
               count(*) FILTER (dialect = 'sglang') AS sglang, any_value(sglang_model) AS sglang_model
        FROM spans
        """,
    )
    workers = one(
        connection,
        """
        -- Engines: a server's API process serves nobody itself, and stands for them only where nothing else is known.
        SELECT coalesce(nullif(count(DISTINCT who) FILTER (coalesce(role, '') <> 'api'), 0), count(DISTINCT who)) AS workers
        FROM (SELECT coalesce(r.service_instance_id, s.resource_id::VARCHAR) AS who, r.role
              FROM (SELECT DISTINCT resource_id FROM spans WHERE dialect IS NOT NULL) AS s
              LEFT JOIN resources AS r USING (resource_id))
        """,
    )
    models = rows(
        connection,
        """
        SELECT request_model AS name FROM spans WHERE request_model IS NOT NULL
        GROUP BY request_model ORDER BY count(*) DESC, request_model
        """,
    )
    devices = rows(connection, _DEVICES)
    dialect = max((VTPROF, VLLM, SGLANG), key=lambda name: used[name])
    return Deployment(
        model=models[0]["name"] if models else used["sglang_model"],
        model_type=physics.model_type,
        cost_model=physics.cost_model,
        engine=resource.get("engine_name") or (None if dialect == VTPROF else dialect),
        engine_version=resource.get("engine_version"),
        dialect=dialect,
        device=resource.get("hw_name") or physics.device,
        device_count=devices[0]["whole"] if devices else None,
        weights_dtype=resource.get("weights_dtype"),
        kv_dtype=resource.get("kv_dtype"),
        tensor_parallel=resource.get("parallel_tp"),
        workers=workers["workers"],
        roof=physics.roof,
        roofs=physics.roofs,
        notes=[
            *physics.notes,
            *_coverage(connection),
            *_missing(resource, physics, dialect),
            *(VLLM_NOTES if used["vllm"] else ()),
            *(SGLANG_NOTES if used["sglang"] else ()),
        ],
        no_cost=physics.no_cost,
        no_roof=physics.no_roof,
        models=[row["name"] for row in models],
        devices=[DeviceKind(row["name"], row["count"]) for row in devices if row["name"]],
        pipeline_parallel=resource.get("parallel_pp"),
        data_parallel=resource.get("parallel_dp"),
        expert_parallel=resource.get("parallel_ep"),
        devices_unnamed=sum(row["count"] for row in devices if not row["name"]),
    )


def _coverage(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Say of how many requests the shares speak, where that is not all."""
    row = one(
        connection,
        """
        SELECT count(*) AS requests, count(*) FILTER (visual_tokens IS NOT NULL) AS modality,
               count(*) FILTER (dialect = 'vtprof') AS phases
        FROM request_base
        """,
    )
    notes = []
    if 0 < row["modality"] < row["requests"]:
        few = ": too few for shares of the run" if 2 * row["modality"] < row["requests"] else ""
        notes.append(f"visual tokens are known for {row['modality']:,} of {row['requests']:,} requests{few}")
    if 0 < row["phases"] < row["requests"]:
        notes.append(
            f"preprocess and encode are known for {row['phases']:,} of {row['requests']:,} requests: their shares of TTFT"
            " are lower bounds, the rest is in prefill and unexplained"
        )
    return notes


def _missing(resource: Row, physics: Physics, dialect: str) -> list[str]:
    if dialect != VTPROF:
        return []
    notes = []
    if (
        not resource.get("hw_name")
        and physics.roof is None
        and physics.device is None
        and not physics.no_roof
    ):
        notes.append(
            f"the device is not recorded ({names.HW_NAME}); --device NAME gives the roofline its roof"
        )
    if not resource.get("weights_dtype"):
        notes.append(f"the data type of the weights is not recorded ({names.WEIGHTS_DTYPE})")
    return notes
