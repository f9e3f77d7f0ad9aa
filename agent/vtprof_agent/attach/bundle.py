"""The probe as one file: read at once, and imported in the target without a folder on its path.

Each module from a folder would cost a busy host some 10 file calls, after each of which the import waits for the GIL.
"""

import json
from importlib.util import find_spec
from pathlib import Path

from vtprof_agent.attach.refusal import Refused
from vtprof_agent.staging import PACKAGES

BOOTSTRAP = "bootstrap"
"""Sub-package that only a staged folder needs."""


def bundle() -> str:
    """Return all modules of the probe as JSON: name to [is it a package, its source]. Raises Refused."""
    modules: dict[str, tuple[bool, str]] = {}
    for package in PACKAGES:
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise Refused(f"the package {package} is not installed beside the agent; reinstall vtprof")
        folder = Path(spec.submodule_search_locations[0])
        for path in sorted(folder.rglob("*.py")):
            inside = path.relative_to(folder)
            if inside.parts[0] != BOOTSTRAP:
                parts = inside.with_suffix("").parts
                is_package = parts[-1] == "__init__"
                name = ".".join((package, *(parts[:-1] if is_package else parts)))
                modules[name] = is_package, path.read_text(encoding="utf-8")
    return json.dumps(modules)
