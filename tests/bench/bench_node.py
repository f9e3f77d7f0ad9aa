"""What an agent costs a node: eight GPUs read at 10 Hz and 1,000 records a second, most of them folded into windows.

``python tests/bench/bench_node.py [--seconds 60] [--json]``: the real agent with files and a metrics page beside eight
processes that write rings in real time, under the real pynvml with a stand-in for the driver's library. Prints CPU time
over wall time, resident memory and losses; exit code 1 over the budget. What the stand-in itself takes for the calls
that were made is measured apart, with ctypes calls, and taken off: a real driver costs what it costs.

The budget is a part of what a core can do. A core that was idle runs slower at first, so the agent, which sleeps most of
the time, is charged more CPU time than a busy core would take for the same: ``core_pace.py`` measures meanwhile by how
much, and both numbers are printed.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import psutil

AGENT_TESTS = Path(__file__).parents[1] / "agent"
sys.path.insert(0, str(AGENT_TESTS))

import ring_load  # noqa: E402  # stands beside the agent's tests
from agent_process import newest_metric, wait_for  # noqa: E402
from nvml_standin import standin  # noqa: E402

from vtprof_schemas import names  # noqa: E402
from vtprof_schemas.units import NS_PER_S  # noqa: E402

GPUS, RECORDS_PER_S = 8, 1000
BUDGET_CPU_RATIO, AIM_CPU_RATIO, BUDGET_RSS_BYTES = 0.05, 0.02, 100_000_000
CYCLE_S = ring_load.RECORDS / (RECORDS_PER_S / GPUS)
WARM_UP_S = 60.0
"""By then the fits have as many windows as they are made anew for by time alone: as it will go on."""
PROBED_CALLS = 2000
ON_GPU = {names.PHASE_SPANS[phase] for phase in (names.ENCODE, names.PREFILL, names.DECODE)}
SETTLE_S = 4.0
"""At the stop what its last windows hold is not given to phases yet; a request here takes half of that."""


def measure(seconds: float) -> dict[str, Any]:
    """Run agent and writers for so long after a warm-up; return what the agent took."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        library = standin.build(folder / "lib")
        control = standin.Control(folder / "control", gpus=GPUS)
        control.origin_ns = time.monotonic_ns() // int(CYCLE_S * NS_PER_S) * int(CYCLE_S * NS_PER_S)
        for gpu in range(GPUS):
            control.script(gpu, _activity(gpu), repeat=True)
        writers = [_writer(folder / "rings", gpu, seconds + 2 * WARM_UP_S) for gpu in range(GPUS)]
        agent = _agent(folder, standin.environment(library, control))
        try:
            return _watch(folder, control, agent, seconds) | _driver(folder, library, control)
        finally:
            for process in (agent, *writers):
                process.kill()
                process.wait()


def _activity(gpu: int) -> list[tuple[float, standin.Activity]]:
    """Return what the GPU does while a cycle of the writers' runs: a pause, an encoder, a prompt, decode, a pause."""
    step_s = CYCLE_S / (ring_load.STEPS + 1)
    encode = standin.Activity(dram=0.2, tensor=0.5, sm=0.98, occupancy=0.5, power_mw=600_000)
    prefill = standin.Activity(dram=0.4, tensor=0.7, sm=0.98, occupancy=0.5, power_mw=650_000)
    decode = standin.Activity(dram=0.7, tensor=0.1, sm=0.9, occupancy=0.3, power_mw=380_000 + 1000 * gpu)
    rest = standin.Activity(power_mw=90_000)
    parts = [
        (0.5, rest),
        (1 / 3, encode),
        (2 / 3, prefill),
        (float(ring_load.DECODE_STEPS), decode),
        (0.5, rest),
    ]
    return [(steps * step_s, what) for steps, what in parts]


def _writer(rings: Path, gpu: int, seconds: float) -> "subprocess.Popen[str]":
    rate = RECORDS_PER_S / GPUS
    command = [
        sys.executable, str(AGENT_TESTS / "ring_load.py"), str(rings), "65536", str(rate), "paced", "free",
        standin.uuid(gpu),
    ]  # fmt: skip
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert process.stdin is not None
    process.stdin.write(f"{int(seconds * rate / ring_load.RECORDS) + 1}\n")
    process.stdin.flush()
    return process


def _agent(folder: Path, environment: dict[str, str]) -> "subprocess.Popen[str]":
    command = [
        sys.executable, "-m", "vtprof_agent", "run", "--ring-dir", str(folder / "rings"), "--out", str(folder / "out"),
        "--metrics", "127.0.0.1:0",
    ]  # fmt: skip
    log = (folder / "agent.log").open("w")
    return subprocess.Popen(command, env=environment, stderr=log, text=True)


def _watch(
    folder: Path, control: standin.Control, agent: "subprocess.Popen[str]", seconds: float
) -> dict[str, Any]:
    wait_for(lambda: "metrics at http" in (folder / "agent.log").read_text(), 60.0)
    page = next(word for word in (folder / "agent.log").read_text().split() if word.startswith("http"))
    time.sleep(WARM_UP_S)
    process = psutil.Process(agent.pid)
    calls, cpu, begin, begin_unix_ns = control.calls(), _cpu_s(process), time.monotonic(), time.time_ns()
    records = _page(page, "vtprof_agent_records_read_total")
    pacing = [sys.executable, str(Path(__file__).with_name("core_pace.py")), str(seconds - 2)]
    reference = subprocess.Popen(pacing, stdout=subprocess.PIPE, text=True)
    rss, deadline = [], begin + seconds
    while (left := deadline - time.monotonic()) > 0:
        time.sleep(min(5.0, left))
        rss.append(process.memory_info().rss)
        _page(page, "vtprof_agent_records_read_total")  # somebody scrapes it
    spent_s, wall_s = _cpu_s(process) - cpu, time.monotonic() - begin
    pace = float(reference.communicate()[0])
    made = {name: count - calls[name] for name, count in control.calls().items() if count > calls[name]}
    read = _page(page, "vtprof_agent_records_read_total") - records
    detail = _page(page, "vtprof_agent_detail_level")
    agent.send_signal(signal.SIGTERM)
    agent.wait(60)
    texts = [path.read_text() for path in (folder / "out").glob("*.traces.jsonl")]
    ran, counted = _with_energy(texts, begin_unix_ns, begin_unix_ns + int((wall_s - SETTLE_S) * NS_PER_S))
    return {
        "seconds": wall_s,
        "cpu_ratio": spent_s / wall_s,
        "pace": pace,
        "rss_bytes": max(rss),
        "records_per_s": read / wall_s,
        "records_lost": newest_metric(folder / "out", names.AGENT_RECORDS_LOST),
        "spans": sum(text.count('"startTimeUnixNano"') for text in texts),
        "spans_with_counters": sum(text.count(f'"{names.GPU_ENERGY_MJ}"') for text in texts),
        "gpu_phases": ran,
        "gpu_phases_with_energy": counted,
        "detail_level": detail,
        "calls_per_s": {name: count / wall_s for name, count in made.items()},
    }


def _with_energy(texts: list[str], begin_unix_ns: int, end_unix_ns: int) -> tuple[int, int]:
    """Return how many phases on a GPU began within these times, and of how many the energy is told."""
    ran = counted = 0
    for line in (line for text in texts for line in text.splitlines()):
        for resource in json.loads(line)["resourceSpans"]:
            for span in (span for scope in resource["scopeSpans"] for span in scope["spans"]):
                if span["name"] in ON_GPU and begin_unix_ns <= int(span["startTimeUnixNano"]) < end_unix_ns:
                    ran += 1
                    counted += any(one["key"] == names.GPU_ENERGY_MJ for one in span["attributes"])
    return ran, counted


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _page(url: str, name: str) -> float:
    with urllib.request.urlopen(url, timeout=10) as answer:
        lines = answer.read().decode().split("\n")
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def _driver(folder: Path, library: Path, control: standin.Control) -> dict[str, Any]:
    """Return the CPU time of one energy and one GPM call of the stand-in, ctypes included, in microseconds."""
    script = (
        "import ctypes, json, sys, time\n"
        "nvml = ctypes.CDLL(sys.argv[1])\n"
        "assert nvml.nvmlInit_v2() == 0\n"
        "handle, sample, value = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_ulonglong()\n"
        "assert nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(handle)) == 0\n"
        "assert nvml.nvmlGpmSampleAlloc(ctypes.byref(sample)) == 0\n"
        "energy, gpm = nvml.nvmlDeviceGetTotalEnergyConsumption, nvml.nvmlGpmSampleGet\n"
        "out, times = ctypes.byref(value), []\n"
        "for call, other in ((energy, out), (gpm, sample)):\n"
        "    begin = time.process_time()\n"
        f"    for _ in range({PROBED_CALLS}): call(handle, other)\n"
        f"    times.append((time.process_time() - begin) / {PROBED_CALLS} * 1e6)\n"
        "print(json.dumps(times))\n"
    )
    command = [sys.executable, "-c", script, str(library / "libnvidia-ml.so.1")]
    answer = subprocess.run(
        command, env=standin.environment(library, control), check=True, capture_output=True, text=True
    )
    energy_us, gpm_us = json.loads(answer.stdout)
    return {"standin_us_per_call": max(energy_us, gpm_us)}


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and say by the exit code whether the budget holds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args(argv)
    result = measure(options.seconds)
    calls_per_s = sum(result["calls_per_s"].values())
    driver = calls_per_s * result["standin_us_per_call"] * 1e-6
    result |= {
        "driver_ratio": driver,
        "own_cpu_ratio": result["cpu_ratio"] - driver,
        "core_ratio": (result["cpu_ratio"] - driver) / result["pace"],
        "budget_cpu_ratio": BUDGET_CPU_RATIO,
        "budget_rss_bytes": BUDGET_RSS_BYTES,
    }
    if options.json:
        print(json.dumps(result))
    else:
        print(
            f"agent: {result['core_ratio']:.1%} of a busy core (budget {BUDGET_CPU_RATIO:.0%}, aim {AIM_CPU_RATIO:.0%}):"
            f" {result['own_cpu_ratio']:.1%} CPU time, on cores {result['pace']:.2f} times slower in bursts,\n"
            f"       and {driver:.2%} in the stand-in"
            f" ({calls_per_s:.0f} calls/s of {result['standin_us_per_call']:.1f} us)\n"
            f"       {result['rss_bytes'] / 1e6:.0f} MB RSS (budget {BUDGET_RSS_BYTES / 1e6:.0f}), "
            f"{result['records_per_s']:,.0f} records/s, {result['records_lost']} lost, {result['spans']:,} spans, "
            f"energy in {result['gpu_phases_with_energy']:,} of {result['gpu_phases']:,} phases on a GPU;"
            f" detail {result['detail_level']:.0f}"
        )
    failed = (
        result["core_ratio"] > BUDGET_CPU_RATIO
        or result["rss_bytes"] > BUDGET_RSS_BYTES
        or result["records_lost"] > 0
    )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
