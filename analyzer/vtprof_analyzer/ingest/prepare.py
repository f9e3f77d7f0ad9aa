"""Make a trace file ready for the readers: unpacked, under a name they take as it is, a cut-off last line set apart."""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Final

from vtprof_analyzer.ingest.lines import detect_packing, unpack
from vtprof_analyzer.ingest.scan import Scan, scan

_CHUNK_BYTES: Final = 4 << 20
_ODD_NAME: Final = re.compile(r"[*?\[\\]|://|[\ud800-\udfff]|\.(gz|zst)$", re.IGNORECASE)
"""Names that DuckDB takes for wildcards, addresses or packed data, and those that are not UTF-8."""


@dataclass(frozen=True)
class TraceFile:
    """One input: the path as given, and the plain file to read in its place."""

    path: Path
    name: str
    """How the tables and the report name it."""
    size: int
    plain: Path
    scan: Scan
    tail: Path | None = None
    """The last line, where it alone is not clean; ``plain`` is then what stands before it."""
    fault: str | None = None
    """Why unpacking stopped early."""
    workplace: Path | None = None

    @property
    def plain_bytes(self) -> int:
        """Return how many bytes there are to parse."""
        return self.plain.stat().st_size

    def clean_up(self) -> None:
        """Remove what was made for this file."""
        if self.workplace:
            shutil.rmtree(self.workplace, ignore_errors=True)


def shown_name(path: Path) -> str:
    """Return a path as text that can be stored and printed; bytes that are no UTF-8 are spelled out."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def prepare(path: Path, folder: Path) -> TraceFile:
    """Return a file ready to be read; what has to be made for that is made under ``folder``. Raises OSError."""
    size = path.stat().st_size
    packing = detect_packing(path)
    plain = path
    workplace = None
    if packing.name != "plain" or _ODD_NAME.search(os.fspath(path)):
        workplace = Path(tempfile.mkdtemp(dir=folder))
        plain = workplace / "plain.jsonl"
        if packing.name == "plain":
            plain.symlink_to(path.absolute())
        else:
            with plain.open("wb") as out:
                unpack(path, packing, out)
    file = TraceFile(
        path, shown_name(path), size, plain, scan(plain), fault=packing.fault, workplace=workplace
    )
    if file.scan.tail_at is None:
        return file
    try:
        return _cut(file, file.scan.tail_at, folder)
    except OSError:
        # No room for a copy without the tail: the careful reader takes the file as it is.
        return replace(file, scan=replace(file.scan, clean=False))


def _cut(file: TraceFile, position: int, folder: Path) -> TraceFile:
    workplace = file.workplace or Path(tempfile.mkdtemp(dir=folder))
    head, tail = workplace / "head.jsonl", workplace / "tail.jsonl"
    with file.plain.open("rb") as stream:
        for target, length in ((head, position), (tail, None)):
            with target.open("wb") as out:
                for chunk in _chunks(stream, length):
                    out.write(chunk)
    if file.plain.parent == workplace:
        file.plain.unlink()
    return replace(file, plain=head, tail=tail, workplace=workplace)


def _chunks(stream: BinaryIO, length: int | None) -> Iterator[bytes]:
    left = length
    while chunk := stream.read(_CHUNK_BYTES if left is None else min(_CHUNK_BYTES, left)):
        yield chunk
        left = None if left is None else left - len(chunk)
