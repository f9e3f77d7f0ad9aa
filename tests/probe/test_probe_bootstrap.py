"""The probe in processes of its own: bare, in every Python at hand, and under a user's script that knows nothing of it."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import vtprof_probe
import vtprof_schemas
from vtprof_schemas import names, records

PROBE = Path(vtprof_probe.__file__).parent
SCHEMAS = Path(vtprof_schemas.__file__).parent
SOURCES = sorted([*PROBE.rglob("*.py"), *SCHEMAS.rglob("*.py")])
PYTHONS = ("3.9", "3.10", "3.11", "3.12", "3.13", "3.14")


def interpreters() -> list[str]:
    """Return the Pythons of this machine from 3.9 on, one for each version."""
    found = {}
    for version in PYTHONS:
        homes = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}"))
        path = str(homes[0]) if homes else shutil.which(f"python{version}")
        if path and subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0:
            found[version] = path
    return list(found.values()) or [sys.executable]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder as `vtprof-agent stage` makes it: bootstrap, probe and schemas."""
    folder = tmp_path_factory.mktemp("stage")
    shutil.copy(PROBE / "bootstrap" / "sitecustomize.py", folder)
    for package in (PROBE, SCHEMAS):
        shutil.copytree(package, folder / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def run(
    python: str, code: str, stage: Path, rings: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    clean = {
        key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VTPROF", "COV"))
    }
    settings = {
        names.ENV_ENABLE: "1",
        names.ENV_RING_DIR: str(rings),
        "PYTHONPATH": str(stage),
        **environment,
    }
    return subprocess.run(
        [python, "-c", code], env=clean | settings, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_source_is_python_3_9(source: Path) -> None:
    ast.parse(source.read_text(), feature_version=(3, 9))


def test_sources_use_nothing_newer_than_python_3_9() -> None:
    vermin = shutil.which("vermin", path=str(Path(sys.executable).parent)) or shutil.which("vermin")
    if vermin is None:
        pytest.skip("vermin is not installed")
    command = [vermin, "--no-tips", "--violations", "-t=3.9-", str(PROBE), str(SCHEMAS)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("python", interpreters())
def test_bare_import_loads_the_standard_library_only(python: str) -> None:
    code = (
        f"import sys; sys.path[:0] = [{str(PROBE.parent)!r}, {str(SCHEMAS.parent)!r}]; before = set(sys.modules)\n"
        "import vtprof_probe, vtprof_probe.ring_writer, vtprof_probe.engines.transformers_vlm\n"
        "loaded = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "foreign = {'torch', 'transformers', 'numpy', 'PIL', 'vtprof_probe', 'vtprof_schemas'}\n"
        "known = getattr(sys, 'stdlib_module_names', None) or loaded - foreign\n"
        "print(sorted(loaded - set(known)))"
    )
    ran = subprocess.run([python, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
    assert ran.stderr == ""
    assert set(ast.literal_eval(ran.stdout)) == {"vtprof_probe", "vtprof_schemas"}


@pytest.mark.parametrize("python", interpreters())
def test_process_without_an_engine_loads_no_probe_and_makes_no_ring(
    python: str, stage: Path, tmp_path: Path
) -> None:
    ran = run(python, "import sys; print('vtprof_probe' in sys.modules)", stage, tmp_path / "rings")
    assert (ran.stdout, ran.stderr, ran.returncode) == ("False\n", "", 0)
    assert not (tmp_path / "rings").exists()


def test_hidden_sitecustomize_still_runs(stage: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import builtins; builtins.theirs = __file__\n")
    path = os.pathsep.join([str(stage), str(tmp_path)])
    ran = run(sys.executable, "import builtins; print(builtins.theirs)", stage, tmp_path, PYTHONPATH=path)
    assert ran.stdout.strip() == str(tmp_path / "sitecustomize.py")
    assert ran.stderr == ""


def test_probe_starts_when_an_engine_is_imported(stage: Path, tmp_path: Path) -> None:
    (tmp_path / "transformers.py").write_text("")
    path = os.pathsep.join([str(stage), str(tmp_path)])
    code = (
        "import sys, transformers, vtprof_probe\n"
        "print(vtprof_probe.enabled(), 'vtprof_probe.engines.transformers_vlm' in sys.modules)"
    )
    ran = run(sys.executable, code, stage, tmp_path / "rings", PYTHONPATH=path)
    assert (ran.stdout, ran.stderr) == ("True True\n", "")
    assert not (tmp_path / "rings").exists()


@pytest.mark.torch
def test_users_script_is_recorded_without_a_change(stage: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    code = (
        "import torch; from vtprof_analyzer.demo import tiny_model\n"
        "model, processor = tiny_model.build_model(), tiny_model.build_processor()\n"
        "model.generate(**processor(text=['hello'], return_tensors='pt'), max_new_tokens=3, min_new_tokens=3)"
    )
    ran = run(sys.executable, code, stage, tmp_path / "rings")
    assert ran.returncode == 0, ran.stderr
    (ring,) = (tmp_path / "rings").glob("*" + records.RING_SUFFIX)
    data = ring.read_bytes()
    kinds = []
    for start in range(records.HEADER_BYTES, len(data), records.RECORD_BYTES):
        kind, _, sequence = records.RECORD_PREFIX.unpack_from(data, start + records.CRC.size)
        if sequence == 0:
            break
        kinds.append(records.KINDS[kind].name)
    assert kinds == [
        "request_arrived", "preprocess", "queue", "request_input", "prefill", "step", "first_token", "step", "step",
        "request_kv", "request_finished",
    ]  # fmt: skip
    closed, dropped, errors, probe_ns = records.STATE.unpack_from(data, records.STATE_OFFSET)
    assert (closed, dropped, errors) == (1, 0, 0)
    assert probe_ns > 0
