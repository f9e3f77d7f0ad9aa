"""The built wheel: the probe imports bare, the agent's image needs no analyzer package."""

import json
import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIST_FOREIGN = """
import json, sys
import vtprof_probe
roots = {name.partition(".")[0] for name in sys.modules}
ours = {"vtprof_probe", "vtprof_schemas", "__main__", "__mp_main__"}
print(json.dumps(sorted(n for n in roots - ours if n not in sys.stdlib_module_names and not n.startswith("_"))))
"""


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the interpreter of an environment that holds our wheel and nothing else, not even pip."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", str(folder), str(ROOT)], check=True)
    (wheel,) = folder.glob("vtprof-*.whl")
    venv.create(folder / "bare", with_pip=False)
    python = folder / "bare" / "bin" / "python"
    subprocess.run([*pip, "--python", str(python), "install", "--no-deps", str(wheel)], check=True)
    return python


def test_bare_wheel_imports_the_probe_with_nothing_third_party(bare_python: Path) -> None:
    result = subprocess.run(
        [str(bare_python), "-c", LIST_FOREIGN], capture_output=True, text=True, check=True
    )
    assert json.loads(result.stdout) == []


@pytest.mark.parametrize("command", ["vtprof", "vtprof-agent"])
def test_bare_wheel_says_in_one_line_what_to_install(bare_python: Path, command: str) -> None:
    result = subprocess.run(
        [str(bare_python.parent / command), "--help"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert "pip install" in result.stderr


def test_image_of_the_agent_needs_only_the_agents_own_packages(bare_python: Path) -> None:
    dockerfile = (ROOT / "deploy" / "docker" / "Dockerfile").read_text()
    found = re.search(r'bin/python -c "(.*?)" > /tmp/requirements.txt', dockerfile, re.DOTALL)
    assert found is not None
    snippet = found.group(1).replace("\\\n", "").replace('\\"', '"')
    result = subprocess.run([str(bare_python), "-c", snippet], capture_output=True, text=True, check=True)
    packages = {re.split(r"[<>=]", line)[0] for line in result.stdout.split()}
    assert packages == {
        "grpcio",
        "numpy",
        "typer",
        "nvidia-ml-py",
        "googleapis-common-protos",
        "opentelemetry-exporter-otlp-json-common",
        "opentelemetry-exporter-otlp-proto-common",
        "requests",
        "urllib3",
        "opentelemetry-sdk",
        "prometheus-client",
        "psutil",
    }
