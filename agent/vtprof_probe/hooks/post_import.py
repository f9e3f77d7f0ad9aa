"""Runs a function once a named module has been imported; at once if it already is.

A finder in front of ``sys.meta_path`` lets the ordinary finders do the work and borrows the loader of the modules it
waits for. Modules nobody waits for cost one dictionary lookup.
"""

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Callable, Dict, List, Optional, Sequence

Callback = Callable[[ModuleType], None]


class _Loader(Loader):
    """Delegates to the real loader, then calls back; leaves no trace of itself on the module."""

    def __init__(self, real: Any, watcher: "ImportWatcher") -> None:
        self._real = real
        self._watcher = watcher

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def create_module(self, spec: ModuleSpec) -> Optional[ModuleType]:
        """Create the module as the real loader does."""
        module: Optional[ModuleType] = self._real.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Run the module's code, then what waits for it."""
        if module.__spec__ is not None:
            module.__spec__.loader = self._real
        module.__loader__ = self._real
        self._real.exec_module(module)
        self._watcher.imported(module)


class ImportWatcher(MetaPathFinder):
    """Calls back after the import of the modules it was told of."""

    def __init__(self, fault: Callable[[], None]) -> None:
        self._fault = fault
        self._waiting: Dict[str, List[Callback]] = {}

    def when_imported(self, name: str, callback: Callback) -> None:
        """Call ``callback(module)`` now if ``name`` is imported and complete, else right after its import."""
        module = sys.modules.get(name)
        spec = getattr(module, "__spec__", None)
        if module is not None and not getattr(spec, "_initializing", False):
            self._call(callback, module)
            return
        self._waiting.setdefault(name, []).append(callback)
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)

    def close(self) -> None:
        """Stop waiting."""
        self._waiting.clear()
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self, fullname: str, path: Optional[Sequence[str]], target: Optional[ModuleType] = None
    ) -> Optional[ModuleSpec]:
        """Find the module through the other finders; borrow its loader if somebody waits for it."""
        if fullname not in self._waiting:
            return None
        for finder in list(sys.meta_path):
            find = getattr(finder, "find_spec", None)
            if finder is self or find is None:
                continue
            spec: Optional[ModuleSpec] = find(fullname, path, target)
            if spec is None:
                continue
            if hasattr(spec.loader, "exec_module"):
                spec.loader = _Loader(spec.loader, self)
            return spec
        return None

    def imported(self, module: ModuleType) -> None:
        """Run what waits for ``module``."""
        for callback in self._waiting.pop(module.__name__, []):
            self._call(callback, module)

    def _call(self, callback: Callback, module: ModuleType) -> None:
        try:
            callback(module)
        except Exception:
            self._fault()
