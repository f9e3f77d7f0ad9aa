"""Hooks for vLLM's processes, API server, EngineCore and workers: builds the setter of its table and starts the parts."""

import importlib
from typing import Callable, Tuple

from vtprof_probe.engines.process_info import process_info
from vtprof_probe.engines.vllm_hooks import HOOKS
from vtprof_probe.hooks.patches import Patches
from vtprof_probe.hooks.post_import import ImportWatcher
from vtprof_probe.hooks.targets import HookSetter, engine_version
from vtprof_probe.recorder import Recorder

PARTS: Tuple[Tuple[str, str], ...] = (
    ("vtprof_probe.engines.vllm_api", "install_api"),
    ("vtprof_probe.engines.vllm_scheduler", "install_scheduler"),
    ("vtprof_probe.engines.vllm_worker", "install_worker"),
)
"""Module and function of each part; all are set in every process: what a process does decides which of them run."""


def install(patches: Patches, watcher: ImportWatcher, recorder: Recorder, detach: Callable[[], None]) -> None:
    """Set the hooks as soon as the modules they belong to are imported; ``detach`` takes them all away."""
    version = engine_version("vllm")
    recorder.add_info(process_info("vllm", version))
    setter = HookSetter(patches, watcher, recorder, version, HOOKS)
    for module, function in PARTS:
        try:
            getattr(importlib.import_module(module), function)(setter, recorder, detach)
        except Exception:
            # One part that fails is a fault of ours; the others still see their share.
            recorder.fault()
