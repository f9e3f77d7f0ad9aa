"""Wraps attributes of classes and restores them exactly.

Every wrapper calls the original once, with its own arguments, and lets its result or exception through untouched.
What the probe does around it is guarded: a fault of ours is counted and the host goes on. Its time is taken, too.
"""

import functools
import inspect
from typing import Any, Callable, List, Optional, Tuple

from vtprof_probe.clock import Spent, monotonic_ns

Begin = Callable[[Any, Tuple[Any, ...], "dict[str, Any]"], Any]
"""Called before the original with (self, args, kwargs); what it returns is the token of ``End``; None: not ours."""
End = Callable[[Any, Any, Optional[BaseException]], None]
"""Called after the original with (token, result, error)."""

_MARK = "__vtprof_wrapper__"
_MISSING = object()


def around(
    original: Callable[..., Any],
    begin: Begin,
    end: End,
    fault: Callable[[], None],
    bypass: Callable[[], bool],
    spent: Spent,
) -> Callable[..., Any]:
    """Build a wrapper that runs ``begin`` and ``end`` around ``original``; ``bypass`` is true while code is compiled.

    What the two take is added to ``spent``.
    """
    clock = monotonic_ns

    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        if bypass():
            return original(self, *args, **kwargs)
        entered_ns = clock()
        try:
            token = begin(self, args, kwargs)
        except Exception:
            fault()
            token = None
        spent.ns += clock() - entered_ns
        if token is None:
            return original(self, *args, **kwargs)
        try:
            result = original(self, *args, **kwargs)
        except BaseException as error:
            try:
                end(token, None, error)
            except Exception:
                fault()
            raise
        returned_ns = clock()
        try:
            end(token, result, None)
        except Exception:
            fault()
        spent.ns += clock() - returned_ns
        return result

    # `__wrapped__` keeps `inspect.signature` right, by which transformers decides what a model accepts.
    functools.update_wrapper(wrapper, original)
    setattr(wrapper, _MARK, True)
    return wrapper


def around_async(
    original: Callable[..., Any], begin: Begin, end: End, fault: Callable[[], None], spent: Spent
) -> Callable[..., Any]:
    """Build the like of ``around`` for a coroutine function: ``end`` runs when the original has been awaited."""
    clock = monotonic_ns

    async def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        entered_ns = clock()
        try:
            token = begin(self, args, kwargs)
        except Exception:
            fault()
            token = None
        spent.ns += clock() - entered_ns
        if token is None:
            return await original(self, *args, **kwargs)
        try:
            result = await original(self, *args, **kwargs)
        except BaseException as error:
            try:
                end(token, None, error)
            except Exception:
                fault()
            raise
        returned_ns = clock()
        try:
            end(token, result, None)
        except Exception:
            fault()
        spent.ns += clock() - returned_ns
        return result

    functools.update_wrapper(wrapper, original)
    setattr(wrapper, _MARK, True)
    return wrapper


def around_function(
    original: Callable[..., Any], begin: Begin, end: End, fault: Callable[[], None], spent: Spent
) -> Callable[..., Any]:
    """Build the like of ``around`` for a plain function, which may be called by keywords alone: ``self`` is None."""

    def as_method(_self: Any, *args: Any, **kwargs: Any) -> Any:
        return original(*args, **kwargs)

    method = around(as_method, begin, end, fault, never, spent)

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return method(None, *args, **kwargs)

    functools.update_wrapper(wrapper, original)
    setattr(wrapper, _MARK, True)
    return wrapper


def never() -> bool:
    """Return False: the default ``bypass``."""
    return False


class Patches:
    """The attributes that were replaced, in order, so that they can be put back."""

    def __init__(
        self,
        fault: Callable[[], None],
        bypass: Callable[[], bool] = never,
        spent: Optional[Spent] = None,
    ) -> None:
        self._fault = fault
        self._spent = spent or Spent()
        self._done: List[Tuple[Any, str, Any, Any]] = []
        self.bypass = bypass
        self.skipped = 0
        """Attributes that were not there or not plain functions."""

    def wrap(self, owner: Any, name: str, begin: Begin, end: End) -> bool:
        """Wrap the method ``name`` that ``owner`` itself defines; False (and counted) if there is none to wrap.

        A coroutine function stays one, and ``end`` follows its await. Of a module a plain function is wrapped, and
        ``begin`` gets None for ``self``.
        """
        original = vars(owner).get(name, _MISSING)
        if getattr(original, _MARK, False):
            return True
        if (
            original is _MISSING
            or isinstance(original, (staticmethod, classmethod))
            or not callable(original)
        ):
            self.skipped += 1
            return False
        if inspect.iscoroutinefunction(original):
            wrapper = around_async(original, begin, end, self._fault, self._spent)
        elif inspect.ismodule(owner):
            wrapper = around_function(original, begin, end, self._fault, self._spent)
        else:
            wrapper = around(original, begin, end, self._fault, self.bypass, self._spent)
        setattr(owner, name, wrapper)
        self._done.append((owner, name, original, wrapper))
        return True

    def replace(self, owner: Any, name: str, build: Callable[[Any], Callable[..., Any]]) -> bool:
        """Put ``build(original)`` in the place of a function that ``owner`` itself defines."""
        original = vars(owner).get(name, _MISSING)
        if getattr(original, _MARK, False):
            return True
        if original is _MISSING or not callable(original):
            self.skipped += 1
            return False
        wrapper = functools.wraps(original)(build(original))
        setattr(wrapper, _MARK, True)
        setattr(owner, name, wrapper)
        self._done.append((owner, name, original, wrapper))
        return True

    def undo(self) -> int:
        """Restore every attribute; return how many were not ours any more and had to stay."""
        foreign = 0
        while self._done:
            owner, name, original, wrapper = self._done.pop()
            if vars(owner).get(name) is wrapper:
                setattr(owner, name, original)
            else:
                # Somebody wrapped our wrapper. Taking theirs away would break them; ours only passes calls on.
                foreign += 1
        return foreign
