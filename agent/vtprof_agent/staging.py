"""Copies the probe, the schemas and the bootstrap into a folder, from which PYTHONPATH brings them into any Python.

The folder says of itself what an installed distribution says: engines that look for plugins find the probe there, also
where another `sitecustomize` keeps the bootstrap from running.
"""

import shutil
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from vtprof_schemas import names
from vtprof_schemas.errors import BackendError

PACKAGES = ("vtprof_probe", "vtprof_schemas")
PLUGIN_GROUPS = ("vllm.general_plugins", "sglang.srt.plugins")
PLUGIN = "vtprof = vtprof_probe.plugin:load"
BOOTSTRAP = Path("vtprof_probe") / "bootstrap" / "sitecustomize.py"


def stage(folder: Path) -> None:
    """Copy what an inference image needs; what an earlier staging left is replaced. Raises BackendError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for package in PACKAGES:
            _copy_package(package, folder / package)
        shutil.copyfile(folder / BOOTSTRAP, folder / BOOTSTRAP.name)
        _write_dist_info(folder)
    except OSError as error:
        raise BackendError(
            f"{folder}: the probe cannot be staged there: {error.strerror or error}"
        ) from error


def release() -> str:
    """Return the version of vtprof, "0" where it runs without being installed."""
    try:
        return version("vtprof")
    except PackageNotFoundError:
        return "0"


def probe_environment(folder: Path, ring_dir: Path) -> dict[str, str]:
    """Return the variables that turn the probe of a staged folder on."""
    return {"PYTHONPATH": str(folder), names.ENV_ENABLE: "1", names.ENV_RING_DIR: str(ring_dir)}


def child_environment(folder: Path, ring_dir: Path, environment: dict[str, str]) -> dict[str, str]:
    """Return an environment in which every Python below starts with the probe of a staged folder."""
    path = environment.get("PYTHONPATH")
    return {
        **environment,
        **probe_environment(folder, ring_dir),
        "PYTHONPATH": f"{folder}:{path}" if path else str(folder),
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


def _write_dist_info(folder: Path) -> None:
    """Write what `importlib.metadata` reads of a distribution: its name, its version and its entry points."""
    for stale in folder.glob("vtprof_probe-*.dist-info"):
        shutil.rmtree(stale)
    target = folder / f"vtprof_probe-{release()}.dist-info"
    target.mkdir()
    target.joinpath("METADATA").write_text(
        f"Metadata-Version: 2.1\nName: vtprof-probe\nVersion: {release()}\n", encoding="utf-8"
    )
    entries = "\n".join(f"[{group}]\n{PLUGIN}\n" for group in PLUGIN_GROUPS)
    target.joinpath("entry_points.txt").write_text(entries, encoding="utf-8")
