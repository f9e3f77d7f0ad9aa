"""Make a trace file ready for the readers: unpacked, as JSON lines or Parquet, under a name that they take as it is.

Protobuf is written again as JSON lines. A last line that is cut off is set apart, and so is what a writer added since
the files were listed.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Final

from vtprof_analyzer.ingest.formats import Format, detect
from vtprof_analyzer.ingest.framing import MessageCounts
from vtprof_analyzer.ingest.lines import Packing, detect_packing, limit_of, unpack
from vtprof_analyzer.ingest.scan import Scan, scan

_CHUNK_BYTES: Final = 4 << 20
_FRAMES: Final = "zstd frames"
_NOTHING: Final = Scan(0, 0, 0, True, False, False, False)
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
    format: str | None = "json"
    """json, protobuf or parquet; None for what is none of these and cannot be read."""
    counts: MessageCounts | None = None
    """What the messages of a protobuf file had; ``plain`` holds what is usable of them."""

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


def prepare(path: Path, folder: Path, listed_bytes: int | None = None) -> TraceFile:
    """Return a file ready to be read, its first ``listed_bytes`` where it has grown since.

    What has to be made for that is made under ``folder``. Raises OSError.
    """
    size = path.stat().st_size
    grown = listed_bytes is not None and size > listed_bytes
    file = TraceFile(path, shown_name(path), listed_bytes if listed_bytes and grown else size, path, _NOTHING)
    packing = detect_packing(path)
    file = _unpacked(file, packing, folder, grown)
    format_ = detect(file.plain, framed=packing.name == _FRAMES)
    if format_.kind is None:
        return replace(file, fault=packing.fault, format=None)
    if format_.kind == "parquet":
        return replace(file, fault=packing.fault, format="parquet")
    if format_.framing and not (format_.kind == "json" and packing.name == _FRAMES):
        return _rewritten(file, format_, packing, folder)
    if packing.name == _FRAMES:
        file = _replace_plain(file, folder, lambda out: unpack(path, packing, out))
    return _scanned(replace(file, fault=packing.fault), folder)


def _unpacked(file: TraceFile, packing: Packing, folder: Path, grown: bool) -> TraceFile:
    """Return the file with ``plain`` readable: messages that are packed one by one stay so."""
    if packing.name not in ("plain", _FRAMES):
        return _replace_plain(file, folder, lambda out: unpack(file.path, packing, out))
    if grown:
        return _replace_plain(file, folder, lambda out: _copy(file.path, out, file.size))
    if not _ODD_NAME.search(os.fspath(file.path)):
        return file
    workplace = Path(tempfile.mkdtemp(dir=folder))
    plain = workplace / "plain.jsonl"
    plain.symlink_to(file.path.absolute())
    return replace(file, plain=plain, workplace=workplace)


def _replace_plain(file: TraceFile, folder: Path, write: Callable[[BinaryIO], object]) -> TraceFile:
    """Return the file with what ``write`` writes in the place of ``plain``."""
    workplace = file.workplace or Path(tempfile.mkdtemp(dir=folder))
    plain = workplace / f"plain-{len(list(workplace.iterdir()))}.jsonl"
    with plain.open("wb") as out:
        write(out)
    if file.plain.parent == workplace:
        file.plain.unlink()
    return replace(file, plain=plain, workplace=workplace)


def _rewritten(file: TraceFile, format_: Format, packing: Packing, folder: Path) -> TraceFile:
    """Return a file of messages with JSON lines as ``plain``."""
    from vtprof_analyzer.ingest.protobuf import rewrite

    assert format_.framing
    source, workplace = file.plain, file.workplace or Path(tempfile.mkdtemp(dir=folder))
    plain = workplace / "messages.jsonl"
    counts = rewrite(source, source.stat().st_size, format_.framing, plain, limit_of(file.size))
    if source.parent == workplace:
        source.unlink()
    fault = packing.fault or counts.fault
    return replace(
        file,
        plain=plain,
        workplace=workplace,
        format=format_.kind,
        counts=counts,
        fault=fault,
        scan=scan(plain),
    )


def _scanned(file: TraceFile, folder: Path) -> TraceFile:
    """Return a file of JSON lines looked over, with its last line apart where that one alone is not clean."""
    file = replace(file, scan=scan(file.plain))
    if file.scan.tail_at is None:
        return file
    try:
        return _cut(file, file.scan.tail_at, folder)
    except OSError:
        # No room for a copy without the tail: the careful reader takes the file as it is.
        return replace(file, scan=replace(file.scan, clean=False))


def _copy(path: Path, out: BinaryIO, size: int) -> None:
    with path.open("rb") as stream:
        for chunk in _chunks(stream, size):
            out.write(chunk)


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
