"""Shared by all tests: hypothesis measures no time, so that a busy machine fails nothing; nobody's settings are read."""

import os
from collections.abc import Iterator

# As the command does it; before anything loads numpy.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest
import torchvision_path
from hypothesis import HealthCheck, settings

settings.register_profile("vtprof", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("vtprof")
torchvision_path.add()


@pytest.fixture(scope="session", autouse=True)
def empty_config_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What `vtprof calibrate` stored on a developer's machine changes no report of a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))  # agents' spools
        yield
