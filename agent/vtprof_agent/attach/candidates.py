"""Says what there is to attach to on this node; looks into /proc alone, for `doctor`."""

import os
import re
from dataclasses import dataclass
from pathlib import PurePath

from vtprof_agent.attach.memory import PROC, mappings
from vtprof_agent.attach.processes import process_name, why_denied

_ENGINES = {
    "vllm": re.compile(r"/vllm/.*\.so$"),
    "sglang": re.compile(r"/(sglang|sgl_kernel)/.*\.so$"),
    "transformers": re.compile(r"/tokenizers/tokenizers[^/]*\.so$"),
}
"""By a library of its own that an engine loads, servers before the library below them. transformers is Python alone: it is
known by its tokenizers."""


@dataclass(frozen=True)
class Candidate:
    """A Python process."""

    pid: int
    name: str | None
    engine: str | None
    """None: no engine is imported, or it cannot be told."""
    denied: str | None
    """Why it may not be attached to; None when it may."""


def candidates() -> list[Candidate]:
    """Return the Python processes of this node by PID, this one left out."""
    pids = sorted(int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit())
    found = (_candidate(pid) for pid in pids if pid != os.getpid())
    return [candidate for candidate in found if candidate is not None]


def _candidate(pid: int) -> Candidate | None:
    try:
        paths = {mapped.path for mapped in mappings(pid)}
    except PermissionError:
        return _denied(pid)
    except OSError:
        return None
    if not any("python" in PurePath(path).name for path in paths):
        return None
    engine = next((name for name, file in _ENGINES.items() if any(map(file.search, paths))), None)
    return Candidate(pid, process_name(pid), engine, None)


def _denied(pid: int) -> Candidate | None:
    """Return what is known of a process that may not be looked into: its command line is everybody's."""
    try:
        words = (PROC / str(pid) / "cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return None
    line = " ".join(words)
    if "python" not in PurePath(words[0]).name and not re.match(r"VLLM::|sglang::", line):
        return None
    engine = next((name for name in ("vllm", "sglang") if re.search(rf"\b{name}\b", line, re.I)), None)
    return Candidate(pid, process_name(pid), engine, why_denied(pid))
