"""Stage `interference`: reads `interference_cells` and `interference_requests`, estimates, and creates the table."""

from itertools import pairwise
from typing import Any, Final

import duckdb
import numpy as np

from vtprof_analyzer.interference import BLOCKS, Estimate, Floats, Integers, Requests, Steps, estimate

STAGE: Final = "91_interference.py"
"""Its place among the SQL stages."""

TABLE: Final = """
-- One row: what image work cost text-only requests in the steps that they shared, of one of their times.
CREATE TABLE interference (
    what VARCHAR,                   -- ttft_ms or tpot_ms
    requests BIGINT,                -- text-only requests that have it
    effect DOUBLE,                  -- added to it, mean over them [ms]; NULL where it cannot be told
    low DOUBLE,                     -- ends of the 95 % interval [ms]
    high DOUBLE,                    -- the upper one
    share DOUBLE,                   -- effect over the mean of the time
    method VARCHAR,                 -- matched_steps or request_regression
    n_matched BIGINT,               -- steps with image work that have like steps without; regression: requests
    matched_share DOUBLE,           -- of the time that text requests spent in steps with image work, in such steps
    regression_effect DOUBLE,       -- the second opinion, always by regression [ms]
    regression_low DOUBLE,          -- ends of its 95 % interval [ms]
    regression_high DOUBLE,         -- the upper one
    agrees BOOLEAN,                 -- whether the intervals meet; where not, low and high hold both
    why_not VARCHAR                 -- why there is no effect
)
"""
_COVARIATES: Final = ("d", "c", "t")
_REGRESSORS: Final = ("x1", "x2", "x3", "x4", "x5", "x6")
Columns = dict[str, Any]


def fill_table(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the table and its two rows."""
    connection.execute(TABLE)
    for what in ("ttft_ms", "tpot_ms"):
        found = estimate(read_steps(connection, what), read_requests(connection, what))
        connection.execute(f"INSERT INTO interference VALUES ({', '.join('?' * 14)})", _row(what, found))


def read_steps(connection: duckdb.DuckDBPyConnection, what: str) -> list[Steps]:
    """Return the steps of each process that text requests waited for."""
    found = _columns(
        connection,
        "SELECT *, dense_rank() OVER (ORDER BY instance) - 1 AS process,"
        " dense_rank() OVER (PARTITION BY instance ORDER BY mixed, d_bin, c_bin, t_bin) - 1 AS cell"
        " FROM interference_cells WHERE what IS NULL OR what = $what"
        " ORDER BY instance, block, what, mixed, d_bin, c_bin, t_bin",
        {"what": what},
    )
    return [_steps(rows) for rows in _by_process(found)]


def read_requests(connection: duckdb.DuckDBPyConnection, what: str) -> list[Requests]:
    """Return the text requests of each process that have the time."""
    found = _columns(
        connection,
        "SELECT *, dense_rank() OVER (ORDER BY instance) - 1 AS process FROM interference_requests"
        " WHERE what = $what ORDER BY instance, block",
        {"what": what},
    )
    return [_requests(rows) for rows in _by_process(found)]


def _columns(connection: duckdb.DuckDBPyConnection, query: str, parameters: Columns) -> Columns:
    found = connection.execute(query, parameters).fetchnumpy()
    return {name: _plain(column) for name, column in found.items()}


def _by_process(found: Columns) -> list[Columns]:
    """Cut rows, which stand in order of their process, into those of each."""
    process = found["process"]
    bounds = np.flatnonzero(np.diff(process, prepend=np.nan, append=np.nan))
    return [{name: column[start:end] for name, column in found.items()} for start, end in pairwise(bounds)]


def _plain(column: Any) -> Any:
    """Return a column without its mask: NULL text is empty, a NULL number is NaN."""
    if column.dtype == object:
        return np.ma.filled(column, "")
    return np.ma.filled(column.astype(np.float64), np.nan)


def _steps(rows: Columns) -> Steps:
    block, cell = rows["block"].astype(np.int64), rows["cell"].astype(np.int64)
    cells = int(cell.max()) + 1
    control = rows["what"] == ""
    alone = ~control & np.isnan(rows["d_bin"])
    exposed = ~control & ~alone
    mixed = np.zeros(cells, np.int64)
    mixed[cell] = rows["mixed"].astype(np.int64)

    def summed(name: str, of: Any) -> Floats:
        return _by(block[of], cell[of], rows[name][of], cells)

    def covariates(of: Any) -> Floats:
        return np.stack([summed(name, of) for name in _COVARIATES], axis=-1)

    return Steps(
        instance=str(rows["instance"][0]),
        mixed=mixed,
        n=summed("n", control),
        y=summed("y", control),
        yy=summed("yy", control),
        x=covariates(control),
        xx=_products(rows, block, mixed[cell], control),
        xy=_with_time(rows, block, mixed[cell], control),
        steps=summed("steps", exposed),
        weight=summed("n", exposed),
        wy=summed("y", exposed),
        wx=covariates(exposed),
        ww=summed("nn", exposed),
        alone=_by_block(block, rows["y"], alone),
        alone_steps=_by_block(block, rows["steps"], alone),
    )


def _by(first: Integers, second: Integers, values: Floats, size: int) -> Floats:
    """Return the sums of values by two keys."""
    found = np.bincount(first * size + second, values, BLOCKS * size)
    return found.astype(np.float64).reshape(BLOCKS, size)


def _by_block(block: Integers, values: Floats, of: Any = slice(None)) -> Floats:
    return np.bincount(block[of], values[of], BLOCKS).astype(np.float64)


def _products(rows: Columns, block: Integers, kind: Integers, of: Any) -> Floats:
    found = np.empty((BLOCKS, 2, 3, 3))
    for i, one in enumerate(_COVARIATES):
        for j, other in enumerate(_COVARIATES[i:], start=i):
            found[:, :, i, j] = found[:, :, j, i] = _by(block[of], kind[of], rows[one + other][of], 2)
    return found


def _with_time(rows: Columns, block: Integers, kind: Integers, of: Any) -> Floats:
    return np.stack([_by(block[of], kind[of], rows[name + "y"][of], 2) for name in _COVARIATES], axis=-1)


def _requests(rows: Columns) -> Requests:
    block = rows["block"].astype(np.int64)

    def by_block(name: str) -> Floats:
        return _by_block(block, rows[name])

    xx = np.empty((BLOCKS, 6, 6))
    for i in range(6):
        for j in range(i, 6):
            xx[:, i, j] = xx[:, j, i] = by_block(f"x{i + 1}{j + 1}")
    return Requests(
        instance=str(rows["instance"][0]), requests=by_block("requests"), time_ns=by_block("time_ns"),
        known_ns=by_block("known_ns"), weight=by_block("weight"), value_ms=by_block("value_ms"),
        x=np.stack([by_block(name) for name in _REGRESSORS], axis=-1), xx=xx,
        xy=np.stack([by_block(name + "y") for name in _REGRESSORS], axis=-1),
    )  # fmt: skip


def _row(what: str, found: Estimate) -> list[Any]:
    whole, second = found.interval, found.regression
    return [
        what, found.requests,
        *((whole.effect, whole.low, whole.high) if whole else (None, None, None)),
        found.share, found.method, found.n_matched, found.matched_share,
        *((second.effect, second.low, second.high) if second else (None, None, None)),
        found.agrees, found.why_not,
    ]  # fmt: skip
