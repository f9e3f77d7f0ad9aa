"""What the hooks on SGLang's scheduler cost a step, on synthetic batches, at 32 and 256 decoding requests.

``python tests/bench/bench_sglang_steps.py [--json]`` prints the median time of a step's two hooks, with the records into a
real ring. Exit code 1 when a step is over its budget. Speculative decoding has none: there contexts are summed anew.

- decode: all decode, nobody comes or goes
- prefill: a prompt of 1,000 tokens with four images
- changed: a decode step that one request has joined and one has left
- speculative: decode steps whose requests grow by more than one token
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "probe"))

from sglang_doubles import Mode, Req, ScheduleBatch, Scheduler, item

from vtprof_probe.engines.sglang_encoder import EncoderHooks
from vtprof_probe.engines.sglang_scheduler import SchedulerHooks
from vtprof_probe.hooks.patches import Patches
from vtprof_probe.recorder import Recorder
from vtprof_probe.ring_writer import RingWriter
from vtprof_schemas import records
from vtprof_schemas.units import NS_PER_US

BUDGET_US = {32: 20.0, 256: 50.0}
SHARED_MEMORY = Path("/dev/shm")
"""Where rings are in production: pages of a file on a disk cost more to touch."""
PROMPT_TOKENS = 1000
DECODE, PREFILL, CHANGED, SPECULATIVE = "decode", "prefill", "changed", "speculative"


class Engine:
    """Puts batches together by hand and times what the hooks do with them."""

    def __init__(self, requests: int, recorder: Recorder) -> None:
        patches = Patches(recorder.fault)
        self.hooks = SchedulerHooks(recorder, EncoderHooks(recorder, patches), recorder.close)
        self.scheduler = Scheduler()
        self.names = (f"request-{index}" for index in range(1 << 40))
        self.running: list[Req] = []
        for _ in range(requests):
            self.prefill()
        self.decode()

    def _step(self, batch: ScheduleBatch, before_result: Callable[[], None] = lambda: None) -> float:
        result = SimpleNamespace()
        begun = time.perf_counter_ns()
        token = self.hooks.run_begins(self.scheduler, (batch,), {})
        spent = time.perf_counter_ns() - begun
        self.scheduler.forward_ct += 1
        before_result()
        begun = time.perf_counter_ns()
        self.hooks.run_ends(token, result, None)
        token = self.hooks.result_begins(self.scheduler, (batch, result), {})
        self.hooks.result_ends(token, None, None)
        return (spent + time.perf_counter_ns() - begun) / NS_PER_US

    def prefill(self) -> float:
        """Run one prompt."""
        images = [item(200 * index, 200 * index + 195, (1, 28, 28)) for index in range(4)]
        req = Req(next(self.names), PROMPT_TOKENS, items=images)
        self.hooks.enqueue_begins(self.scheduler, (req,), {})
        batch = ScheduleBatch([req], Mode.EXTEND)
        batch.prefix_lens, batch.extend_lens = [0], [PROMPT_TOKENS]
        self.running.append(req)
        return self._step(batch)

    def decode(self, speculative: bool = False) -> float:
        """Let all decode."""
        batch = ScheduleBatch(self.running, Mode.DECODE)
        batch.seq_lens_sum = (PROMPT_TOKENS + 1) * len(self.running)
        batch.spec_algorithm = SimpleNamespace(is_none=lambda: not speculative)
        return self._step(batch)

    def change(self) -> None:
        """Let one finish and another come."""
        self.running[0].finished_reason = {"type": "stop"}
        self.decode()
        self.running = self.running[1:]
        self.prefill()


def measure(steps: int) -> dict[int, dict[str, list[float]]]:
    """Time each kind of step at each batch size; µs a step."""
    found: dict[int, dict[str, list[float]]] = {}
    for requests in BUDGET_US:
        times: dict[str, list[float]] = {DECODE: [], PREFILL: [], CHANGED: [], SPECULATIVE: []}
        folder = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
        with tempfile.TemporaryDirectory(dir=folder) as rings:
            ring = RingWriter.create(rings, records.DEFAULT_CAPACITY, "engine", 0, {})
            recorder = Recorder(lambda ring=ring: ring)  # type: ignore[misc]
            engine = Engine(requests, recorder)
            for turn in range(steps + steps // 10):
                engine.change()
                timed: dict[str, Any] = {CHANGED: engine.decode(), DECODE: engine.decode()}
                timed[PREFILL] = engine.prefill()
                engine.running.pop()
                timed[SPECULATIVE] = engine.decode(speculative=True)
                if turn >= steps // 10:
                    for kind, spent in timed.items():
                        times[kind].append(spent)
            recorder.close()
            if errors := records.STATE.unpack_from(Path(ring.path).read_bytes(), records.STATE_OFFSET)[2]:
                raise SystemExit(f"{errors} hook errors")
        found[requests] = times
    return found


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(description="Time of the hooks on SGLang's scheduler.")
    parser.add_argument("--steps", type=int, default=1000, help="steps of each kind")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args(argv)
    if options.steps < 10:
        parser.error("--steps must be at least 10")
    medians = {
        requests: {kind: statistics.median(spent) for kind, spent in kinds.items()}
        for requests, kinds in measure(options.steps).items()
    }
    within = all(
        median <= BUDGET_US[requests]
        for requests, kinds in medians.items()
        for kind, median in kinds.items()
        if kind != SPECULATIVE
    )
    if options.json:
        print(json.dumps({"us_per_step": medians, "budget_us": BUDGET_US, "within": within}))
        return 0 if within else 1
    for requests, kinds in medians.items():
        print(f"{requests} requests, budget {BUDGET_US[requests]:.0f} µs a step")
        for kind, median in kinds.items():
            print(f"  {kind:<12}{median:6.1f} µs")
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
