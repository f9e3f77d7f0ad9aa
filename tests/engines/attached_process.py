"""Looks into a process that is attached to and left again: what it holds, and what a Python expression is in it."""

import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from vtprof_agent.attach.execution import host
from vtprof_agent.attach.injector import alone, inject
from vtprof_agent.attach.memory import mappings

WRAPPED = (
    "sorted({f'{owner.__name__}.{name}' for key, module in list(sys.modules.items()) if key.split('.')[0] == 'vllm'"
    " for owner in [module, *(found for found in list(vars(module).values()) if isinstance(found, type))]"
    " for name, found in list(vars(owner).items())"
    " if type(found) is type(lambda: 0) and '__vtprof_wrapper__' in vars(found)})"
)
"""The attributes of vLLM's classes and modules that are wrappers of the probe."""
_WAIT_S = 60.0
_SOURCE = """
import json, os, sys
try:
    answer = json.dumps([eval(expression, globals()), None])
except Exception as error:
    answer = json.dumps([None, repr(error)])
with open(path + ".new", "w") as file:
    file.write(answer)
os.rename(path + ".new", path)
"""


@dataclass(frozen=True)
class Holdings:
    """What a process holds that could grow with each attach."""

    mappings: int
    threads: int
    files: int
    resident_mb: float

    @classmethod
    def of(cls, pid: int) -> "Holdings":
        """Count them now."""
        process = psutil.Process(pid)
        resident = process.memory_info().rss / 1e6
        return cls(len(mappings(pid)), process.num_threads(), process.num_fds(), resident)


def evaluate(pid: int, expression: str) -> Any:
    """Return the value of an expression in a Python process, by attach's own way in; it must be known to JSON."""
    with tempfile.TemporaryDirectory() as folder, host(pid) as target:
        answer = Path(folder) / "answer"
        names = {"path": str(answer), "expression": expression}
        text = f"__import__('builtins').exec({_SOURCE!r}, {names!r})"
        deadline = time.monotonic() + _WAIT_S
        with alone(pid, deadline):
            inject(pid, target.interpreter, target.machine, target.memory, text, deadline)
        while not answer.exists():
            assert time.monotonic() < deadline, f"no answer to {expression!r}"
            time.sleep(0.01)
        value, error = json.loads(answer.read_text())
    assert error is None, error
    return value
