"""Unpack trace files and read them line by line, in bounded memory, up to the first fault and with no exception for it.

A Collector's file exporter with compression writes a 4-byte big-endian length before each zstd message; that framing
is recognised and each message is a line.
"""

import struct
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Protocol

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdDecompressor, ZstdError
else:
    from backports.zstd import ZstdDecompressor, ZstdError

MAX_LINE_BYTES: Final = 256 << 20
"""Longest line that is read: a parser holds a line whole."""
MAX_RATIO: Final = 200
"""A file that unpacks to more than this many times its size is no trace, once it is past ``FREE_BYTES``: traces pack
20 to 60 times."""
FREE_BYTES: Final = 1 << 30
TOO_LARGE: Final = f"unpacks to more than {MAX_RATIO} times its size"
BLANK_BYTES: Final = 1 << 20
"""Blanks in a row after which further ones are not written: they cost time and room, and say nothing."""

_PIECE_BYTES: Final = 1 << 10
"""Packed bytes handed over at once: what a fault costs of the good data before it."""
_OUTPUT_BYTES: Final = 64 << 10
_CHUNK_BYTES: Final = 1 << 20
_BLANK: Final = b" \t\r\n\x00"
_GZIP_MAGIC: Final = b"\x1f\x8b"
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_SKIPPABLE_MAGIC: Final = (
    b"\x2a\x4d\x18"  # after a byte 0x50 to 0x5f: pzstd and seekable zstd begin with such a frame
)
_GZIP_WINDOW: Final = 31  # zlib: gzip header and trailer, largest window
_LENGTH: Final = struct.Struct(">I")


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def feed(self, data: bytes) -> Iterator[bytes]: ...


class _Gzip:
    """One gzip member."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(_GZIP_WINDOW)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def feed(self, data: bytes) -> Iterator[bytes]:
        yield self._inner.decompress(data, _OUTPUT_BYTES)
        while self._inner.unconsumed_tail and not self._inner.eof:
            yield self._inner.decompress(self._inner.unconsumed_tail, _OUTPUT_BYTES)


class _Zstd:
    """One zstd frame."""

    def __init__(self) -> None:
        self._inner = ZstdDecompressor()

    @property
    def eof(self) -> bool:
        return bool(self._inner.eof)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._inner.unused_data)

    def feed(self, data: bytes) -> Iterator[bytes]:
        yield self._inner.decompress(data, _OUTPUT_BYTES)
        while not self._inner.eof and not self._inner.needs_input:
            yield self._inner.decompress(b"", _OUTPUT_BYTES)


_NEW: Final[dict[str, type[_Gzip] | type[_Zstd]]] = {"gzip": _Gzip, "zstd": _Zstd}


def _packing_of(head: bytes) -> str | None:
    """Return how data is packed that begins with ``head``; None for plain data."""
    if head.startswith(_GZIP_MAGIC):
        return "gzip"
    if head.startswith(_ZSTD_MAGIC) or (head[1:4] == _SKIPPABLE_MAGIC and head[0] >> 4 == 0x5):
        return "zstd"
    return None


def is_packed(head: bytes) -> bool:
    """Say whether a message is packed, by its first bytes."""
    return _packing_of(head) is not None


def unpack_message(data: bytes, limit_bytes: int) -> tuple[bytes, str]:
    """Return a packed message unpacked, and what was wrong with it, or nothing."""
    packing = Packing(_packing_of(data) or "plain")
    pieces, size = [], 0
    for chunk in _unpack(iter([data]), packing, packing.name):
        pieces.append(chunk)
        size += len(chunk)
        if size > limit_bytes:
            return b"", f"unpacks to more than {limit_bytes >> 20} MiB"
    return b"".join(pieces), packing.fault or ""


@dataclass
class Packing:
    """How a file is packed; ``fault`` says why unpacking stopped early, once it did."""

    name: str  # "plain", "gzip", "zstd" or "zstd frames"
    fault: str | None = None


def detect_packing(path: Path) -> Packing:
    """Tell the packing from the first bytes: names lie, bytes do not."""
    with path.open("rb") as stream:
        head = stream.read(_LENGTH.size + len(_ZSTD_MAGIC))
    packing = _packing_of(head)
    if packing is None and head[_LENGTH.size :] == _ZSTD_MAGIC:
        packing = "zstd frames"
    return Packing(packing or "plain")


def _unpack(pieces: Iterator[bytes], packing: Packing, kind: str) -> Iterator[bytes]:
    """Yield unpacked chunks over all members; stop at a fault and note it."""
    decompressor: _Decompressor = _NEW[kind]()
    started = False
    try:
        for data in pieces:
            while data:
                if not started:
                    # Zero padding after the last member is legal for gzip.
                    data = data.lstrip(b"\x00")
                    if not data:
                        break
                started = True
                yield from decompressor.feed(data)
                data = b""
                if decompressor.eof:
                    data = decompressor.unused_data
                    decompressor, started = _NEW[kind](), False
    except (zlib.error, ZstdError) as error:
        packing.fault = packing.fault or f"damaged {packing.name} data ({error})"
        return
    if started:
        packing.fault = packing.fault or f"{packing.name} data ends early"


def _frames(stream: BinaryIO, packing: Packing) -> Iterator[bytes]:
    while header := stream.read(_LENGTH.size):
        size = _LENGTH.unpack(header)[0] if len(header) == _LENGTH.size else 0
        body = stream.read(size)
        # A damaged message costs itself: the length before it tells where the next one stands.
        yield from _unpack(
            (body[n : n + _PIECE_BYTES] for n in range(0, len(body), _PIECE_BYTES)), packing, "zstd"
        )
        if not size or len(body) < size:
            packing.fault = packing.fault or "the last message ends early"
            return
        yield b"\n"


def limit_of(size: int) -> int:
    """Return how many bytes a packed file of ``size`` bytes may become: beyond, it is a bomb."""
    return max(FREE_BYTES, MAX_RATIO * size)


def unpack(path: Path, packing: Packing, out: BinaryIO) -> None:
    """Write the unpacked bytes of a packed file, ``limit_of`` at most; ``packing.fault`` is set where they end early."""
    limit = limit_of(path.stat().st_size)
    unpacked = blank = 0
    with path.open("rb") as stream:
        if packing.name == "zstd frames":
            chunks = _frames(stream, packing)
        else:
            chunks = _unpack(iter(lambda: stream.read(_PIECE_BYTES), b""), packing, packing.name)
        for chunk in chunks:
            unpacked += len(chunk)
            blank = 0 if chunk.strip(_BLANK) else blank + len(chunk)
            if blank <= BLANK_BYTES:
                out.write(chunk)
            if unpacked > limit:
                packing.fault = TOO_LARGE
                return


def read_lines(path: Path) -> Iterator[bytes | None]:
    """Yield the lines of a plain file with their line ends; only the last one can lack it.

    None stands for a line longer than ``MAX_LINE_BYTES``, which is passed over.
    """
    with path.open("rb", buffering=_CHUNK_BYTES) as stream:
        while line := stream.readline(MAX_LINE_BYTES + 1):
            if len(line) <= MAX_LINE_BYTES:
                yield line
                continue
            while line and not line.endswith(b"\n"):
                line = stream.readline(_CHUNK_BYTES)
            yield None
