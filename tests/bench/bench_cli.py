"""Start-up of the commands: median wall time, beside a bare interpreter.

Exits 1 when `--help` is over its budget of 150 ms, or `tokens` or `estimate` over theirs of 300 ms.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

BUDGET_MS = {"vtprof --help": 150, "vtprof tokens": 300, "vtprof estimate": 300}
BIN = Path(sys.executable).parent


def median_ms(command: list[str], runs: int) -> float:
    """Return the median wall time of a command in milliseconds, after one run that warms the caches."""
    times = []
    for _ in range(runs + 1):
        begin = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append((time.perf_counter() - begin) * 1e3)
    return statistics.median(times[1:])


def main() -> int:
    """Measure, print a table or JSON, and say by the exit code whether the budget holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "vtprof --help": [str(BIN / "vtprof"), "--help"],
        "vtprof tokens": [str(BIN / "vtprof"), "tokens", "Qwen2.5-VL-7B", "--image", "1024x1024"],
        "vtprof estimate": [
            str(BIN / "vtprof"),
            "estimate",
            "Qwen2.5-VL-7B",
            "--device",
            "h200",
            "--image",
            "9x9",
        ],
        "vtprof-agent --help": [str(BIN / "vtprof-agent"), "--help"],
    }
    results = {name: median_ms(command, options.runs) for name, command in commands.items()}
    if options.json:
        print(json.dumps({"median_ms": results, "budget_ms": BUDGET_MS}))
    else:
        for name, value in results.items():
            print(f"{name:<22}{value:8.0f} ms")
    return int(any(results[name] > budget for name, budget in BUDGET_MS.items()))


if __name__ == "__main__":
    sys.exit(main())
