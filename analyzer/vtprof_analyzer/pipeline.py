"""Run the stages in order: SQL files from ``stages/``, and one in Python where the cost model is called.

Tables in, one table out, each; parameters are tables too (``settings``, ``visual_strata``).
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib import resources
from typing import Final

import duckdb

from vtprof_analyzer.store import with_room
from vtprof_analyzer.verdict import Thresholds
from vtprof_schemas import names

_LARGEST = 2**63 - 1
PARAMETERS: Final = """
-- One row: every parameter that a stage reads; NULL where the user gave none.
CREATE TABLE settings (
    {columns}
);

-- One row: one resource whose model's config is known, where processes differ in model; else `settings` has it for all.
CREATE TABLE resource_kv (
    resource_id UBIGINT,            -- row of `resources`
    token_bytes DOUBLE,             -- KV bytes of one token, derived from the config [B/token]
    fixed_bytes DOUBLE,             -- likewise, of one sequence [B]
    context_tokens BIGINT           -- the longest sequence that the config allows; NULL where it does not say
);

-- One row: one stratum of requests by their visual tokens.
CREATE TABLE visual_strata (
    label VARCHAR,                  -- as in `requests.visual_stratum`
    upper_tokens BIGINT,            -- the most visual tokens of it
    position BIGINT                 -- its place, from 0 on
);
"""


@dataclass(frozen=True)
class Settings:
    """The one-row table ``settings``: every parameter that a stage reads."""

    kv_bytes_per_token: float | None = None
    """Derived from the model's config; used where the probe recorded none [B/token]."""
    kv_fixed_bytes: float | None = None
    """Likewise, per sequence [B]."""
    context_tokens: int | None = None
    """The longest sequence that the model's config allows; used where the engine's own limit is not recorded."""
    resource_kv: Mapping[int, tuple[float, float, int | None]] = field(default_factory=dict)
    """These three by resource, where processes differ in model: a table of its own, `resource_kv`."""
    prompt_tokens_threshold: float = 0.5
    """Visual tokens dominate a share from its threshold on: half of the whole, for most of them."""
    kv_token_seconds_threshold: float = 0.5
    """Of what requests hold in the KV cache, by time."""
    prefill_flops_threshold: float = 0.5
    """Of the work of prefill."""
    decode_bytes_threshold: float = 0.2
    """Lower than the others: at a fifth of all bytes read, visual KV is what a shorter cache would save first."""
    ttft_threshold: float = 0.5
    """Of TTFT, what it would lose without visual tokens."""
    tpot_threshold: float = 0.2
    """Of TPOT likewise: as low as for decode_bytes, of which it is the consequence."""
    context_window_threshold: float = 0.25
    """Of the context window: a conversation keeps its images, so that four turns of a quarter fill it."""
    preemptions_threshold: float = 0.5
    """Of what preempted requests held."""
    clock_slack_ns: int = 1_000_000
    """What clocks drift, and agents round, in a run: less than that is neither an offset nor a fault."""
    trust_weak_ratio: float = 0.05
    """Part of an area's data that must be spoilt before the area counts as weak."""
    trust_refused_ratio: float = 0.5
    """The same, before nothing is said of it."""
    slo_ttft_ms: float | None = None
    """Objective for time to first token [ms]; None where the user gave none."""
    slo_tpot_ms: float | None = None
    """Likewise for time per output token."""
    usd_per_node_hour: float | None = None
    """Price of one node; None where the user gave none."""
    nodes: int | None = None
    """Nodes that are paid; None: as many as the spans name."""
    scaling_time_ratio: float = 0.05
    """Part of the time for which a number of nodes must have held to be compared with others."""
    limits: Thresholds = field(default_factory=Thresholds)
    """Of verdicts: columns `verdict_...`."""
    kv_full_threshold: float = 0.98
    """From this part of the KV cache on nothing more is admitted that waits: block rounding takes the rest."""
    slow_times_normal: float = 2.0
    """A request is slow from this many times the median of its like."""
    slow_requests: int = 20
    """The most of them that are explained."""
    kv_points: int = 300
    """Points of the KV picture."""
    roof_columns: int = 96
    """Cells of the roofline picture, along intensity."""
    roof_rows: int = 64
    """The same, along the rate."""


Stage = Callable[[duckdb.DuckDBPyConnection], None]


def stage_names() -> list[str]:
    """Return the SQL stages in the order in which they run."""
    folder = resources.files("vtprof_analyzer.stages")
    return sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))


def run_sql_stage(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    """Run one SQL stage by its file name, whole or, where it fails, not at all."""
    text = resources.files("vtprof_analyzer.stages").joinpath(name).read_text("utf-8")
    with_room(connection, lambda: connection.execute(text))


def create_parameters(connection: duckdb.DuckDBPyConnection, settings: Settings) -> None:
    """Create the parameter tables ``settings``, ``resource_kv`` and ``visual_strata``."""
    values = asdict(settings)
    values |= {f"verdict_{name}": value for name, value in values.pop("limits").items()}
    resource_kv = values.pop("resource_kv")
    integers = {
        "slow_requests",
        "clock_slack_ns",
        "nodes",
        "context_tokens",
        "kv_points",
        "roof_columns",
        "roof_rows",
    }
    columns = ", ".join(f"{name} {'BIGINT' if name in integers else 'DOUBLE'}" for name in values)
    connection.execute(PARAMETERS.format(columns=columns))
    for resource_id, sizes in resource_kv.items():
        connection.execute("INSERT INTO resource_kv VALUES (?, ?, ?, ?)", [resource_id, *sizes])
    connection.execute(
        f"INSERT INTO settings VALUES ({', '.join('?' for _ in values)})", list(values.values())
    )
    strata = [*names.VISUAL_STRATA, (names.VISUAL_STRATUM_MORE, _LARGEST)]
    for position, (label, upper) in enumerate(strata):
        connection.execute("INSERT INTO visual_strata VALUES (?, ?, ?)", [label, upper, position])


def run(connection: duckdb.DuckDBPyConnection, settings: Settings, python_stages: dict[str, Stage]) -> None:
    """Run every stage over the base tables; ``python_stages`` are keyed like files, by number and name."""
    create_parameters(connection, settings)
    for name in sorted([*stage_names(), *python_stages]):
        if name in python_stages:
            python_stages[name](connection)
        else:
            run_sql_stage(connection, name)
