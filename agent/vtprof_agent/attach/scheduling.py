"""Keeps this process at work while a thread of another one waits for it: no signal ends it, ordinary threads come later."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
_ORDINARY = (os.SCHED_OTHER, os.SCHED_BATCH, os.SCHED_IDLE)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Put off the signals that end a process: cut off between two steps, we would leave a thread with our registers.

    They take their effect at the end. SIGKILL cannot be put off.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # handlers are the main thread's alone, and so is what they interrupt
        return
    came: list[int] = []
    # None: set by somebody's C code, and not ours to replace.
    before = {n: handler for n in ENDING if (handler := signal.getsignal(n)) not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, lambda arrived, _frame: came.append(arrived))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for arrived in dict.fromkeys(came):
            signal.raise_signal(arrived)


@contextmanager
def hurried() -> Iterator[None]:
    """Run under SCHED_FIFO meanwhile (needs CAP_SYS_NICE or RLIMIT_RTPRIO), else as before.

    On a busy machine a stopped thread would otherwise stand still until we get a processor: for 57 ms at most instead
    of 0.3 ms, seen from outside in 50 cycles each at a load of 11 on 2 processors (``tests/bench/witness_attach.py``).
    """
    before = _raise_priority()
    try:
        yield
    finally:
        if before is not None:
            with suppress(OSError):
                os.sched_setscheduler(0, *before)


def _raise_priority() -> tuple[int, os.sched_param] | None:
    """Return how this thread ran; None where nothing was changed."""
    try:
        before = os.sched_getscheduler(0), os.sched_getparam(0)
        if before[0] & ~os.SCHED_RESET_ON_FORK not in _ORDINARY:
            return None
        lowest = os.sched_param(os.sched_get_priority_min(os.SCHED_FIFO))
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, lowest)
    except OSError:
        return None
    return before
