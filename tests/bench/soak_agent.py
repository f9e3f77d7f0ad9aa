"""An hour's worth of load through the real agent, compressed in time, while everything around it fails.

``python tests/bench/soak_agent.py [--records 3600000] [--json]``: eight processes write what 1,000 records a second make
in an hour, as fast as the agent stores it. Meanwhile the Collector is killed twice and hangs once, the agent is killed
twice and ended once, and its disk is full once. In the end: distinct spans by kind and those counted as dropped (by all
lives together, as the last one tells), beside what the records imply; records read and lost beside those written;
repeats that differ; memory of the agent's longest life, its first third beside its last. Exit code 1 when something is
missing, or memory has grown by more than a tenth.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "agent"))

import ring_load  # stands beside the agent's tests
from soak_scenario import PHASES, Soak, SoakResult, SoakSize

HOUR_RECORDS = 3_600_000
WRITERS = 8
MOST_GROWTH = 0.10
RSS_EVERY = 15
"""Of the readings of memory, one a second, so many make one that is printed."""


def size_of(records: int) -> SoakSize:
    """Return the size of a soak of at least so many records."""
    # The phase of the full disk is short.
    cycles = -(-records // (ring_load.RECORDS * WRITERS * (PHASES - 1)))
    return SoakSize(WRITERS, cycles, records_per_s=3000.0, capacity=16_384, patience_s=1800.0)


def growth(rss_bytes: list[list[int]]) -> tuple[float, float, float]:
    """Return the median memory of the first and of the last third of the longest life, and by how much it grew."""
    longest = max(rss_bytes, key=len)
    third = max(1, len(longest) // 3)
    first, last = statistics.median(longest[:third]), statistics.median(longest[-third:])
    return first, last, last / first - 1


def account(result: SoakResult) -> dict[str, Any]:
    """Return the books."""
    first, last, grown = growth(result.rss_bytes)
    told = result.lives[-1]
    missing = {
        name: {
            kind: count - account.spans[kind]
            for kind, count in result.implied.items()
            if count != account.spans[kind]
        }
        for name, account in (("collector", result.received), ("files", result.files))
    }
    unforeseen = {
        kind: count
        for account in (result.received, result.files)
        for kind, count in account.spans.items()
        if kind not in result.implied
    }
    written = result.records + result.overrun["written"]
    return {
        "seconds": result.seconds,
        "records": written,
        "records_read": told["records_read"],
        "records_lost": told["records_lost"],
        "implied": dict(result.implied),
        "missing": missing,
        "unforeseen": unforeseen,
        "spans_dropped": told["spans_dropped"],
        "repeats": {"collector": result.received.repeats, "files": result.files.repeats},
        "conflicts": len(result.received.conflicts) + len(result.files.conflicts),
        "rss_first_bytes": first,
        "rss_last_bytes": last,
        "rss_growth": grown,
        "rss_of_lives_mb": [[round(rss / 1e6) for rss in life[::RSS_EVERY]] for life in result.rss_bytes],
        "rss_most_bytes": max(max(life) for life in result.rss_bytes),
        "sound": not any(missing.values())
        and not unforeseen
        and not result.received.conflicts
        and not result.files.conflicts
        and told["records_read"] + told["records_lost"] == written
        and grown <= MOST_GROWTH,
    }


def main(argv: list[str] | None = None) -> int:
    """Soak, print the books, and say by the exit code whether they balance."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=int, default=HOUR_RECORDS)
    parser.add_argument("--gpus", type=int, default=WRITERS, help="GPUs of the stand-in; 0: no counters")
    parser.add_argument("--folder", type=Path, help="keep everything here; the folder must not exist")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args(argv)
    begin = time.monotonic()

    def report(phase: str) -> None:
        if not options.json:
            print(f"{time.monotonic() - begin:6.0f} s  {phase}", flush=True)

    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch) / "soak"
        books = account(Soak(folder, size_of(options.records), options.gpus).run(report))
    if options.json:
        print(json.dumps(books))
    else:
        for key, value in books.items():
            print(f"{key:<16} {value}")
    return int(not books["sound"])


if __name__ == "__main__":
    sys.exit(main())
