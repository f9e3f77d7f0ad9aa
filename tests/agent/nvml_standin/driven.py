"""The samplers under the real binding and the stand-in, in a process of their own that is told what to do line by line.

The binding loads its library once in a process, so each test has its own; time is the test's.
"""

import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from nvml_standin.standin import Control, environment
from vtprof_agent.samplers.sampler import Device, Sample


class Driven:
    """A process with samplers; ``advance`` moves its clock and the stand-in's."""

    def __init__(self, folder: Path, control: Control) -> None:
        """Start it; ``folder`` holds the library, or nothing: then there is no driver."""
        self._control = control
        self._now_ns = 1_000_000_000
        roots = [str(Path(__file__).parents[1]), *sys.path]
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**environment(folder, control), "PYTHONPATH": ":".join(roots)},
        )

    def __enter__(self) -> "Driven":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
        assert self._process.stdout is not None
        self._process.stdout.close()
        if kind is None:
            assert self._process.returncode == 0

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._now_ns += round(seconds * 1e9)
        self._control.advance(seconds)

    def ask(self, name: str, what: str) -> Any:
        """Call a method without arguments of the sampler of a name, which is made at the first call."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps([name, what, self._now_ns]) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if "raised" in answer:
            raise RuntimeError(answer["raised"])
        return answer["returned"]

    def sample(self, name: str, after_s: float = 0.0) -> list[Sample]:
        """Read once, after so much time."""
        self.advance(after_s)
        return [Sample(**fields) for fields in self.ask(name, "sample")]


def values(samples: Iterable[Sample], key: str) -> dict[str | None, float]:
    """Return the values of one quantity by device."""
    return {sample.hw_id: sample.value for sample in samples if sample.key == key}


def _serve() -> None:
    """Do what is told until there is no more."""
    from vtprof_agent.samplers.gpm import GpmSampler
    from vtprof_agent.samplers.nvml import NvmlSampler
    from vtprof_agent.samplers.nvml_session import NvmlSession
    from vtprof_agent.samplers.pcie import PcieSampler

    now_ns = 0
    session = NvmlSession(clock=lambda: now_ns / 1e9)
    made: dict[str, Any] = {
        "nvml": NvmlSampler(session, lambda: now_ns),
        "gpm": GpmSampler(session, lambda: now_ns),
        "pcie": PcieSampler(session, lambda: now_ns / 1e9),
    }
    for line in sys.stdin:
        name, what, now_ns = json.loads(line)
        method = getattr(made[name], what)
        answer: dict[str, Any]
        try:
            found = method(frozenset()) if what == "sample" else method()
        except Exception as error:
            answer = {"raised": f"{type(error).__name__}: {error}"}
        else:
            many = isinstance(found, list)
            answer = {"returned": [_told(one) for one in found] if many else found}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _told(one: Sample | Device) -> dict[str, Any]:
    return one._asdict() if isinstance(one, Sample) else asdict(one)


if __name__ == "__main__":
    _serve()
