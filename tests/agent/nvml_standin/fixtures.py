"""Fixtures of the samplers' tests: the scripted library, built once, and processes that read it on a virtual clock."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nvml_standin.driven import Driven
from nvml_standin.standin import Activity, Control, build, uuid

A, B = uuid(0), uuid(1)
BUSY = Activity(dram=0.6, tensor=0.25, sm=0.8, occupancy=0.4, power_mw=400_000)
MIG = [("MIG-x", 7, True, 0.25), ("MIG-empty", 8, False, 0.25), ("MIG-y", 9, True, 0.5)]
Start = Callable[..., tuple[Control, Driven]]


@pytest.fixture(name="library", scope="module")
def built_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture(name="start")
def process_starter(library: Path, tmp_path: Path) -> Iterator[Start]:
    """Start a process under the stand-in; it must end well."""
    running: list[Driven] = []

    def started(gpus: int = 2, *, folder: Path = library, **options: float) -> tuple[Control, Driven]:
        control = Control(tmp_path / "control", gpus, virtual=True, **options)  # type: ignore[arg-type]
        running.append(Driven(folder, control))
        return control, running[-1].__enter__()

    yield started
    for driven in running:
        driven.__exit__(None, None, None)
