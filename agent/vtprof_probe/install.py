"""Turns the probe on and off in this process. One call or one environment variable; no thread, no ring before work.

Off, nothing is patched. On, a hook costs some microseconds a call and a record 0.7 µs.
"""

import atexit
import importlib
import os
import sys
from typing import Any, Callable, List, Mapping, NamedTuple, Optional, Tuple

from vtprof_probe import request_context
from vtprof_probe.engines.registry import ENGINES, EngineEntry
from vtprof_probe.hooks.patches import Patches
from vtprof_probe.hooks.post_import import ImportWatcher
from vtprof_probe.process_identity import read_process_identity
from vtprof_probe.recorder import Recorder
from vtprof_schemas import names

MAX_FAMILY_CHARACTERS = 64


class _Installed(NamedTuple):
    recorder: Recorder
    patches: Patches
    watcher: ImportWatcher


_installed: List[_Installed] = []
"""At most one: what ``disable`` takes away."""


def enabled() -> bool:
    """Tell whether the hooks are set."""
    return bool(_installed)


def enable(
    ring_dir: Optional[str] = None,
    ring_records: Optional[int] = None,
    detail: Optional[int] = None,
    engines: Optional[List[str]] = None,
    open_ring: Optional[Callable[[], Any]] = None,
) -> bool:
    """Hook the engines of this process, those imported and those still to come; return False if it was on already.

    ``ring_dir`` and ``ring_records`` stand for ``VTPROF_RING_DIR`` and ``VTPROF_RING_RECORDS``. ``detail`` (0 to 3)
    fixes the detail level that otherwise the agent sets. ``engines`` names those to hook, by default all. ``open_ring``
    gives another writer than the ring (tests). Never raises: what fails is counted in the ring.
    """
    if _installed:
        return False
    environ = dict(os.environ)
    if ring_dir is not None:
        environ[names.ENV_RING_DIR] = str(ring_dir)
    if ring_records is not None:
        environ[names.ENV_RING_RECORDS] = str(ring_records)
    recorder = Recorder(
        open_ring or (lambda: _open_ring(environ, recorder.role, recorder.rank)), detail=detail
    )
    recorder.add_info({names.FAMILY: _family(environ)})
    patches = Patches(recorder.fault, spent=recorder.spent)
    watcher = ImportWatcher(recorder.fault)
    _installed.append(_Installed(recorder, patches, watcher))
    request_context.turn(True)
    for entry in ENGINES.values():
        if engines is None or entry.name in engines:
            watcher.when_imported(entry.trigger, _starter(entry, patches, watcher, recorder))
    atexit.register(recorder.close)
    return True


def why_no_ring(ring_dir: str) -> str:
    """Return why this process could make no ring in a folder, which is made if need be; empty when it can."""
    from vtprof_probe import ring_file

    return ring_file.why_no_ring(ring_file.ring_settings({**os.environ, names.ENV_RING_DIR: ring_dir}))


def open_ring() -> Tuple[str, str]:
    """Open the ring of an enabled probe at once where an engine is imported; return its path and why there is none."""
    if not _installed or not any(entry.trigger in sys.modules for entry in ENGINES.values()):
        return "", ""
    ring = _installed[0].recorder.open_ring()
    return ring.path, ring.reason


def disable() -> bool:
    """Restore every patched attribute and end the recording; return False if the probe was not on."""
    if not _installed:
        return False
    installed = _installed.pop()
    request_context.turn(False)
    installed.watcher.close()
    installed.patches.undo()
    installed.recorder.close()
    atexit.unregister(installed.recorder.close)
    return True


def _after_fork_in_child() -> None:
    for installed in _installed:
        installed.recorder.after_fork()


def _starter(
    entry: EngineEntry, patches: Patches, watcher: ImportWatcher, recorder: Recorder
) -> Callable[[Any], None]:
    def start(_engine: Any) -> None:
        # A server's own hooks see all that matters; those of a library below it would only cost.
        if not any(server in sys.modules for server in entry.not_below):
            importlib.import_module(entry.module).install(patches, watcher, recorder, disable)

    return start


def _open_ring(environ: Mapping[str, str], role: str, rank: int) -> Any:
    from vtprof_probe.ring_writer import RingWriter

    return RingWriter.from_environment(environ, role, rank, {})


def _family(environ: Mapping[str, str]) -> str:
    """Return the name of the server that this process belongs to, and leave it to its children."""
    family = environ.get(names.ENV_FAMILY, "")
    if not family.isprintable() or not 0 < len(family) <= MAX_FAMILY_CHARACTERS:
        identity = read_process_identity()
        family = "%d-%d" % (identity.pid, identity.start_ticks)
        os.environ[names.ENV_FAMILY] = family
    return family


# Once, and not for each recorder: what is registered stays for the life of the process.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
