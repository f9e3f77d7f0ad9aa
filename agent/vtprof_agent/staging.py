"""Copies the probe, the schemas and the bootstrap into a folder, from which PYTHONPATH brings them into any Python."""

import shutil
from importlib.util import find_spec
from pathlib import Path

from vtprof_schemas import names
from vtprof_schemas.errors import BackendError

PACKAGES = ("vtprof_probe", "vtprof_schemas")
BOOTSTRAP = Path("vtprof_probe") / "bootstrap" / "sitecustomize.py"


def stage(folder: Path) -> None:
    """Copy what an inference image needs; what an earlier staging left is replaced. Raises BackendError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for package in PACKAGES:
            _copy_package(package, folder / package)
        shutil.copyfile(folder / BOOTSTRAP, folder / BOOTSTRAP.name)
    except OSError as error:
        raise BackendError(
            f"{folder}: the probe cannot be staged there: {error.strerror or error}"
        ) from error


def child_environment(folder: Path, ring_dir: Path, environment: dict[str, str]) -> dict[str, str]:
    """Return an environment in which every Python below starts with the probe of a staged folder."""
    path = environment.get("PYTHONPATH")
    return {
        **environment,
        "PYTHONPATH": f"{folder}:{path}" if path else str(folder),
        names.ENV_ENABLE: "1",
        names.ENV_RING_DIR: str(ring_dir),
        # The agent made it and takes it away: a daemon that outlives the command must not make it again.
        names.ENV_RING_DIR_FIXED: "1",
    }


def _copy_package(package: str, target: Path) -> None:
    # Found and not imported: the probe belongs into another process.
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise BackendError(f"the package {package} is not installed beside the agent; reinstall vtprof")
    source = Path(spec.submodule_search_locations[0])
    fresh = target.with_name(target.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(source, fresh, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)
