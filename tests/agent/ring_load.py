"""A process that writes a ring as an engine with a GPU does, and what its records imply.

``ring_load.py DIR CAPACITY RECORDS_PER_S paced|bursts near|free HW_ID`` reads from stdin how many cycles to write, and
then prints how many records it has written in all. A cycle is four requests: a step that encodes and prefills them, then
decode steps. ``paced`` writes each record at its time, ``bursts`` a cycle at once when it is over. ``near`` never gets
further ahead of what an agent has stored than half a ring. The ring is closed at the end of stdin.
"""

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

from vtprof_probe.ring_writer import RingWriter
from vtprof_schemas import names, records
from vtprof_schemas.units import NS_PER_S

REQUESTS = 4
DECODE_STEPS = 99
STEPS = 1 + DECODE_STEPS
RECORDS = 8 * REQUESTS + 2 * STEPS
"""Of one cycle."""
PHASES = (names.PREPROCESS, names.QUEUE, names.ENCODE, names.PREFILL, names.DECODE)
TEXT, PATCHES, VISUAL, CACHED = 100, 1024, 256, 0
PROMPT = TEXT + VISUAL
AHEAD_RATIO = 0.5
INFO = {
    names.ENGINE_NAME: "load",
    names.DEVICE_KIND: "cuda",
    names.KV_BYTES_PER_TOKEN: 57_344,
}
Entry = tuple[int, records.RecordKind, tuple[Any, ...]]
"""Monotonic ns at which it is written, kind and values."""


def implied(cycles: int) -> Counter[str]:
    """Return what spans of whole cycles must come out: by name how many, and of steps the iterations in them."""
    requests = cycles * REQUESTS
    spans = {names.SPAN_REQUEST: requests, **{f"vtprof.{phase}": requests for phase in PHASES}}
    return Counter({**spans, "prefill steps": cycles, "decode steps": cycles * DECODE_STEPS})


def cycle(number: int, begin_ns: int, end_ns: int) -> list[Entry]:
    """Return the records of a cycle, which lies within these times, in the order in which they are written."""
    unit = (end_ns - begin_ns) // (STEPS + 1)
    requests = range(number * REQUESTS + 1, (number + 1) * REQUESTS + 1)
    first = number * STEPS + 1
    start = begin_ns + unit // 2
    entries = _arrivals(requests, begin_ns, start)
    entries += _prefill_step(requests, first, start, start + unit)
    for index in range(1, STEPS):
        at = start + index * unit
        context = REQUESTS * (PROMPT + index - 1)
        entries += _step(first + index, at, at + unit, 0, REQUESTS, context, 0)
    done = start + STEPS * unit
    entries += [(done, records.REQUEST_FINISHED, (request, done, 0, STEPS)) for request in requests]
    return entries


def _arrivals(requests: range, begin_ns: int, start_ns: int) -> list[Entry]:
    ready = begin_ns + (start_ns - begin_ns) // 2
    entries: list[Entry] = []
    for request in requests:
        tokens = (PROMPT, TEXT, VISUAL, 0, 0, CACHED, 1, 0, 0)
        entries.append((begin_ns, records.REQUEST_ARRIVED, (request, begin_ns)))
        entries.append((begin_ns, records.REQUEST_INPUT, (request, *tokens)))
        entries.append((ready, records.PREPROCESS, (request, begin_ns, ready, 1000, 0, 1000, 200_704, 0)))
        entries.append((start_ns, records.QUEUE, (request, ready, start_ns)))
    return sorted(entries, key=lambda entry: entry[0])


def _prefill_step(requests: range, step: int, start_ns: int, end_ns: int) -> list[Entry]:
    encoded = start_ns + (end_ns - start_ns) // 3
    pairs, visual_pairs = PROMPT * (PROMPT + 1) // 2, VISUAL * PROMPT // 2
    entries: list[Entry] = []
    for request in requests:
        encode = (step, request, start_ns, encoded, 1, PATCHES, PATCHES * PATCHES, 0)
        entries.append((encoded, records.ENCODE, encode))
        prefill = (step, request, PROMPT, VISUAL, 0, CACHED, pairs, visual_pairs, 1)
        entries.append((encoded, records.PREFILL, prefill))
    entries += _step(step, start_ns, end_ns, REQUESTS * PROMPT, 0, 0, encoded - start_ns)
    return entries + [(end_ns, records.FIRST_TOKEN, (request, end_ns)) for request in requests]


def _step(
    step: int, start_ns: int, end_ns: int, tokens: int, decoders: int, context: int, encode_ns: int
) -> list[Entry]:
    used = context + REQUESTS if decoders else REQUESTS * PROMPT
    load = (
        tokens,
        decoders,
        context,
        decoders * VISUAL,
        encode_ns,
        used,
        REQUESTS * VISUAL,
        -1,
        REQUESTS,
        0,
        0,
        decoders,
    )
    gpu_ns = (end_ns - start_ns) * 9 // 10
    return [
        (end_ns, records.STEP, (step, start_ns, end_ns, *load)),
        (end_ns, records.GPU_TIME, (step, gpu_ns, encode_ns * 9 // 10 if encode_ns else -1)),
    ]


def stored(directory: Path, pids: Collection[int]) -> int:
    """Return how many records of the rings of these processes an agent has stored that they are behind it."""
    try:
        cursors: dict[str, int] = json.loads((directory / "agent.cursors.json").read_text())["cursors"]
    except (OSError, ValueError):
        return 0
    # <boot id>-<pid>-<start time>-<created>: the number of the next record; what has a # behind it is something else.
    return sum(
        cursor - 1 for ring, cursor in cursors.items() if "#" not in ring and int(ring.split("-")[1]) in pids
    )


class Writer:
    """Writes cycles one behind the other at a rate."""

    def __init__(self, directory: Path, capacity: int, records_per_s: float, hw_id: str) -> None:
        """Make the ring of this process."""
        info = {**INFO, names.HW_ID: hw_id} if hw_id else INFO
        self._ring = RingWriter.create(str(directory), capacity, "all", 0, info)
        self._directory, self._capacity = directory, capacity
        self._length_ns = int(RECORDS / records_per_s * NS_PER_S)
        # Cycles begin at whole multiples of their length: whoever simulates the GPU knows when it is busy with what.
        self._end_ns = -(-time.monotonic_ns() // self._length_ns) * self._length_ns
        self._cycles = 0

    def write(self, cycles: int, *, paced: bool, near: bool) -> int:
        """Write so many cycles; return how many records that makes since the beginning."""
        for _ in range(cycles):
            while near and self._ahead > self._capacity * AHEAD_RATIO:
                time.sleep(0.01)
            begin_ns = max(self._end_ns, time.monotonic_ns() - self._length_ns)
            self._end_ns = begin_ns + self._length_ns
            for at_ns, kind, values in cycle(self._cycles, begin_ns, self._end_ns):
                _sleep_until(at_ns if paced else self._end_ns)
                self._ring.write(kind, *values)
            self._cycles += 1
            self._ring.refresh_anchor()
        return self._cycles * RECORDS

    def close(self) -> None:
        """Say that this was all."""
        self._ring.close()

    @property
    def _ahead(self) -> int:
        return self._cycles * RECORDS - stored(self._directory, (os.getpid(),))


def _sleep_until(at_ns: int) -> None:
    left_ns = at_ns - time.monotonic_ns()
    if left_ns > 0:
        time.sleep(left_ns / NS_PER_S)


def main(folder: str, capacity: str, rate: str, mode: str, distance: str, hw_id: str) -> None:
    """Write what is asked for on stdin."""
    writer = Writer(Path(folder), int(capacity), float(rate), hw_id)
    for line in sys.stdin:
        print(writer.write(int(line), paced=mode == "paced", near=distance == "near"), flush=True)
    writer.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
