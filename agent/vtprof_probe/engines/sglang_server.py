"""Hooks for sglang."""

from typing import Callable

from vtprof_probe.hooks.patches import Patches
from vtprof_probe.hooks.post_import import ImportWatcher
from vtprof_probe.recorder import Recorder


def install(patches: Patches, watcher: ImportWatcher, recorder: Recorder, detach: Callable[[], None]) -> None:
    """Set the hooks as soon as the modules they belong to are imported; ``detach`` takes them all away."""
