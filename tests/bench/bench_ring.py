"""What one record costs: the probe's writer, the agent's reader, a plain struct.pack_into, an OpenTelemetry span.

``python tests/bench/bench_ring.py [--json]`` prints the median of several alternating runs, in CPU time, so that
neighbours on the machine count little. Exit code 1 when the writer takes more than its microsecond.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from opentelemetry.sdk.trace import TracerProvider

from vtprof_agent.inbox.ring_reader import RingReader
from vtprof_probe.ring_writer import RingWriter
from vtprof_schemas import records

BUDGET_NS = 1000.0
STEP_VALUES = tuple(range(len(records.STEP.fields)))
"""The longest record that is written often."""

WRITER, READER, BASELINE, SPAN = "writer", "reader", "struct.pack_into", "opentelemetry span"


def spent_ns(work: Callable[[], None], count: int) -> float:
    """Return the CPU time of this process for one of ``count`` operations."""
    before = time.process_time_ns()
    work()
    return (time.process_time_ns() - before) / count


def measure(count: int, runs: int) -> dict[str, list[float]]:
    """Time each contender ``runs`` times in turn; ns per record."""
    provider = TracerProvider()
    tracer = provider.get_tracer("bench")
    baseline = bytearray(records.RECORD_BYTES)
    pack_into, kind = records.STEP.packer.pack_into, records.STEP
    attributes = dict(zip(kind.field_names, STEP_VALUES, strict=True))
    timings: dict[str, list[float]] = {name: [] for name in (WRITER, READER, BASELINE, SPAN)}
    with tempfile.TemporaryDirectory() as folder:
        writer = RingWriter.create(folder, records.DEFAULT_CAPACITY, "all", 0, {})
        if writer.reason:
            raise SystemExit(writer.reason)
        reader = RingReader.open(Path(writer.path))
        write = writer.write

        def write_all() -> None:
            for _ in range(count):
                write(kind, *STEP_VALUES)

        def read_all() -> None:
            while reader.read(16_384).passed:
                pass

        def pack_all() -> None:
            for _ in range(count):
                pack_into(baseline, 4, kind.code, 0, 1, *STEP_VALUES)

        def span_all() -> None:
            for _ in range(count // 20):
                tracer.start_span("vtprof.step", attributes=attributes).end()

        for _ in range(runs):
            timings[WRITER].append(spent_ns(write_all, count))
            timings[READER].append(spent_ns(read_all, count))
            timings[BASELINE].append(spent_ns(pack_all, count))
            timings[SPAN].append(spent_ns(span_all, count // 20))
        if reader.cursor != runs * count + 1:
            raise SystemExit(f"the reader saw {reader.cursor - 1} of {runs * count} records")
        reader.close()
        writer.close()
    provider.shutdown()
    return timings


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(description="Time of one ring record.")
    parser.add_argument("--records", type=int, default=50_000, help="records a run, at most the ring's 65536")
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args(argv)
    if not 20 <= options.records <= records.DEFAULT_CAPACITY or options.runs < 1:
        parser.error("--records must be in 20..65536 and --runs at least 1")
    timings = measure(options.records, options.runs)
    median = {name: statistics.median(values) for name, values in timings.items()}
    within = median[WRITER] <= BUDGET_NS
    if options.json:
        rows = {
            name: {
                "median_ns": median[name],
                "least_ns": min(values),
                "ratio_to_writer": median[name] / median[WRITER],
            }
            for name, values in timings.items()
        }
        print(
            json.dumps(
                {"record_bytes": records.RECORD_BYTES, "budget_ns": BUDGET_NS, "ok": within, "rows": rows}
            )
        )
    else:
        print(f"{'one record of 128 bytes':<24}{'median ns':>10}{'least ns':>10}{'÷ writer':>10}")
        for name, values in timings.items():
            print(
                f"{name:<24}{median[name]:>10.0f}{min(values):>10.0f}{median[name] / median[WRITER]:>10.2f}"
            )
        print(f"writer's budget {BUDGET_NS:.0f} ns: {'kept' if within else 'EXCEEDED'}")
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
