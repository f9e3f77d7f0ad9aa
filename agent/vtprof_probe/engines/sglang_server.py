"""Hooks for SGLang's processes: the tokenizer manager, and the schedulers, each of which runs its model itself."""

import functools
from typing import Callable

from vtprof_probe.engines.process_info import process_info
from vtprof_probe.engines.sglang_encoder import EncoderHooks, install_encoder
from vtprof_probe.engines.sglang_hooks import HOOKS
from vtprof_probe.engines.sglang_scheduler import install_scheduler
from vtprof_probe.engines.sglang_tokenizer import install_tokenizer
from vtprof_probe.hooks.patches import Patches
from vtprof_probe.hooks.post_import import ImportWatcher
from vtprof_probe.hooks.targets import HookSetter, engine_version
from vtprof_probe.recorder import Recorder


def install(patches: Patches, watcher: ImportWatcher, recorder: Recorder, detach: Callable[[], None]) -> None:
    """Set the hooks as soon as the modules they belong to are imported; ``detach`` takes them all away."""
    version = engine_version("sglang")
    recorder.add_info(process_info("sglang", version))
    setter = HookSetter(patches, watcher, recorder, version, HOOKS)
    encoder = EncoderHooks(recorder, patches)
    for part in (
        functools.partial(install_tokenizer, setter, recorder, detach),
        functools.partial(install_scheduler, setter, recorder, detach, encoder),
        functools.partial(install_encoder, setter, encoder),
    ):
        try:
            part()
        except Exception:
            # One part that fails is a fault of ours; the others still see their share.
            recorder.fault()
