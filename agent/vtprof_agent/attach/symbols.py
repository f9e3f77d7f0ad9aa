"""Finds exported functions of a loaded ELF file by the tables in the process's own memory, whatever became of the file."""

import struct

from vtprof_agent.attach.memory import Memory
from vtprof_agent.attach.refusal import Refused

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_DYNAMIC = struct.Struct("<qQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_LOAD, _DYNAMIC_SEGMENT = 1, 2
_HASH, _STRTAB, _SYMTAB, _GNU_HASH = 4, 5, 6, 0x6FFFFEF5
_MOST_SEGMENTS, _MOST_DYNAMIC = 64, 256
_MOST_CHAIN = 10_000
"""Symbols looked at in one bucket; real tables have a handful."""
ELF_MAGIC, CLASS_64 = b"\x7fELF", 2


class Image:
    """One loaded ELF file."""

    def __init__(self, memory: Memory, base: int) -> None:
        """Read the tables of the file whose first page is mapped at ``base``. Raises Refused."""
        self._memory = memory
        header = _HEADER.unpack(memory.read(base, _HEADER.size))
        if header[0][:4] != ELF_MAGIC or header[0][4] != CLASS_64:
            raise Refused("it is no 64-bit program")
        count = min(header[10], _MOST_SEGMENTS)
        segments = list(_SEGMENT.iter_unpack(memory.read(base + header[5], _SEGMENT.size * count)))
        loads = [segment[3] - segment[2] for segment in segments if segment[0] == _LOAD and segment[2] == 0]
        self._bias = base - (loads[0] if loads else 0)
        self._tables: dict[int, int] = {}
        for kind, _, _, address, _, _, size, _ in segments:
            if kind == _DYNAMIC_SEGMENT:
                self._read_dynamic(self._bias + address, min(size // _DYNAMIC.size, _MOST_DYNAMIC))

    def symbol(self, name: str) -> int | None:
        """Return the address of an exported symbol, or None."""
        if not {_STRTAB, _SYMTAB} <= self._tables.keys():
            return None
        wanted = name.encode() + b"\0"
        for place in self._gnu_places(name) if _GNU_HASH in self._tables else self._all_places():
            entry = self._memory.read(self._tables[_SYMTAB] + place * _SYMBOL.size, _SYMBOL.size)
            offset, _, _, section, value, _ = _SYMBOL.unpack(entry)
            if section and self._memory.read(self._tables[_STRTAB] + offset, len(wanted)) == wanted:
                return int(self._bias + value)
        return None

    def _read_dynamic(self, address: int, count: int) -> None:
        for tag, value in _DYNAMIC.iter_unpack(self._memory.read(address, _DYNAMIC.size * count)):
            if tag == 0:
                break
            # glibc turns these into addresses, other loaders leave them as they are in the file.
            self._tables.setdefault(tag, value if value >= self._bias else value + self._bias)

    def _gnu_places(self, name: str) -> list[int]:
        table = self._tables[_GNU_HASH]
        buckets, first, bloom_words, _ = self._memory.words(table, 4, 4)
        hash_ = 5381
        for letter in name.encode():
            hash_ = (hash_ * 33 + letter) & 0xFFFFFFFF
        if not buckets:
            return []
        bucket_table = table + 16 + 8 * bloom_words
        (place,) = self._memory.words(bucket_table + 4 * (hash_ % buckets), 4, 1)
        places: list[int] = []
        while place >= first and len(places) < _MOST_CHAIN:
            (found,) = self._memory.words(bucket_table + 4 * buckets + 4 * (place - first), 4, 1)
            if found | 1 == hash_ | 1:
                places.append(place)
            if found & 1:
                break
            place += 1
        return places

    def _all_places(self) -> range:
        if _HASH not in self._tables:
            return range(0)
        _, symbols = self._memory.words(self._tables[_HASH], 4, 2)
        return range(symbols)
