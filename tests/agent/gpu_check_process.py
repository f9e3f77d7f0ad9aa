"""Runs tests/gpu/check_counters.py on the stand-in for the driver and its virtual clock, with loads scripted there."""

import json
import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "gpu"))

from check_counters import Clock, main
from counter_series import Work
from loads import COPY, GEMM, TRICKLE, UPLOAD, Loads, TorchLoads
from nvml_standin.standin import VARIABLE, Activity, Control

from vtprof_schemas.errors import BackendError

DRAM_BYTES_PER_S, BF16_FLOP_PER_CYCLE = 3350e9, 132 * 4096.0
"""Of an H100 SXM: the table's bandwidth, and 132 SMs of 4096 FLOP a cycle, 989 TFLOP/s at 1830 MHz."""
CALL_NS = 20_000
"""What looking at the clock takes, and so half of each call."""


class ScriptedLoads:
    """Lets the stand-in do what a load of each kind would; ``truth`` scales what it says of its amount."""

    bf16_per_cycle: float | None = BF16_FLOP_PER_CYCLE

    def __init__(self, control: Control, clock: Clock, truth: float) -> None:
        self._control, self._clock, self._truth = control, clock, truth
        gemm = 0.6 * BF16_FLOP_PER_CYCLE * 1500e6
        self._loads = {
            COPY: (Activity(dram=0.9, sm=0.9, power_mw=400_000), 0.9 * DRAM_BYTES_PER_S, 100),
            TRICKLE: (Activity(dram=0.1, sm=0.2, power_mw=200_000), 0.1 * DRAM_BYTES_PER_S, 95),
            GEMM: (Activity(dram=0.2, tensor=0.6, sm=0.98, power_mw=690_000), gemm, 30),
            UPLOAD: (Activity(dram=0.01, power_mw=120_000), 50e9, 2),
        }
        self._running = (0, 0, 0, 0.0)

    def start(self, kind: str, on_s: float = 1.0, off_s: float = 0.0) -> None:
        activity, rate, busy = self._loads[kind]
        self._control.script(0, [(on_s, activity), (off_s, Activity())], repeat=True)
        self._control.set(0, memory_busy_percent=busy, throttle_power=0.8 if kind == GEMM else 0.0)
        self._control.pcie(0, 1_000, 55_000_000 if kind == UPLOAD else 1_000)
        self._running = (self._clock.now_ns(), round(on_s * 1e9), round(off_s * 1e9), rate * self._truth)

    def stop(self) -> list[Work]:
        since_ns, on_ns, off_ns, rate = self._running
        begins = range(since_ns // (on_ns + off_ns) * (on_ns + off_ns), self._clock.now_ns(), on_ns + off_ns)
        self._control.activity(0, Activity())
        return [Work(begin, begin + on_ns, rate * on_ns / 1e9) for begin in begins]


def run() -> int:
    """Run as told: a JSON object of options, then the program's own arguments."""
    told = json.loads(sys.argv[1])
    path = Path(os.environ[VARIABLE])
    control = Control(
        path, 2, virtual=True, gpm=told.get("gpm", True), gpm_refresh_s=told.get("refresh_s", 0.0)
    )
    path.chmod(told.get("mode", 0o666))
    control.set(0, name=b"NVIDIA H100 80GB HBM3", sm_clock_mhz=1500)  # type: ignore[arg-type]
    if told.get("mig"):
        control.instances(0, [("MIG-standin-0", 3, True, 0.5)])
    for call, result in told.get("fail", {}).items():
        control.fail(0, call, result)

    def look() -> int:
        control.advance(CALL_NS / 1e9)
        return control.virtual_ns

    clock = Clock(look, control.advance)

    def make(uuid: str) -> Loads:
        if told.get("loads") == "none":
            raise BackendError("torch is not installed")
        if told.get("loads") == "torch":
            return TorchLoads(uuid)
        return ScriptedLoads(control, clock, told.get("truth", 1.0))

    return main(sys.argv[2:], make, clock)


if __name__ == "__main__":
    sys.exit(run())
