"""A larger batch against reality: vLLM on this CPU with few running requests and with as many as the finding advises.

Both servers run a tiny random-weight model under probe and agent and take turns, block of requests by block, under the same
closed load: as many clients as there are, each sending its next request once the last is answered.
"""

import math
import random
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Final

from savings_prediction import Traces, read_traces

TESTS: Final = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS / "engines"), str(TESTS / "agent"), str(TESTS / "fixtures" / "vllm")]

import tiny_model  # noqa: E402  # the engine tests' own
from engine_places import venv_folder  # noqa: E402
from engine_server import agent_command, serving  # noqa: E402
from workload import Case, send  # noqa: E402

FEW_REQUESTS: Final = 2
"""`--max-num-seqs` of the deployment that is asked about."""
ADVISED_REQUESTS: Final = 512
"""Its value in the advice."""
CLIENTS: Final = 8
OUTPUT_TOKENS: Final = 96
BLOCK_REQUESTS: Final = 32
OPTIONS: Final = ("--max-model-len", "2048", "--max-num-batched-tokens", "1024")


@dataclass(frozen=True)
class BatchRun:
    """Output tokens per second of each block, with few running requests and with many, and both servers' traces."""

    few: list[float]
    many: list[float]
    few_traces: Traces
    many_traces: Traces

    def log_gains(self) -> list[float]:
        """Return the logarithm of many over few, round by round."""
        return [math.log(many / few) for few, many in zip(self.few, self.many, strict=True)]


def installed() -> bool:
    """Tell whether there is a vLLM to run."""
    return (venv_folder() / "bin" / "vllm").exists()


def measure(folder: Path, rounds: int, rng: random.Random) -> BatchRun:
    """Load both servers in turn and analyze what was recorded of each."""
    model = folder / tiny_model.MODEL_NAME
    tiny_model.write_model(model)
    limits = {"few": FEW_REQUESTS, "many": ADVISED_REQUESTS}
    rates: dict[str, list[float]] = {name: [] for name in limits}
    with ExitStack() as held:
        ports = {name: held.enter_context(_served(folder, model, name, limits[name])) for name in limits}
        for number in range(rounds):
            for name in rng.sample(list(ports), len(ports)):
                rates[name].append(_tokens_per_s(ports[name], number))
            print(
                f"  round {number + 1} of {rounds}: {rates['few'][-1]:.0f} and {rates['many'][-1]:.0f} tokens/s",
                file=sys.stderr,
                flush=True,
            )
    traces = {
        name: read_traces(folder / name / "out", folder / f"{name}.db", "instance_facts") for name in limits
    }
    return BatchRun(rates["few"], rates["many"], traces["few"], traces["many"])


@contextmanager
def _served(folder: Path, model: Path, name: str, most_requests: int) -> Iterator[int]:
    """Run vLLM with so many running requests at most under the agent; yield its port once it has answered a few."""
    agent = agent_command("exec", "--out", str(folder / name / "out"), "--calibrate-host", "--")
    options = (*OPTIONS, "--max-num-seqs", str(most_requests))
    with serving(venv_folder(), model, folder / name, options, agent) as server:
        yield server.port


def _tokens_per_s(port: int, number: int) -> float:
    """Send a block from `CLIENTS` clients; return output tokens per second."""
    cases = [
        Case(
            "saving",
            f"{number:04d}-{place:04d} what is this? ".ljust(64, "y"),
            max_tokens=OUTPUT_TOKENS,
        )
        for place in range(BLOCK_REQUESTS)
    ]
    bodies = [case.body() for case in cases]
    with ThreadPoolExecutor(CLIENTS) as pool:
        begin = time.monotonic()
        answers = list(pool.map(send, cases, bodies, repeat(port)))
        elapsed = time.monotonic() - begin
    return float(sum(answer["completion_tokens"] for answer in answers)) / elapsed
