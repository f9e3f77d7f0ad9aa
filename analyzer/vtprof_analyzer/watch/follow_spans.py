"""Spans that arrive bit by bit become requests, each once, when its own span and a grace time for the others have come.

Each poll loads its pieces into a database of their own, as `vtprof analyze` does, beside the spans that wait. What waits,
and which requests were handed on of late, lies in files between polls. How many requests ran beside one is not read from
the engine's steps: BASE's cost model takes it from the requests. Clocks of hosts are put right among the requests of a poll.
"""

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Final

import duckdb
import numpy as np

from vtprof_analyzer.ingest.load import create_tables, load
from vtprof_analyzer.ingest.parquet_columns import text
from vtprof_analyzer.ingest.sources import Sources
from vtprof_analyzer.regress.requests import Requests, no_requests
from vtprof_analyzer.report.format import safe
from vtprof_analyzer.runs.trace_requests import run_stages, sifted_requests
from vtprof_analyzer.store import open_store, use_few_threads, work_in_memory
from vtprof_analyzer.versions import leave_newer_out
from vtprof_analyzer.watch.events import KvSample
from vtprof_analyzer.watch.follow_files import Piece, Told
from vtprof_schemas.errors import DataError
from vtprof_schemas.units import NS_PER_S

PATIENCE_S: Final = 1800
"""A request of which nothing came for so long will not be complete any more."""
_MOST_DONE: Final = 300_000
_MOST_WAITING: Final = 2_000_000
"""Spans."""
_DONE_FOR_S: Final = 120
"""How long a request that was handed on is remembered at least, for spans that come twice or late."""
_AHEAD_S: Final = 600
"""A span that ends later than that from now has a wrong clock: time does not go on by it."""
_MOST_NOTES: Final = 20
_MOST_DONE_BYTES: Final = 256 << 20
_MOST_RESOURCES: Final = 10_000
_INCOMPLETE: Final = "request of which spans came, but not its own"
_KV: Final = """
SELECT coalesce(r.service_instance_id, r.host_name, '') AS instance, max(s.end_ns) AS time_ns,
       max(coalesce(s.step_kv_used_tokens_max, s.step_kv_used_tokens))::DOUBLE AS used,
       max(r.kv_capacity_tokens)::DOUBLE AS capacity
FROM arrived AS s LEFT JOIN resources AS r USING (resource_id)
WHERE s.name IN ('vtprof.step', 'vtprof.window') AND s.end_ns IS NOT NULL AND NOT list_contains($again, s.file)
      AND coalesce(s.step_kv_used_tokens_max, s.step_kv_used_tokens) IS NOT NULL
GROUP BY coalesce(r.service_instance_id, r.host_name, ''), s.end_ns // 1_000_000_000
ORDER BY time_ns, instance
"""
"""The most of each second."""


@dataclass(frozen=True)
class Taken:
    """What a poll gave."""

    requests: Requests
    kv: tuple[KvSample, ...] = ()
    longest_ns: int = 0
    """Of the requests, from start to end."""
    held: frozenset[str] = field(default_factory=frozenset)
    """Pieces that have spans which wait."""


class SpanStore:
    """The spans that wait, and the requests that were handed on of late."""

    def __init__(self, folder: Path, grace_s: float) -> None:
        self._waiting = folder / "waiting.parquet"
        self._resources = folder / "resources.parquet"
        self._done = folder / "done.parquet"
        self._grace_ns = int(grace_s * NS_PER_S)
        self.newest_ns = 0
        """Newest end of a span."""
        self._pieces: dict[str, int] = {}
        """Where pieces that are held begin in time."""
        self._held: frozenset[str] = frozenset()

    @property
    def waits(self) -> bool:
        """Say whether any span waits."""
        return bool(self._held)

    def add(
        self, pieces: Sequence[Piece], now_ns: int, told: Told, names: Mapping[str, str], *, last: bool
    ) -> Taken:
        """Take in pieces; return the requests that are complete. ``last``: nothing more comes.

        ``names`` are those of the pieces' files, for notes.
        """
        files = [piece.staged for piece in pieces]
        sizes = {file: file.stat().st_size for file in files}
        with open_store() as connection:
            use_few_threads(connection, sum(sizes.values()))
            create_tables(connection)
            load(connection, Sources(files, 0, sizes=sizes), lambda _: None)
            self._leave_newer_out(connection, told)
            work_in_memory(connection)
            self._note(connection, told, names)
            connection.execute("ALTER VIEW spans RENAME TO arrived")
            self._restore(connection)
            self._advance(connection, now_ns, last=last)
            again = [str(piece.staged) for piece in pieces if piece.again]
            kv = tuple(
                KvSample(int(time_ns), str(instance), used, np.nan if capacity is None else capacity)
                for instance, time_ns, used, capacity in connection.execute(_KV, {"again": again}).fetchall()
            )
            connection.execute(_sql())
            requests, longest_ns = self._requests(connection, told)
            self._keep(connection, told)
        return Taken(requests, kv, longest_ns, self._held)

    def _leave_newer_out(self, connection: duckdb.DuckDBPyConnection, told: Told) -> None:
        try:
            leave_newer_out(connection)
        except DataError as error:
            told.notes.append(str(error))
            connection.execute("ALTER VIEW spans RENAME TO spans_of_newer")
            connection.execute("CREATE VIEW spans AS FROM spans_of_newer WHERE false")

    def _note(self, connection: duckdb.DuckDBPyConnection, told: Told, names: Mapping[str, str]) -> None:
        (counts,) = connection.execute(
            "SELECT coalesce(sum(malformed_lines), 0)::BIGINT, coalesce(sum(truncated_lines), 0)::BIGINT,"
            " coalesce(sum(dropped_spans), 0)::BIGINT, coalesce(sum(dropped_messages), 0)::BIGINT FROM ingest_files"
        ).fetchall()
        reasons = ("unreadable line", "unfinished line", "unusable span", "unreadable message")
        for reason, count in zip(reasons, counts, strict=True):
            told.count(reason, count)
        notes = connection.execute(f"SELECT file, what FROM ingest_notes LIMIT {_MOST_NOTES}").fetchall()
        told.notes += [f"{safe(names.get(file, file))}: {safe(what)}" for file, what in notes]

    def _restore(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Bring back what lies in files."""
        waiting = (
            f"read_parquet({text(str(self._waiting))})" if self._waiting.exists() else "arrived WHERE false"
        )
        connection.execute(f"CREATE VIEW waiting AS FROM {waiting}")
        connection.execute(
            "CREATE TABLE done (trace_id VARCHAR, span_id VARCHAR, dialect VARCHAR, end_ns BIGINT)"
        )
        if self._done.exists():
            connection.execute("INSERT INTO done FROM read_parquet($file)", {"file": str(self._done)})
        if self._resources.exists():
            connection.execute(
                "INSERT INTO resources BY NAME FROM read_parquet($file) ANTI JOIN resources USING (resource_id)",
                {"file": str(self._resources)},
            )

    def _advance(self, connection: duckdb.DuckDBPyConnection, now_ns: int, *, last: bool) -> None:
        """Let time go on to the newest span, and remember when each piece begins."""
        begins = connection.execute(
            "SELECT file, min(start_ns), max(greatest(start_ns, end_ns)) FILTER (greatest(start_ns, end_ns) <= $ahead)"
            " FROM arrived GROUP BY file",
            {"ahead": now_ns + _AHEAD_S * NS_PER_S},
        ).fetchall()
        for file, begin_ns, newest_ns in begins:
            self._pieces[file] = begin_ns
            self.newest_ns = max(self.newest_ns, newest_ns or 0)
        connection.execute(
            "CREATE TABLE now_ns AS"
            " SELECT $newest AS newest_ns, $grace AS grace_ns, $patience AS patience_ns, $last AS last",
            {
                "newest": self.newest_ns,
                "grace": self._grace_ns,
                "patience": PATIENCE_S * NS_PER_S,
                "last": last,
            },
        )

    def _requests(self, connection: duckdb.DuckDBPyConnection, told: Told) -> tuple[Requests, int]:
        """Return the requests that are ready, and how long the longest of them took."""
        counts = dict(
            connection.execute(
                "SELECT fate, count(DISTINCT trace_id) FROM fates WHERE fate IN ('ready', 'alone') GROUP BY fate"
            ).fetchall()
        )
        told.count(_INCOMPLETE, counts.get("alone", 0))
        if not counts.get("ready"):
            return no_requests(), 0
        connection.execute("CREATE VIEW spans AS SELECT * EXCLUDE (fate) FROM fates WHERE fate = 'ready'")
        run_stages(connection)
        sifted = sifted_requests(connection)
        for reason, count in sifted.skipped.items():
            told.count(reason, count)
        ((longest_ns,),) = connection.execute(
            "SELECT coalesce(max(end_ns - arrival_ns), 0)::BIGINT FROM request_base"
        ).fetchall()
        return sifted.requests, longest_ns

    def _keep(self, connection: duckdb.DuckDBPyConnection, told: Told) -> None:
        """Put away what is needed later."""
        _save(
            connection, self._waiting,
            f"SELECT * EXCLUDE (fate) FROM fates WHERE fate = 'waiting' ORDER BY start_ns DESC LIMIT {_MOST_WAITING}",
        )  # fmt: skip
        ((waiting,),) = connection.execute("SELECT count(*) FROM fates WHERE fate = 'waiting'").fetchall()
        told.count("span left out: too many wait for their requests", max(0, waiting - _MOST_WAITING))
        held = connection.execute("SELECT DISTINCT file FROM fates WHERE fate = 'waiting'").fetchall()
        self._held = frozenset(file for (file,) in held)
        self._pieces = {file: begin for file, begin in self._pieces.items() if file in self._held}
        # What is read again after a restart begins there: requests of then are not to come twice.
        oldest_ns = min([self.newest_ns - _DONE_FOR_S * NS_PER_S, *self._pieces.values()])
        _save(
            connection, self._done,
            f"""
            SELECT * FROM (
                FROM done UNION ALL
                SELECT DISTINCT trace_id, span_id, dialect, coalesce(end_ns, start_ns) FROM fates
                WHERE fate = 'ready'
                      AND (name = 'vtprof.request' OR dialect = 'vllm' OR dialect = 'sglang' AND sglang_rid IS NOT NULL)
            ) WHERE end_ns >= {oldest_ns} ORDER BY end_ns DESC LIMIT {_MOST_DONE}
            """,
        )  # fmt: skip
        _save(connection, self._resources, f"FROM resources LIMIT {_MOST_RESOURCES}")

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs, as plain JSON: spans are read again, requests that were handed on are known by id."""
        rows: list[tuple[str, str, str, int]] = []
        if self._done.exists():
            with duckdb.connect() as connection:
                rows = connection.execute("FROM read_parquet($file)", {"file": str(self._done)}).fetchall()
        packed = zlib.compress(json.dumps(rows, separators=(",", ":")).encode(), 1)
        return {"newest_ns": self.newest_ns, "done": base64.b64encode(packed).decode("ascii")}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`. Raises ValueError, KeyError or TypeError where it is none."""
        self.newest_ns = int(state["newest_ns"])
        inflate = zlib.decompressobj()
        try:
            data = inflate.decompress(base64.b64decode(state["done"], validate=True), _MOST_DONE_BYTES)
            rows = [(str(one[0]), str(one[1]), str(one[2]), int(one[3])) for one in json.loads(data)]
        except (zlib.error, IndexError) as error:
            raise ValueError(f"requests that were handed on: {error}") from error
        with duckdb.connect() as connection:
            connection.execute(
                "CREATE TABLE done (trace_id VARCHAR, span_id VARCHAR, dialect VARCHAR, end_ns BIGINT)"
            )
            columns = [list(column) for column in zip(*rows, strict=True)] or [[], [], [], []]
            connection.execute(
                "INSERT INTO done SELECT unnest($1::VARCHAR[]), unnest($2::VARCHAR[]), unnest($3::VARCHAR[]),"
                " unnest($4::BIGINT[])",
                columns,
            )
            _save(connection, self._done, "FROM done")


def _save(connection: duckdb.DuckDBPyConnection, file: Path, query: str) -> None:
    """Put the rows of a query in a file's place; they may come from it."""
    new = file.with_suffix(".new")
    connection.execute(f"COPY ({query}) TO {text(str(new))} (FORMAT parquet, COMPRESSION lz4)")
    new.replace(file)


def _sql() -> str:
    return resources.files("vtprof_analyzer.watch").joinpath("follow_spans.sql").read_text("utf-8")
