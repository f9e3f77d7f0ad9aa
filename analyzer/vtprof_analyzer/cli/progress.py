"""Progress on stderr for work that takes longer than a second: bars for those who watch, and for others lines or nothing."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

_SHOW_AFTER_S = 1.0
_LINE_EVERY_S = 15.0
"""Between lines where there is no bar: few enough for a log, enough to tell a slow machine from one that hangs."""


def _bar(label: str, *columns: "ProgressColumn") -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    shown = (TextColumn(label), BarColumn(), *columns, TimeRemainingColumn())
    return Progress(*shown, console=Console(stderr=True), transient=True)


@contextmanager
def progress_bar(label: str, total_bytes: Callable[[], int]) -> Iterator[Callable[[int], None]]:
    """Yield a function that takes the bytes done since its last call."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.progress import DownloadColumn

    begin = time.monotonic()
    bar = _bar(label, DownloadColumn())
    task = bar.add_task(label, total=total_bytes())

    def advance(done: int) -> None:
        bar.advance(task, done)
        if not bar.live.is_started and time.monotonic() - begin > _SHOW_AFTER_S:
            bar.start()

    try:
        yield advance
    finally:
        bar.stop()


@contextmanager
def counted(
    label: str, say: Callable[[str], None] | None = None, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that takes how many are done and how many there are.

    Where stderr is no terminal ``say`` gets a line now and then: ``12 of 40 requests``.
    """
    if not sys.stderr.isatty():
        yield _lines(label, say, clock) if say else lambda _done, _total: None
        return
    from rich.progress import MofNCompleteColumn

    begin = time.monotonic()
    bar = _bar(label, MofNCompleteColumn())
    task = bar.add_task(label, total=None)

    def advance(done: int, total: int) -> None:
        bar.update(task, completed=done, total=total)
        if not bar.live.is_started and time.monotonic() - begin > _SHOW_AFTER_S:
            bar.start()

    try:
        yield advance
    finally:
        bar.stop()


def _lines(label: str, say: Callable[[str], None], clock: Callable[[], float]) -> Callable[[int, int], None]:
    said_s = clock()

    def advance(done: int, total: int) -> None:
        nonlocal said_s
        if done == 0:
            said_s = clock()  # what came before the first one is no part of the work
        elif done < total and clock() - said_s >= _LINE_EVERY_S:
            said_s = clock()
            say(f"{done} of {total} {label}")

    return advance


def size_of(paths: list[Path]) -> int:
    """Return the bytes of the trace files under files and folders."""
    from vtprof_analyzer.ingest.sources import find_sources

    return sum(find_sources(paths).sizes.values())
