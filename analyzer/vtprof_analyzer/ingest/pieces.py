"""Rearrange plain files at line ends: a few lines to look at, pieces in which one fault costs little, many files as one."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from vtprof_analyzer.ingest.lines import MAX_LINE_BYTES

LARGE_BYTES: Final = 16 << 20
SMALL_BYTES: Final = 1 << 20
"""What is read carefully at most, besides the rest of its last line."""
SPOTS: Final = 3
"""Places that are looked at before a load: what is not seen there costs more later, and no more."""
SPOT_BYTES: Final = 256 << 10
_CHUNK_BYTES: Final = 1 << 20


class Piece(NamedTuple):
    """Whole lines of a file."""

    data: bytes
    lines_before: int

    def cut(self) -> list["Piece"]:
        """Return the piece in smaller ones; only itself where it cannot be cut."""
        return list(cut(io.BytesIO(self.data), SMALL_BYTES, self.lines_before))


def cut(stream: BinaryIO, size: int, lines_before: int = 0) -> Iterator[Piece]:
    """Yield what a stream holds in pieces of ``size`` bytes and the rest of the last line.

    Of a line longer than ``MAX_LINE_BYTES`` only so much is kept that it is seen to be.
    """
    while data := stream.read(size):
        if not data.endswith(b"\n"):
            more = stream.readline(MAX_LINE_BYTES + 1)
            data += more
            while more and not more.endswith(b"\n"):
                more = stream.readline(_CHUNK_BYTES)
        yield Piece(data, lines_before)
        lines_before += data.count(b"\n")


def sample(paths: Sequence[Path], out: BinaryIO) -> None:
    """Copy a few lines from places spread evenly over the bytes of all files."""
    sizes = [path.stat().st_size for path in paths]
    step = max(1, sum(sizes) // SPOTS)
    at = 0
    for path, size in zip(paths, sizes, strict=True):
        with path.open("rb") as stream:
            while at < size:
                stream.seek(at)
                if at:
                    stream.readline(MAX_LINE_BYTES)
                _copy_lines(stream, out)
                at += step
        at -= size


def _copy_lines(stream: BinaryIO, out: BinaryIO) -> None:
    copied = 0
    while copied < SPOT_BYTES and (line := stream.readline(MAX_LINE_BYTES)):
        if line.endswith(b"\n"):
            out.write(line)
        copied += len(line)


def bundle(paths: Sequence[Path], key: str, out: BinaryIO) -> None:
    """Copy the lines of clean files into one, each with its file's number, from 1, under ``key`` in front."""
    for number, path in enumerate(paths, start=1):
        mark = f'{{"{key}":{number},'.encode()
        with path.open("rb") as stream:
            for line in stream:
                if not line.isspace():
                    out.write(mark + line[1:].rstrip(b"\r\n") + b"\n")


def is_spread(path: Path) -> bool:
    """Say whether a file may be one document over many lines, as pretty printers write it."""
    with path.open("rb") as stream:
        line = stream.readline(_CHUNK_BYTES).lstrip(b"\xef\xbb\xbf \t\r\n")
    return line.startswith((b"{", b"[")) and line.endswith(b"\n") and not line.rstrip().endswith((b"}", b"]"))
