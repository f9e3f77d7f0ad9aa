"""Attaches to and detaches from busy programs many times and reports what came of it and how long a thread was stopped.

usage: python tests/bench/stress_attach.py [CYCLES]
"""

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "agent"))

from attach_programs import BUSY, busy_program, finish, running

from vtprof_agent.attach.attaching import Options, attach
from vtprof_agent.attach.detaching import detach
from vtprof_agent.attach.outcome import ATTACHED, DETACHED, Outcome
from vtprof_agent.attach.refusal import Refused

PROGRAMS = {
    **{f"{kind}, a sleeping helper": busy_program(kind) for kind in BUSY},
    **{f"{kind}, 3 more workers": busy_program(kind, workers=3) for kind in BUSY if kind != "import"},
}
# Imports are not for several threads at once, and torch has parked threads of its own.
ALONE = {f"{kind}, one thread": busy_program(kind, helper=False) for kind in ("alloc", "malloc", "import")}


def cycle(name: str, program: str, cycles: int) -> None:
    """Run one program through all cycles and print one line."""
    stops: list[float] = []
    problems: list[str] = []
    done = 0
    with tempfile.TemporaryDirectory() as rings, running(program) as process:
        options = Options(Path(rings) / "rings")
        started = time.monotonic()
        for _ in range(cycles):
            try:
                found = attach(process.pid, options) + detach(process.pid, options)
            except Refused as error:
                problems.append(str(error))
                continue
            done += [outcome.result for outcome in found] == [ATTACHED, DETACHED]
            problems += [outcome.reason for outcome in found if outcome.reason]
            stops += stopped(found)
        seconds = time.monotonic() - started
        code, out, errors = finish(process)
    longest = f"{max(stops):.1f}" if stops else "-"
    print(
        f"{name}: {done}/{cycles} cycles in {seconds:.0f} s, longest stop {longest} ms (mean"
        f" {sum(stops) / max(1, len(stops)):.2f}), program: exit {code}, {out.strip()} turns {errors.strip()}"
        + (f"; {problems[0]}" if problems else ""),
        flush=True,
    )


def refuse(name: str, program: str, cycles: int) -> None:
    """Try a program without a parked thread; every try that does not refuse has to leave it unharmed."""
    refused = 0
    with tempfile.TemporaryDirectory() as rings, running(program) as process:
        for _ in range(cycles):
            found = attach(process.pid, Options(Path(rings) / "rings", timeout_s=0.2))
            refused += "no thread of it" in str(found[0].reason)
        code, out, errors = finish(process)
    print(
        f"{name}: refused {refused}/{cycles}, program: exit {code}, {out.strip()} turns {errors.strip()}",
        flush=True,
    )


def stopped(outcomes: list[Outcome]) -> list[float]:
    """Return the times that threads were stopped, in ms."""
    return [outcome.stopped_ms for outcome in outcomes if outcome.stopped_ms is not None]


def main() -> None:
    """Run all programs."""
    cycles = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    for name, program in PROGRAMS.items():
        cycle(name, program, cycles)
    for name, program in ALONE.items():
        refuse(name, program, cycles // 10 or 1)


if __name__ == "__main__":
    main()
