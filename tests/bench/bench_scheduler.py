"""What the hooks on vLLM's scheduler cost a step, on synthetic scheduler output, at 32 and 256 decoding sequences.

``python tests/bench/bench_scheduler.py [--json]`` prints the median time of a step's two hooks and of the two on a
request's coming and leaving, and beside them that of a walk over the batch, which the incremental sums save. Exit code
1 when a step is over its budget.

- decode: all decode, nobody comes or goes
- mixed: in each step one request comes with a prompt of 1,000 tokens and four images, and one leaves
- late: async scheduling; in each step one that has its last token is passed over, then leaves, and one comes
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "probe"))

from vllm_scheduler_doubles import CachedRequests, Feature, Output, Place, Request, Scheduler, Status

from vtprof_probe.engines.vllm_scheduler import SchedulerHooks
from vtprof_probe.recorder import Recorder
from vtprof_probe.ring_writer import RingWriter
from vtprof_schemas import records
from vtprof_schemas.units import NS_PER_US

BUDGET_US = {32: 20.0, 256: 50.0}
SHARED_MEMORY = Path("/dev/shm")
"""Where rings are in production: pages of a file on a disk cost more to touch."""
PROMPT_TOKENS = 1000
IMAGES = tuple((200 * index, 196) for index in range(4))
DECODE, MIXED, LATE = "decode", "mixed", "late"
REQUEST, WALK = "a request comes and leaves", "walk over the batch"


class Engine:
    """Composes steps by hand, faster than the double would, so that many can be timed."""

    def __init__(self, sequences: int, hooks: SchedulerHooks) -> None:
        self.scheduler = Scheduler()
        self.hooks = hooks
        self.names = (f"request-{index}" for index in range(1 << 40))
        self.step_ns = self.request_ns = 0
        """Spent in the hooks since ``restart``."""
        for _ in range(sequences):
            self.arrive()
        self.step(())

    def restart(self) -> None:
        self.step_ns = self.request_ns = 0

    def timed(self, hook: Callable[..., Any], *values: Any) -> Any:
        before = time.perf_counter_ns()
        result = hook(*values)
        self.step_ns += time.perf_counter_ns() - before
        return result

    def timed_request(self, hook: Callable[..., Any], request: Request) -> None:
        before = time.perf_counter_ns()
        hook(self.scheduler, (request,), {})
        self.request_ns += time.perf_counter_ns() - before

    def arrive(self) -> Request:
        request = Request(next(self.names), PROMPT_TOKENS, [Feature(Place(*place)) for place in IMAGES])
        request.status = Status.RUNNING
        self.scheduler.requests[request.request_id] = request
        self.scheduler.running.append(request)
        self.timed_request(self.hooks.add_begins, request)
        return request

    def leave(self, request: Request) -> None:
        self.timed_request(self.hooks.free_begins, request)
        del self.scheduler.requests[request.request_id]
        self.scheduler.running.remove(request)

    def step(self, passed_over: tuple[Request, ...]) -> None:
        """Compose a step of all who run but some, and take its output."""
        token = self.timed(self.hooks.schedule_begins, self.scheduler, (), {})
        tokens, new, cached = {}, [], []
        for request in self.scheduler.running:
            if request in passed_over:
                continue
            key = request.request_id
            first = request.num_computed_tokens == 0
            tokens[key] = PROMPT_TOKENS if first else 1
            (new if first else cached).append(key)
            request.num_computed_tokens += tokens[key]
        output = Output(
            [SimpleNamespace(req_id=key) for key in new],
            CachedRequests(cached, set()),
            tokens,
            sum(tokens.values()),
            {key: [0, 1, 2, 3] for key in new},
            set(),
        )
        self.timed(self.hooks.schedule_ends, token, output, None)
        token = self.timed(self.hooks.update_begins, self.scheduler, (output, None), {})
        for request in self.scheduler.running:
            request.num_output_tokens = max(request.num_computed_tokens - PROMPT_TOKENS + 1, 0)
        self.timed(self.hooks.update_ends, token, None, None)


def scenario(name: str, engine: Engine) -> Iterator[tuple[int, int]]:
    """Run one step after the other; yield the time of its hooks and of its requests' in ns."""
    while True:
        engine.restart()
        passed_over: tuple[Request, ...] = ()
        if name != DECODE:
            engine.arrive()
            last = engine.scheduler.running[0]
            if name == LATE:
                passed_over = (last,)
            engine.step(passed_over)
            engine.leave(last)
        else:
            engine.step(())
        yield engine.step_ns, engine.request_ns


def walk_ns(engine: Engine) -> int:
    """Return the time of one walk that adds up contexts, as a step without memory would have to."""
    requests = engine.scheduler.requests
    before = time.perf_counter_ns()
    context = visual = 0
    for key in list(requests):
        request = requests[key]
        context += request.num_computed_tokens
        for feature in request.mm_features:
            place = feature.mm_position
            visual += max(min(request.num_computed_tokens - place.offset, place.length), 0)
    return time.perf_counter_ns() - before


def measure(steps: int) -> dict[int, dict[str, list[float]]]:
    """Time each scenario at each batch size; µs a step."""
    found: dict[int, dict[str, list[float]]] = {}
    for sequences in BUDGET_US:
        found[sequences] = {}
        for name in (DECODE, MIXED, LATE):
            folder = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
            with tempfile.TemporaryDirectory(dir=folder) as rings:
                ring = RingWriter.create(rings, records.DEFAULT_CAPACITY, "engine", 0, {})
                recorder = Recorder(lambda ring=ring: ring)  # type: ignore[misc]
                engine = Engine(sequences, SchedulerHooks(recorder, recorder.close))
                times = scenario(name, engine)
                for _ in range(steps // 10):
                    next(times)
                spent = [next(times) for _ in range(steps)]
                found[sequences][name] = [step_ns / NS_PER_US for step_ns, _ in spent]
                if name == MIXED:
                    requests = [request_ns / NS_PER_US for _, request_ns in spent]
                if name == DECODE:
                    walks = [walk_ns(engine) / NS_PER_US for _ in range(steps)]
                recorder.close()
                if errors := records.STATE.unpack_from(Path(ring.path).read_bytes(), records.STATE_OFFSET)[2]:
                    raise SystemExit(f"{errors} hook errors")
        found[sequences] |= {REQUEST: requests, WALK: walks}
    return found


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(description="Time of the hooks on vLLM's scheduler.")
    parser.add_argument("--steps", type=int, default=2000, help="steps a scenario")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args(argv)
    if options.steps < 10:
        parser.error("--steps must be at least 10")
    found = measure(options.steps)
    medians = {n: {name: statistics.median(v) for name, v in rows.items()} for n, rows in found.items()}
    within = all(
        medians[sequences][name] <= budget
        for sequences, budget in BUDGET_US.items()
        for name in (DECODE, MIXED, LATE)
    )
    if options.json:
        print(json.dumps({"budget_us": BUDGET_US, "ok": within, "median_us": medians}))
    else:
        print(f"{'hooks of one step, µs':<28}" + "".join(f"{n:>6} sequences" for n in BUDGET_US))
        for name in medians[min(BUDGET_US)]:
            print(f"{name:<28}" + "".join(f"{medians[n][name]:>16.1f}" for n in BUDGET_US))
        budgets = " and ".join(f"{budget:.0f} µs" for budget in BUDGET_US.values())
        print(f"budget {budgets}: {'kept' if within else 'EXCEEDED'}")
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
