"""Hooks as data: what an engine's hook is called, where its target lies in which version, and what it must take.

``HookSetter`` sets those that fit the running version. One that does not fit is skipped, counted and named with its
reason in the ring's header (``names.PROBE_HOOKS``), where `vtprof-agent status` reads it; the engine goes on untouched.
"""

import functools
import importlib
import inspect
import sys
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple

from vtprof_probe.hooks.patches import Begin, End, Patches
from vtprof_probe.hooks.post_import import ImportWatcher
from vtprof_probe.recorder import Recorder
from vtprof_schemas.engine_versions import version_key

SET = "set"
WAITING = "waiting"


class Target(NamedTuple):
    """A function or method of the engine, in a range of its versions."""

    module: str
    qualname: str
    """``Scheduler.schedule``, or the name of a module's function."""
    since: str = ""
    """First version that has it so; empty: any earlier one too."""
    until: str = ""
    """First version that has it so no more; empty: any later one too."""
    takes: Tuple[str, ...] = ()
    """Parameters that the hook reads; without one of them the hook is skipped."""


class Hook(NamedTuple):
    """One hook."""

    what: str
    """What it observes, one line."""
    targets: Tuple[Target, ...]
    """Those of one version are alternatives: the first that is there is taken."""
    roles: Tuple[str, ...]
    """Processes in which it works: api, engine, worker."""
    optional: bool = False
    """True: that the version has no such target is no misfit worth a line."""


def fits(target: Target, version: str) -> bool:
    """Tell whether a version lies in the target's range; an unreadable version is taken as the newest."""
    key = version_key(version)
    if not key:
        return not target.until
    return not (
        (target.since and key < version_key(target.since))
        or (target.until and key >= version_key(target.until))
    )


class HookSetter:
    """Sets the hooks of one engine as its modules are imported, and keeps account of them."""

    def __init__(
        self,
        patches: Patches,
        watcher: ImportWatcher,
        recorder: Recorder,
        version: str,
        hooks: Mapping[str, Hook],
    ) -> None:
        """Prepare for an engine of this version; ``hooks`` is its table."""
        self._patches, self._watcher, self._recorder = patches, watcher, recorder
        self._version, self._hooks = version, hooks
        self.states: Dict[str, str] = {}
        """By hook: ``set``, ``waiting``, or why it was skipped."""

    def set(self, name: str, begin: Begin, end: End) -> None:
        """Set a hook of the table now, or when its module is imported; never raises."""
        hook = self._hooks[name]
        candidates = [target for target in hook.targets if fits(target, self._version)]
        if not candidates:
            if not hook.optional:
                self._note(name, "no target in version %s" % self._version)
            return
        self._note(name, WAITING)
        for target in candidates:
            self._watcher.when_imported(
                target.module, functools.partial(self._try, name, target, candidates, begin, end)
            )

    def _try(
        self, name: str, target: Target, candidates: List[Target], begin: Begin, end: End, module: Any
    ) -> None:
        if self.states.get(name) == SET:
            return
        problem = self._wrap(module, target, begin, end)
        if problem is None:
            self._note(name, SET)
        elif not any(other.module not in sys.modules for other in candidates):
            self._note(name, problem)

    def _wrap(self, module: Any, target: Target, begin: Begin, end: End) -> Optional[str]:
        """Wrap the target; return why it could not be."""
        owner, function, attribute = find(module, target.qualname)
        where = "%s.%s" % (target.module, target.qualname)
        if function is None:
            return "%s is not there" % where
        try:
            known = list(inspect.signature(function).parameters)
        except (TypeError, ValueError):
            known = []
        missing = [parameter for parameter in target.takes if parameter not in known]
        if missing:
            return "%s does not take %s" % (where, ", ".join(missing))
        return None if self._patches.wrap(owner, attribute, begin, end) else "%s cannot be wrapped" % where

    def _note(self, name: str, state: str) -> None:
        self.states[name] = state
        self._recorder.note_hook(name, state)


def find(module: Any, qualname: str) -> Tuple[Any, Any, str]:
    """Return (owner, function, attribute) of a dotted name; the owner is the class that itself defines it."""
    *path, attribute = qualname.split(".")
    owner = module
    for part in path:
        owner = getattr(owner, part, None)
    if isinstance(owner, type):
        owner = next((cls for cls in owner.__mro__ if attribute in vars(cls)), None)
    return owner, getattr(owner, "__dict__", {}).get(attribute), attribute


def engine_version(package: str) -> str:
    """Return the version that the imported engine says of itself; empty when it does not."""
    module = sys.modules.get(package)
    text = getattr(module, "__version__", None)
    if not isinstance(text, str):
        try:
            text = getattr(importlib.import_module(package + ".version"), "__version__", "")
        except Exception:
            text = ""
    return text if isinstance(text, str) else ""
