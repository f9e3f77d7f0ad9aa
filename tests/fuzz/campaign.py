"""Fuzz the analyzer: ``python -m fuzz.campaign --files 10000``, with the folder above on the path. Exit code 1: a failure.

Batches run in a process of their own: one that dies or does not end is a failure, and the others go on.
"""

import argparse
import multiprocessing
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection

from fuzz.check import failures

BATCH_FILES = 200
LIMIT_S = 300.0
"""Wall-clock time of a batch: some twenty times what it takes on an idle machine."""


def main(argv: list[str] | None = None) -> int:
    """Run the campaign, print what went wrong, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="seed of the first file")
    options = parser.parse_args(argv)
    begin, wrong = time.monotonic(), 0
    end = options.first + options.files
    batches = [range(at, min(at + BATCH_FILES, end)) for at in range(options.first, end, BATCH_FILES)]
    for batch, found in _run(batches):
        wrong += len(found)
        for line in found:
            print(line, flush=True)
        if (batch.stop - options.first) % (5 * BATCH_FILES) == 0:
            print(f"{batch.stop - options.first:,} files, {wrong} failures", file=sys.stderr, flush=True)
    print(
        f"{options.files:,} files from seed {options.first}: {wrong} failures, {time.monotonic() - begin:.0f} s"
    )
    return 1 if wrong else 0


def _run(batches: list[range]) -> Iterator[tuple[range, list[str]]]:
    """Yield each batch with its failures; a worker that died or hangs is replaced."""
    context = multiprocessing.get_context("spawn")
    waiting = list(reversed(batches))
    while waiting:
        ours, theirs = context.Pipe()
        worker = context.Process(target=_work, args=(theirs,), daemon=True)
        worker.start()
        theirs.close()
        alive = True
        while waiting and alive:
            batch = waiting.pop()
            found, alive = _ask(ours, batch)
            if not alive and len(batch) > 1:
                middle = (batch.start + batch.stop) // 2
                waiting += [range(middle, batch.stop), range(batch.start, middle)]
                continue
            yield batch, found
        ours.close()
        worker.kill()
        worker.join()


def _ask(worker: Connection, batch: range) -> tuple[list[str], bool]:
    """Return the failures of a batch, and whether the worker can go on."""
    where = f"seeds {batch.start} to {batch.stop - 1}"
    try:
        worker.send((batch.start, batch.stop))
        if not worker.poll(LIMIT_S):
            return [f"{where}: no end after {LIMIT_S:.0f} s"], False
        found: list[str] | None = worker.recv()
    except (EOFError, ConnectionError):
        return [f"{where}: the process died"], False
    # An exception leaves the rest of its batch unread.
    return (
        ([f"{where}: {found[0]}"], False) if found and found[0].startswith(_RAISED) else (found or [], True)
    )


_RAISED = "raised "


def _work(parent: Connection) -> None:
    while True:
        try:
            first, stop = parent.recv()
        except EOFError:
            return
        try:
            parent.send(failures(range(first, stop)))
        except Exception as error:
            parent.send([f"{_RAISED}{type(error).__name__}: {str(error)[:300]}"])


if __name__ == "__main__":
    sys.exit(main())
