"""`vtprof --help` answers at once: it loads nothing heavy. (How fast that is: `tests/bench/bench_cli.py`.)"""

import json
import subprocess
import sys

from vtprof_analyzer.cli.app import COMMANDS

HEAVY = {
    "altair",
    "duckdb",
    "jsonschema",
    "numpy",
    "opentelemetry",
    "polars",
    "rich",
    "torch",
    "transformers",
    "vl_convert",
}
SHOW_LOADED = """
import json, sys
sys.argv = ["vtprof", *sys.argv[1:]]
from vtprof_analyzer.cli import main
try:
    main()
except SystemExit:
    pass
print("LOADED " + json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def loaded_by(*arguments: str) -> set[str]:
    command = [sys.executable, "-c", SHOW_LOADED, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(json.loads(result.stdout.rpartition("LOADED ")[2]))


def test_help_loads_no_heavy_package() -> None:
    assert loaded_by("--help") & HEAVY == set()


def test_help_of_every_command_loads_no_heavy_package() -> None:
    for command in COMMANDS:
        assert loaded_by(command, "--help") & HEAVY == set(), command


def test_counting_tokens_loads_no_heavy_package_and_estimating_numpy_alone() -> None:
    model = ("Qwen2.5-VL-7B", "--image", "512x512")
    assert loaded_by("tokens", *model) & HEAVY == set()
    assert loaded_by("estimate", *model, "--device", "h200") & HEAVY == {"numpy"}
