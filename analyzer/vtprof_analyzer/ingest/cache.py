"""Keep what was read of a run beside it, as Parquet in a folder ``.vtprof-cache``, and take it from there next time.

Layout, one folder an entry, made under another name and renamed when it is whole::

    .vtprof-cache/<key>-<token>/manifest.json     of which files, by which reader, with which digests
                                spans.parquet     and the other base tables

An entry is used when the same files have the same content for the same reader: a file's content is believed unchanged
while size, times and inode are those of the manifest, and is compared by checksum otherwise. An entry that is
stale, partial or damaged, or of another version, is no entry. Entries are opened before they are checked and read
through these handles, so that another analyzer may replace them at any time.
"""

import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import duckdb

from vtprof_analyzer.ingest.cache_key import Key, Stamp, digest_of, reader_version
from vtprof_analyzer.ingest.sources import CACHE_FOLDER
from vtprof_analyzer.interrupts import is_interrupt

KEPT_ENTRIES: Final = 3
VIEWS: Final = ("spans", "metric_samples")
"""Tables that are read from the cache's files; the others are small and are copied."""
_COPIED: Final = ("resources", "ingest_files", "ingest_notes", "ingest_counts")
_IDS: Final = ("trace_id", "span_id", "parent_span_id")
_PARQUET: Final = (
    # Bit-packed integers and half of an id's digits: 4.8 % of the JSON. A dictionary of what never repeats is waste.
    "FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1, PARQUET_VERSION v2, DICTIONARY_SIZE_LIMIT 1000"
)
_MANIFEST: Final = "manifest.json"
_MAX_MANIFEST_BYTES: Final = 64 << 20
_UNDER_WAY: Final = "tmp-"
_ABANDONED_S: Final = 86_400
_TAG: Final = (
    "Signature: 8a477f597d28d172789f06886806bc55\n# Made by vtprof analyze; may be removed at any time.\n"
)


@contextmanager
def through_cache(
    connection: duckdb.DuckDBPyConnection, key: Key | None, read: Callable[[], None], *, copy: bool = False
) -> Iterator[bool]:
    """Fill the empty base tables from the cache, or by ``read`` and for the cache; yield whether it was a hit.

    What comes from the cache is read from its files within the context, unless ``copy`` asks for tables.
    """
    with ExitStack() as held:
        found = _find(key, held) if key else None
        was_hit = found is not None and key is not None and _attach(connection, found, key, copy=copy)
        if not was_hit:
            read()
            if key:
                _write(connection, key)
        yield was_hit


@dataclass(frozen=True)
class _Entry:
    """A whole and fitting entry, open."""

    files: Mapping[str, str]
    """Path of an open handle, by table."""
    shown: tuple[str, ...]
    """As its tables name the files."""


def _find(key: Key, held: ExitStack) -> _Entry | None:
    """Return an entry of the same content, kept open by ``held``."""
    digests: dict[str, str] = {}
    try:
        entries = sorted((key.folder / CACHE_FOLDER).glob(f"{key.name}-*"))
    except OSError:
        return None
    for entry in entries:
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            with (entry / _MANIFEST).open("rb") as stream:
                manifest = json.loads(stream.read(_MAX_MANIFEST_BYTES))
            if _fits(manifest, key, digests) and (files := _open(entry, manifest["tables"], held)):
                _add_digests(entry, manifest, key)
                return _Entry(files, tuple(manifest["shown"]))
    return None


def _fits(manifest: Any, key: Key, digests: dict[str, str]) -> bool:
    """Say whether an entry was made of the same content; what has to be read for that is remembered."""
    if manifest["reader"] != reader_version() or manifest["faults"] != [list(fault) for fault in key.faults]:
        return False
    then = [Stamp(**stamp) for stamp in manifest["stamps"]]
    if [(s.place, s.size) for s in then] != [(s.place, s.size) for s in key.stamps]:
        return False
    return all(
        (before == now and before.is_old(manifest["listed_ns"]))
        or (digest is not None and _digest_once(path, digests) == digest)
        for before, now, digest, path in zip(then, key.stamps, manifest["digests"], key.paths, strict=True)
    )


def _digest_once(path: Path, digests: dict[str, str]) -> str:
    place = os.fspath(path)
    if place not in digests:
        digests[place] = digest_of(path)
    return digests[place]


def _add_digests(entry: Path, manifest: Any, key: Key) -> None:
    """Complete a manifest with the checksums that its making left for later, as these cost a reading of all files."""
    if None not in manifest["digests"] or not os.access(entry, os.W_OK):
        return
    with suppress(OSError):
        pairs = zip(manifest["digests"], key.paths, strict=True)
        manifest["digests"] = [digest or digest_of(path) for digest, path in pairs]
        if key.unchanged():
            beside = entry / f"{secrets.token_hex(4)}.json"
            beside.write_text(json.dumps(manifest))
            beside.replace(entry / _MANIFEST)


def _open(entry: Path, tables: Mapping[str, str], held: ExitStack) -> dict[str, str] | None:
    """Return handles of an entry's files, by table; None when one is not what was written."""
    if set(tables) != {*VIEWS, *_COPIED}:
        return None
    handles = {}
    for table, expected in tables.items():
        path = entry / f"{table}.parquet"
        stream = held.enter_context(path.open("rb"))
        if hashlib.file_digest(stream, "sha256").hexdigest() != expected:
            return None
        handle = f"/proc/self/fd/{stream.fileno()}"
        # Through the handle the file can be read even when another analyzer has removed it.
        handles[table] = handle if Path(handle).exists() else str(path)
    return handles


def _attach(connection: duckdb.DuckDBPyConnection, entry: _Entry, key: Key, *, copy: bool) -> bool:
    """Replace base tables by views of an entry's files, and copy the small ones; False, and nothing, if that fails."""
    connection.begin()
    try:
        renamed = {old: new for old, new in zip(entry.shown, key.shown, strict=True) if old != new}
        for table, path in entry.files.items():
            rows = _rows_of(connection, table, path, renamed)
            if table in _COPIED or copy:
                connection.execute(f"INSERT INTO {table} {rows}")
            else:
                connection.execute(f"DROP TABLE {table}")
                connection.execute(f"CREATE VIEW {table} AS {rows}")
        connection.execute("UPDATE ingest_counts SET cached = true")
        connection.commit()
    except (duckdb.Error, ValueError):
        with suppress(duckdb.Error):
            connection.rollback()
        return False
    return True


def _rows_of(connection: duckdb.DuckDBPyConnection, table: str, path: str, renamed: Mapping[str, str]) -> str:
    """Return the query of a table's rows in an entry's file."""
    source = f"read_parquet({_text(path)})"
    there = _types(connection, f"DESCRIBE SELECT * FROM {source}")
    files = ", ".join(f"{_text(old)}: {_text(new)}" for old, new in renamed.items())
    picked = []
    for column, type_ in _types(connection, f"DESCRIBE {table}").items():
        if column not in there:
            picked.append(f"NULL::{type_} AS {column}")
        elif column in _IDS and there[column] == "BLOB":
            picked.append(f"lower(hex({column})) AS {column}")
        elif column == "file" and renamed:
            picked.append(f"coalesce(MAP {{{files}}}[file], file) AS file")
        else:
            picked.append(column)
    return f"SELECT {', '.join(picked)} FROM {source}"


def _types(connection: duckdb.DuckDBPyConnection, query: str) -> dict[str, str]:
    return {name: type_ for name, type_, *_ in connection.execute(query).fetchall()}


def _write(connection: duckdb.DuckDBPyConnection, key: Key) -> None:
    """Write an entry, if the files still are what was read, and remove older ones. Nothing is said where that fails."""
    parent = key.folder / CACHE_FOLDER
    token = secrets.token_hex(4)
    made = parent / f"{_UNDER_WAY}{token}"
    try:
        olds = [stamp.is_old(key.listed_ns) for stamp in key.stamps]
        digests = [None if old else digest_of(path) for old, path in zip(olds, key.paths, strict=True)]
        if not key.unchanged():
            return
        made.mkdir(parents=True)
        (parent / "CACHEDIR.TAG").write_text(_TAG)
        tables = {table: _write_table(connection, table, made) for table in (*VIEWS, *_COPIED)}
        manifest = {
            "reader": reader_version(),
            "listed_ns": key.listed_ns,
            "shown": key.shown,
            "stamps": [asdict(stamp) for stamp in key.stamps],
            "digests": digests,
            "faults": key.faults,
            "tables": tables,
        }
        (made / _MANIFEST).write_text(json.dumps(manifest))
        entry = made.rename(parent / f"{key.name}-{token}")
        _remove_others(parent, entry)
    except BaseException as error:
        shutil.rmtree(made, ignore_errors=True)
        with suppress(OSError):
            parent.rmdir()
        # No room, or no permission: the analysis goes on without.
        if is_interrupt(error) or not isinstance(error, OSError | ValueError | duckdb.Error):
            raise


def _write_table(connection: duckdb.DuckDBPyConnection, table: str, folder: Path) -> str:
    """Write the columns of a table that have any value, and return the file's digest."""
    columns = list(_types(connection, f"DESCRIBE {table}"))
    counted = ", ".join(f"count({column})" for column in columns)
    (counts,) = connection.execute(f"SELECT {counted} FROM {table}").fetchall()
    picked = [
        f"unhex({column}) AS {column}" if column in _IDS else column
        for column, values in zip(columns, counts, strict=True)
        if values
    ]
    path = folder / f"{table}.parquet"
    rows = f"SELECT {', '.join(picked or columns)} FROM {table}"
    connection.execute(f"COPY ({rows}) TO {_text(str(path))} ({_PARQUET})")
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _remove_others(parent: Path, entry: Path) -> None:
    """Remove older entries of the same files, those past a bound, and what died half-made."""
    set_of_files = entry.name.rpartition("-")[0]
    others = [path for path in parent.iterdir() if path.is_dir() and path != entry]
    kept = 1
    for path in sorted(others, key=lambda path: path.stat().st_mtime, reverse=True):
        if path.name.startswith(_UNDER_WAY):
            gone = time.time() - path.stat().st_mtime > _ABANDONED_S
        else:
            gone = path.name.rpartition("-")[0] == set_of_files or kept >= KEPT_ENTRIES
            kept += not gone
        if gone:
            shutil.rmtree(path, ignore_errors=True)


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
