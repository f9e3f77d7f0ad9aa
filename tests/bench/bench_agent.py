"""How many records a second the agent sustains on one core, from a real ring to real files, and its resident memory.

The mix: batches of four requests, each batch one prefill step and a run of decode steps that fold into one window.
140 records give 14 spans (four requests with prefill and decode, a step, a window); step and window spans carry four
links on average. In the ring's time 20,000 records come a second. Once without GPU, and once with eight: then each step
has its GPU time, in a record of its own, and four counters of each GPU at 10 Hz are attributed to it. Only the agent's
CPU time counts; the writing in between does not. Both are run by turns, and of each the round that took the least CPU time
is told, with the rate of the slowest: what else runs on the machine shares its caches and clocks, and only ever adds
to it. Memory is that of the first round. Budget: 20,000 records/s.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import psutil

from vtprof_agent.assembly import AssemblySettings
from vtprof_agent.counters.meter import COUNTERS, CounterWindow
from vtprof_agent.counters.rolling import RollingMeter
from vtprof_agent.counters.step_time import StepTimeFit
from vtprof_agent.export.files import FileDestination
from vtprof_agent.export.rotating import Rotation
from vtprof_agent.loop import Agent, LoopSettings
from vtprof_agent.metrics.metrics import Metrics
from vtprof_agent.observer import Observer
from vtprof_agent.resource import agent_resource
from vtprof_agent.step_work import Measures
from vtprof_probe.ring_writer import RingWriter
from vtprof_schemas import names, records
from vtprof_schemas.units import NS_PER_S

BATCH = 4
DECODE_STEPS = 119
RECORDS_PER_BATCH = 5 * BATCH + 1 + DECODE_STEPS
BUDGET_RECORDS_PER_S = 20_000
BUDGET_RSS_BYTES = 100_000_000
BATCH_NS = RECORDS_PER_BATCH * NS_PER_S // BUDGET_RECORDS_PER_S
"""From one batch to the next in the ring's time, in which they follow each other however fast they are written."""
WINDOW_NS = 100_000_000
"""Of the counters."""
CHUNK = 4
"""Batches written before the agent reads them: 560 records, as many as come in 28 ms."""
GPUS = tuple(f"GPU-bench-{number}" for number in range(8))
AMOUNTS = (0.6 * WINDOW_NS, 0.2 * WINDOW_NS, 0.9 * WINDOW_NS, 40_000.0)
"""Of each counter in a window: three ratios over its time, and energy in mJ."""
WITHOUT, WITH = "without counters", "with counters"
CONFIG = json.dumps({f"key_{number}": number for number in range(200)})


def write_batch(ring: RingWriter, number: int, gpu: bool) -> None:
    """Write one batch: 140 records over 7 ms of the ring's time; on a GPU half the steps, each with its GPU time."""
    write, at, index = ring.write, number * BATCH_NS, number * 1000
    requests = range(number * BATCH + 1, number * BATCH + BATCH + 1)
    steps = (DECODE_STEPS - 1) // 2 if gpu else DECODE_STEPS
    unit = BATCH_NS // (steps + 4)
    for request in requests:
        write(records.REQUEST_ARRIVED, request, at)
        write(records.REQUEST_INPUT, request, 350, 26, 324, 0, 0, 0, 1, 0, 0)
        write(records.PREFILL, index, request, 350, 324, 0, 0, 61425, 57510, 1)
    write(records.STEP, index, at, at + unit, 4 * 350, 0, 0, 0, 0, 1400, 1296, 88, 4, 0, 0, 0)
    if gpu:
        write(records.GPU_TIME, index, unit * 9 // 10, -1)
    for request in requests:
        write(records.FIRST_TOKEN, request, at + unit)
    decode = (0, 4, 1400, 1296, 0, 1404, 1296, 88, 4, 0, 0, 4)
    for step in range(1, steps + 1):
        begin = at + step * unit
        write(records.STEP, index + step, begin, begin + unit * 99 // 100, *decode)
        if gpu:
            write(records.GPU_TIME, index + step, unit * 9 // 10, -1)
    for request in requests:
        write(records.REQUEST_FINISHED, request, at + (steps + 1) * unit, 0, steps + 1)


def add_windows(meter: RollingMeter, before_ns: int, now_ns: int) -> None:
    """Tell the meter of the windows that ended in between; a tenth more and less by turns."""
    for number in range(before_ns // WINDOW_NS, now_ns // WINDOW_NS):
        ends = number * WINDOW_NS, (number + 1) * WINDOW_NS
        for gpu in GPUS:
            for key, amount in zip(COUNTERS, AMOUNTS, strict=True):
                meter.add_window(CounterWindow(gpu, key, *ends, amount * (0.9 + number % 3 * 0.1)))


def measure(batches: int, counters: bool) -> dict[str, float]:
    """Write and follow so many batches, with counters or without; return rates and memory."""
    with tempfile.TemporaryDirectory() as folder:
        rings, out = Path(folder) / "rings", Path(folder) / "out"
        info = {names.DEVICE_KIND: "cpu", names.KV_BYTES_PER_TOKEN: 57344, names.MODEL_CONFIG: CONFIG}
        if counters:
            info |= {names.DEVICE_KIND: "cuda", names.HW_ID: ",".join(GPUS)}
        ring = RingWriter.create(str(rings), records.DEFAULT_CAPACITY, "all", 0, info)
        destination = FileDestination(out, "bench", Rotation())
        now_ns = BATCH_NS
        meter = RollingMeter()
        if counters:
            for gpu in GPUS:
                meter.expect(gpu, COUNTERS, WINDOW_NS / NS_PER_S)
        # No time passes for the agent between a finish and its export: the linger is left out of the measure.
        agent = Agent(
            rings,
            [destination],
            LoopSettings(),
            AssemblySettings(finish_linger_ns=0),
            observer=Observer(
                agent_resource("bench"),
                Metrics("bench"),
                sample_s=0,
                series_s=0,
                meter=meter if counters else None,
            ),
            measures=Measures(meter, StepTimeFit) if counters else None,
            clock_ns=lambda: now_ns,
        )
        agent.turn()
        cpu_s = 0.0
        for first in range(1, batches + 1, CHUNK):
            last = min(first + CHUNK, batches + 1)
            for number in range(first, last):
                write_batch(ring, number, counters)
            before_ns, now_ns = now_ns, last * BATCH_NS
            begin = time.process_time()
            if counters:
                add_windows(meter, before_ns, now_ns)
                meter.advance(now_ns)
            while agent.turn():
                pass
            cpu_s += time.process_time() - begin
        begin = time.process_time()
        agent.stop()
        cpu_s += time.process_time() - begin
        ring.close()
        written = batches * RECORDS_PER_BATCH
        rss_bytes = psutil.Process().memory_info().rss
        energy = f'"{names.GPU_ENERGY_MJ}"'
        lines = (line for path in out.glob("*.traces.jsonl") for line in path.open())
        return {
            "records": written,
            "spans": destination.outbox.spans_delivered,
            "spans_with_energy": sum(line.count(energy) for line in lines),
            "records_per_s": written / cpu_s,
            "us_per_record": cpu_s / written * 1e6,
            "rss_bytes": rss_bytes,
            "budget_records_per_s": BUDGET_RECORDS_PER_S,
            "budget_rss_bytes": BUDGET_RSS_BYTES,
        }


def main() -> None:
    """Run and print, as text or with --json as one object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rounds = [
        {name: measure(arguments.batches, name == WITH) for name in (WITHOUT, WITH)}
        for _ in range(max(1, arguments.rounds))
    ]
    results = {}
    for name, first in rounds[0].items():
        rates = [one[name]["records_per_s"] for one in rounds]
        best = rounds[rates.index(max(rates))][name]
        results[name] = {**best, "rss_bytes": first["rss_bytes"], "slowest_records_per_s": min(rates)}
    if arguments.json:
        print(json.dumps(results))
        return
    for name, result in results.items():
        print(
            f"agent, {name}: {result['records_per_s']:,.0f} records/s on one core (slowest of {len(rounds)} rounds "
            f"{result['slowest_records_per_s']:,.0f}, budget {BUDGET_RECORDS_PER_S:,}), "
            f"{result['spans']:,} spans of {result['records']:,} records, {result['spans_with_energy']:,} with energy, "
            f"{result['rss_bytes'] / 1e6:.0f} MB RSS (budget 100)"
        )


if __name__ == "__main__":
    main()
