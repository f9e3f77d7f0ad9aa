"""What the probe costs a real vLLM: the same load on the same server, probe attached and detached in turn.

Prints throughput and latency as ratios on / off with a 95 % interval. Each round is a block with the probe and one
without, in random order; the interval is a bootstrap over rounds. With --by restart the server is started anew for
each block instead, which adds the differences between two runs of one program to the noise. Client, server and agent
share the machine's cores, so the agent's own work is in the ratio; and the tiny model's steps take 2 ms, so that a fixed
cost a step weighs ten times what it does in a real one. Run by `make bench-engines`.
"""

import argparse
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Final

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "agent"), str(HERE.parent / "fixtures" / "vllm")]

import tiny_model  # noqa: E402
from agent_beside import AgentBeside  # noqa: E402
from engine_places import VENV_VARIABLE, venv_folder  # noqa: E402
from engine_server import Server, agent_command, serving  # noqa: E402
from workload import Case, Image, send  # noqa: E402

REQUESTS_PER_BLOCK: Final = 112
SETTLING: Final = 16
"""Of them, sent first and not measured: the first request after an attach imports the rest of the hooks."""
AT_ONCE: Final = 4
OUTPUT_TOKENS: Final = 48
WARM_UP: Final = (-2, -1)
"""Numbers of the blocks that are sent first and not measured."""
RESAMPLES: Final = 4000
OPTIONS: Final = (
    "--max-model-len",
    "2048",
    "--max-num-batched-tokens",
    "1024",
    "--max-num-seqs",
    str(AT_ONCE),
)
METRICS: Final = ("throughput", "p99", "p50")


@dataclass(frozen=True)
class Block:
    """What one block of load measured."""

    tokens_per_s: float
    latencies_s: tuple[float, ...]
    """From the sending of each request to its last byte."""

    def value(self, metric: str) -> float:
        """Return a metric; an interpolated percentile in seconds, or tokens per second."""
        if metric == "throughput":
            return self.tokens_per_s
        return percentile(self.latencies_s, int(metric.removeprefix("p")) / 100)


def percentile(values: Sequence[float], share: float) -> float:
    """Return a percentile, interpolated linearly."""
    ordered, place = sorted(values), share * (len(values) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def block(port: int, number: int) -> Block:
    """Send a block of requests, half of them with an image, none like that of another block.

    The bytes repeat after 256 images; another height, which is resized to the same one, makes others of them.
    """
    cases = [
        Case(
            "bench",
            f"{number:04d}-{place:04d} what is this? ".ljust(100 + 10 * (place % 16), "y"),
            (
                Image(
                    224 + number // 2, 56 * (2 + place % 6), tint=(number * REQUESTS_PER_BLOCK + place) % 256
                ),
            )
            * (place % 2),
            max_tokens=OUTPUT_TOKENS,
        )
        for place in range(REQUESTS_PER_BLOCK)
    ]
    bodies = [case.body() for case in cases]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(send, cases[:SETTLING], bodies[:SETTLING], repeat(port)))
        begin = time.monotonic()
        answers = list(pool.map(send, cases[SETTLING:], bodies[SETTLING:], repeat(port)))
        elapsed = time.monotonic() - begin
    tokens = sum(answer["completion_tokens"] for answer in answers)
    latencies = tuple((answer["received_unix_ns"] - answer["sent_unix_ns"]) / 1e9 for answer in answers)
    return Block(tokens / elapsed, latencies)


def ratio(rounds: Sequence[tuple[Block, Block]], metric: str, rng: random.Random) -> dict[str, float]:
    """Return the geometric mean of on / off over rounds with its 95 % bootstrap interval."""
    logs = [math.log(on.value(metric) / off.value(metric)) for on, off in rounds]
    means = sorted(sum(rng.choices(logs, k=len(logs))) / len(logs) for _ in range(RESAMPLES))
    return {
        "ratio": math.exp(sum(logs) / len(logs)),
        "low": math.exp(percentile(means, 0.025)),
        "high": math.exp(percentile(means, 0.975)),
    }


def by_attach(
    venv: Path, model: Path, folder: Path, rounds: int, rng: random.Random
) -> list[tuple[Block, Block]]:
    """Measure on one server that is attached to and detached from in turn."""
    beside = AgentBeside(folder)
    measured = []
    try:
        with serving(venv, model, folder, OPTIONS) as server:
            beside.start()
            for number in WARM_UP:
                block(server.port, number)
            for number in range(rounds):
                found = {}
                for place, on in enumerate(rng.sample((True, False), 2)):
                    if on:
                        agent("attach", str(server.api_pid()), "--ring-dir", str(beside.rings))
                    found[on] = block(server.port, 2 * number + place)
                    if on:
                        agent("detach", str(server.api_pid()), "--ring-dir", str(beside.rings))
                measured.append((found[True], found[False]))
                show(number, measured[-1])
    finally:
        beside.close()
    return measured


def by_restart(
    venv: Path, model: Path, folder: Path, rounds: int, rng: random.Random
) -> list[tuple[Block, Block]]:
    """Measure on a server of its own for each block."""
    measured = []
    for number in range(rounds):
        found = {}
        for place, on in enumerate(rng.sample((True, False), 2)):
            with started(venv, model, folder / f"{number}-{place}", on) as server:
                for warm in WARM_UP:
                    block(server.port, warm)
                found[on] = block(server.port, 0)
        measured.append((found[True], found[False]))
        show(number, measured[-1])
    return measured


@contextmanager
def started(venv: Path, model: Path, folder: Path, on: bool) -> Iterator[Server]:
    """Run a server with the probe and an agent, or without both."""
    words = agent_command("exec", "--out", str(folder / "out"), "--") if on else ()
    with serving(venv, model, folder, OPTIONS, words) as server:
        yield server


def agent(*words: str) -> None:
    """Run a command of the agent; raises CalledProcessError."""
    subprocess.run(agent_command(*words), check=True, stdout=subprocess.DEVNULL)


def show(number: int, pair: tuple[Block, Block]) -> None:
    """Print a round's values as it ends."""
    on, off = pair
    print(
        f"round {number + 1}: tokens/s {on.tokens_per_s:.1f} on, {off.tokens_per_s:.1f} off;"
        f" p99 {on.value('p99') * 1e3:.0f} ms on, {off.value('p99') * 1e3:.0f} ms off",
        file=sys.stderr,
        flush=True,
    )


WAYS: Final[dict[str, Callable[[Path, Path, Path, int, random.Random], list[tuple[Block, Block]]]]] = {
    "attach": by_attach,
    "restart": by_restart,
}


def main() -> None:
    """Run and print, as text or with --json as one object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--by", choices=WAYS, default="attach")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    venv = venv_folder()
    if not (venv / "bin" / "vllm").exists():
        sys.exit(f"no vLLM in {venv}; run `make bench-engines`, or name a folder in {VENV_VARIABLE}")
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / tiny_model.MODEL_NAME
        tiny_model.write_model(model)
        rounds = WAYS[arguments.by](venv, model, Path(scratch) / "run", arguments.rounds, rng)
    result = {metric: ratio(rounds, metric, rng) for metric in METRICS}
    if arguments.json:
        print(json.dumps({"rounds": len(rounds), "by": arguments.by, **result}))
        return
    for metric, found in result.items():
        print(
            f"probe on / off, {metric}: {found['ratio']:.3f} (95 %: {found['low']:.3f} to {found['high']:.3f},"
            f" {len(rounds)} rounds by {arguments.by})"
        )


if __name__ == "__main__":
    main()
