"""What tells one input of the analyzer from another: which files, in which state, read by which reader."""

import hashlib
import os
import time
import zlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Final

import duckdb

from vtprof_analyzer.ingest.prepare import shown_name
from vtprof_analyzer.ingest.sources import Sources

MIN_BYTES: Final = 16 << 20
"""Smaller input is read again as fast."""
RACY_NS: Final = 2_000_000_000
"""A file changed so shortly before it was looked at may change again within the same tick of its clock."""
_CHUNK_BYTES: Final = 1 << 20
_BLOCK_BYTES: Final = 64 << 10
_BLOCKS: Final = 64


@dataclass(frozen=True)
class Stamp:
    """What tells one state of an input file from another without reading it."""

    place: str
    """Relative to the folder that holds the cache."""
    size: int
    mtime_ns: int
    ctime_ns: int
    """Nobody can set this one."""
    inode: int

    def is_old(self, listed_ns: int) -> bool:
        """Say whether a change after ``listed_ns`` would show."""
        return max(self.mtime_ns, self.ctime_ns) < listed_ns - RACY_NS


@dataclass(frozen=True)
class Key:
    """The input of one analysis, as it was listed."""

    folder: Path
    paths: tuple[Path, ...]
    shown: tuple[str, ...]
    """As the tables name the files."""
    stamps: tuple[Stamp, ...]
    faults: tuple[tuple[str, str], ...]
    listed_ns: int

    @property
    def name(self) -> str:
        """Return the begin of an entry's name: the same for the same set of files."""
        return hashlib.sha256("\0".join(stamp.place for stamp in self.stamps).encode()).hexdigest()[:16]

    def unchanged(self) -> bool:
        """Say whether the files still are as they were listed."""
        with suppress(OSError):
            return tuple(_stamp(path, self.folder) for path in self.paths) == self.stamps
        return False


def key_of(sources: Sources, given: Iterable[Path]) -> Key | None:
    """Return the key of an input; None where there is no place beside it, or where a cache would save nothing.

    The place is the folder that all files are under: one that the user named, one below it, or that of named files.
    """
    if sum(sources.sizes.values()) < MIN_BYTES:
        return None
    listed_ns = time.time_ns()
    try:
        paths = tuple(path.resolve() for path in sources.files)
        folder = Path(os.path.commonpath([path.parent for path in paths]))
        below = any(folder.is_relative_to(path.resolve()) for path in given)
        if not below and any(path.parent != folder for path in paths):
            return None
        stamps = tuple(_stamp(path, folder) for path in paths)
    except (OSError, ValueError):
        return None
    faults = tuple((os.path.relpath(shown_name(path), folder), what) for path, what in sources.faults)
    return Key(folder, paths, tuple(map(shown_name, sources.files)), stamps, faults, listed_ns)


def _stamp(path: Path, folder: Path) -> Stamp:
    status = path.stat()
    place = shown_name(path.relative_to(folder))
    return Stamp(place, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def digest_of(path: Path) -> str:
    """Return a checksum of a file: CRC-32 of all of it, and SHA-256 of its begin, its end and blocks between.

    A cryptographic one of all would cost several times what the cache may. Raises OSError.
    """
    checksum, blocks = 0, hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    with path.open("rb", buffering=0) as stream:
        every = max(1, os.fstat(stream.fileno()).st_size // _CHUNK_BYTES // _BLOCKS)
        number, chunk = 0, buffer[:0]
        while read := stream.readinto(buffer):
            chunk = buffer[:read]
            checksum = zlib.crc32(chunk, checksum)
            if number % every == 0:
                blocks.update(chunk[:_BLOCK_BYTES])
            number += 1
        blocks.update(chunk[-_BLOCK_BYTES:])
    return f"{checksum:08x}-{blocks.hexdigest()}"


@cache
def reader_version() -> str:
    """Return what changes whenever the tables would be another's: a digest of the readers' own code and vocabulary."""
    digest = hashlib.sha256(duckdb.__version__.encode())
    places = [
        *resources.files("vtprof_analyzer.ingest").iterdir(),
        *resources.files("vtprof_schemas").iterdir(),
    ]
    for place in sorted(places, key=lambda place: place.name):
        if place.name.endswith((".py", ".sql")):
            digest.update(place.name.encode() + b"\0" + place.read_bytes())
    return digest.hexdigest()
