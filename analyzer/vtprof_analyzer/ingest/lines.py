"""Read a trace file line by line, unpacking gzip and zstd, up to the first fault of the packing and no exception.

A Collector's file exporter with compression writes a 4-byte big-endian length before each zstd message; that framing
is recognised and each message is a line.
"""

import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdDecompressor, ZstdError
else:
    from backports.zstd import ZstdDecompressor, ZstdError

CHUNK_BYTES = 1 << 20
_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_GZIP_WINDOW = 31  # zlib: gzip header and trailer, largest window
_LENGTH = struct.Struct(">I")


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


@dataclass
class Packing:
    """How a file is packed; ``fault`` says why unpacking stopped early, once it did."""

    name: str  # "plain", "gzip", "zstd" or "zstd frames"
    fault: str | None = None


def detect_packing(path: Path) -> Packing:
    """Tell the packing from the first bytes: names lie, bytes do not."""
    with path.open("rb") as stream:
        head = stream.read(_LENGTH.size + len(_ZSTD_MAGIC))
    if head.startswith(_GZIP_MAGIC):
        return Packing("gzip")
    if head.startswith(_ZSTD_MAGIC):
        return Packing("zstd")
    if head[_LENGTH.size :] == _ZSTD_MAGIC:
        return Packing("zstd frames")
    return Packing("plain")


def _unpack(stream: BinaryIO, new: Callable[[], _Decompressor], packing: Packing) -> Iterator[bytes]:
    """Yield unpacked chunks over all members of the stream; stop at a fault and note it."""
    decompressor = new()
    started = False
    try:
        while data := stream.read(CHUNK_BYTES):
            while data:
                started = True
                yield decompressor.decompress(data)
                data = b""
                if decompressor.eof:
                    # Zero padding after the last member is legal for gzip.
                    data = decompressor.unused_data.lstrip(b"\x00")
                    decompressor, started = new(), False
    except (zlib.error, ZstdError) as error:
        packing.fault = f"damaged {packing.name} data ({error})"
        return
    if started:
        packing.fault = f"{packing.name} data ends early"


def _frames(stream: BinaryIO, packing: Packing) -> Iterator[bytes]:
    while header := stream.read(_LENGTH.size):
        size = _LENGTH.unpack(header)[0] if len(header) == _LENGTH.size else 0
        body = stream.read(size)
        if not size or len(body) < size:
            packing.fault = "the last message ends early"
            return
        try:
            yield ZstdDecompressor().decompress(body) + b"\n"
        except ZstdError as error:
            packing.fault = f"damaged zstd message ({error})"
            return


def read_chunks(path: Path, packing: Packing) -> Iterator[bytes]:
    """Yield the unpacked bytes of a file in chunks; ``packing.fault`` is set where they end early."""
    with path.open("rb") as stream:
        if packing.name == "gzip":
            yield from _unpack(stream, lambda: zlib.decompressobj(_GZIP_WINDOW), packing)
        elif packing.name == "zstd":
            yield from _unpack(stream, ZstdDecompressor, packing)
        elif packing.name == "zstd frames":
            yield from _frames(stream, packing)
        else:
            while chunk := stream.read(CHUNK_BYTES):
                yield chunk


def read_lines(path: Path, packing: Packing) -> Iterator[bytes]:
    """Yield the lines of a file with their line ends; only the last one can lack it."""
    pieces: list[bytes] = []
    for chunk in read_chunks(path, packing):
        begin = 0
        while (end := chunk.find(b"\n", begin)) >= 0:
            pieces.append(chunk[begin : end + 1])
            yield b"".join(pieces) if len(pieces) > 1 else pieces[0]
            pieces.clear()
            begin = end + 1
        if begin < len(chunk):
            pieces.append(chunk[begin:])
    if pieces:
        yield b"".join(pieces)
