"""Entry point of ``vllm.general_plugins`` and ``sglang.srt.plugins``: the engine itself loads the probe.

Being installed is no wish to be profiled: it does nothing unless ``VTPROF_ENABLE=1``.
"""

import os

from vtprof_probe.install import enable
from vtprof_schemas import names


def load() -> None:
    """Enable the probe in this process of an engine if the environment asks for it; never raises."""
    if os.environ.get(names.ENV_ENABLE) == "1":
        try:
            enable()
        except Exception:  # a guest: the server goes on
            return
