"""Ctrl-C ends a query at once.

DuckDB notes the signal, but then waits for its threads, which do their part of the query to the end: minutes, on a large
run. What reaches them is `interrupt()` from another thread.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol

_GRACE_S: Final = 0.05
"""How long the main thread has to see the signal by itself: KeyboardInterrupt tells more than DuckDB's error."""


class Interruptible(Protocol):
    """A database connection that another thread may stop."""

    def interrupt(self) -> None:
        """Stop the query that runs, if any."""


class Interrupted(Exception):
    """Ctrl-C came. Its text says what is left of the work, for the user."""


@contextmanager
def leaving(what: str) -> Iterator[None]:
    """Make Ctrl-C an Interrupted that says ``what`` is left while this lasts, unless one within says it better."""
    try:
        yield
    except (KeyboardInterrupt, Exception) as error:
        if not is_interrupt(error):
            raise
        raise Interrupted(what) from error


def is_interrupt(error: BaseException) -> bool:
    """Say whether an error tells of Ctrl-C: during a query it is what DuckDB makes of it."""
    seen = isinstance(error, RuntimeError) and str(error) == "Query interrupted"
    return seen or isinstance(error, KeyboardInterrupt) or type(error).__name__ == "InterruptException"


_open: Final[list[Interruptible]] = []


@contextmanager
def interrupted_with_us(connection: Interruptible) -> Iterator[None]:
    """Stop the queries of ``connection`` at Ctrl-C while this lasts, once `watch_ctrl_c` was called."""
    _open.append(connection)
    try:
        yield
    finally:
        _open.remove(connection)


def watch_ctrl_c() -> None:
    """Start to watch for Ctrl-C in a thread, until the process ends. Only the main thread may call it."""
    out, into = os.pipe()
    os.set_blocking(into, False)
    # Python writes the number of each signal there at once, whatever the main thread is in.
    signal.set_wakeup_fd(into, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(out,), name="vtprof-ctrl-c", daemon=True).start()


def _watch(signals: int) -> None:
    while came := os.read(signals, 64):
        # A command with a handler of its own, such as `watch`, ends in its own way.
        if signal.SIGINT in came and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            time.sleep(_GRACE_S)
            _interrupt_all()


def _interrupt_all() -> None:
    # A function of its own: a thread that lasts must hold no connection.
    for connection in tuple(_open):
        connection.interrupt()
