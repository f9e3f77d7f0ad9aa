"""Run the stages in order: SQL files from ``stages/``, and one in Python where the cost model is called.

Tables in, one table out, each; parameters are tables too (``settings``, ``visual_strata``).
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib import resources

import duckdb

from vtprof_schemas import names

_LARGEST = 2**63 - 1


@dataclass(frozen=True)
class Settings:
    """The one-row table ``settings``: every parameter that a stage reads."""

    kv_bytes_per_token: float | None = None
    """Derived from the model's config; used where the probe recorded none [B/token]."""
    kv_fixed_bytes: float | None = None
    """Likewise, per sequence [B]."""
    resource_kv: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    """Both by resource, where processes differ in model: a table of its own, `resource_kv`."""
    prompt_tokens_threshold: float = 0.5
    """Visual tokens dominate a share from its threshold on: half of the whole, for three of the four."""
    kv_token_seconds_threshold: float = 0.5
    prefill_flops_threshold: float = 0.5
    decode_bytes_threshold: float = 0.2
    """Lower than the others: at a fifth of all bytes read, visual KV is what a shorter cache would save first."""
    kv_points: int = 300
    """Points of the KV picture."""
    roof_columns: int = 96
    """Cells of the roofline picture, along intensity."""
    roof_rows: int = 64


Stage = Callable[[duckdb.DuckDBPyConnection], None]


def stage_names() -> list[str]:
    """Return the SQL stages in the order in which they run."""
    folder = resources.files("vtprof_analyzer.stages")
    return sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))


def run_sql_stage(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    """Run one SQL stage by its file name."""
    connection.execute(resources.files("vtprof_analyzer.stages").joinpath(name).read_text("utf-8"))


def create_parameters(connection: duckdb.DuckDBPyConnection, settings: Settings) -> None:
    """Create the parameter tables ``settings``, ``resource_kv`` and ``visual_strata``."""
    values = asdict(settings)
    connection.execute(
        "CREATE TABLE resource_kv (resource_id UBIGINT, token_bytes DOUBLE, fixed_bytes DOUBLE)"
    )
    for resource_id, (token_bytes, fixed_bytes) in values.pop("resource_kv").items():
        connection.execute(
            "INSERT INTO resource_kv VALUES (?, ?, ?)", [resource_id, token_bytes, fixed_bytes]
        )
    integers = {"kv_points", "roof_columns", "roof_rows"}
    columns = ", ".join(f"{name} {'BIGINT' if name in integers else 'DOUBLE'}" for name in values)
    connection.execute(f"CREATE TABLE settings ({columns})")
    connection.execute(
        f"INSERT INTO settings VALUES ({', '.join('?' for _ in values)})", list(values.values())
    )
    connection.execute("CREATE TABLE visual_strata (label VARCHAR, upper_tokens BIGINT, position BIGINT)")
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
