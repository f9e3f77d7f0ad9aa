"""Baselines by name: a folder of files that `save` writes and that `compare` and `watch` take as BASE.

A baseline holds the requests of one run of a deployment, or of several: its A/A history. Processes that change the same
baseline at the same time wait for each other: each adds to what the others left. Where a file system has no locks, the
last one to finish wins; a half-written file there never is.
"""

import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from vtprof_analyzer.devices.shared_file import locked
from vtprof_analyzer.regress.comparable import differences, requests_in_both
from vtprof_analyzer.regress.requests import Run
from vtprof_analyzer.report.format import counted, safe
from vtprof_analyzer.runs.baseline_facts import MOST_RUNS, Baseline, NewerBaseline
from vtprof_analyzer.runs.baseline_file import MOST_REQUESTS, facts, is_baseline, read, write
from vtprof_schemas.errors import BackendError, ConfigError, DataError, NoData

__all__ = [
    "Baseline", "check", "default_folder", "facts", "find", "is_baseline", "listed", "load", "named", "read", "remove",
    "save",
]  # fmt: skip

ENVIRONMENT: Final = "VTPROF_BASELINES"
FOLDER: Final = Path(".vtprof") / "baselines"
SUFFIX: Final = ".parquet"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_ABANDONED_S: Final = 3_600
_SHOWN_DIFFERENCES: Final = 3


def default_folder() -> Path:
    """Return where baselines are: what VTPROF_BASELINES says, or ``.vtprof/baselines`` under the current folder."""
    return Path(os.environ.get(ENVIRONMENT) or FOLDER)


def find(name: str, folder: Path | None = None) -> Path | None:
    """Return the file of a baseline; None where the text is no name or no baseline has it."""
    if not _is_name(name):
        return None
    file = (folder or default_folder()) / f"{name}{SUFFIX}"
    return file if file.is_file() else None


def named(name: str, folder: Path | None = None) -> Path:
    """Return the file of a baseline. Raises ConfigError for a text that is no name, and for a name that none has."""
    file = _place(name, folder)
    if not file.is_file():
        raise ConfigError(f"no baseline {name!r} in {safe(file.parent)}; see `vtprof baseline list`")
    return file


def listed(folder: Path | None = None) -> tuple[list[Baseline], list[tuple[Path, str]]]:
    """Return the baselines of a folder by name, without their requests, and the files that cannot be read, with why."""
    where = folder or default_folder()
    try:
        files = sorted(where.glob(f"*{SUFFIX}")) if where.is_dir() else []
    except OSError as error:
        raise BackendError(f"{safe(where)}: cannot be read ({error.strerror})") from error
    found: list[Baseline] = []
    unreadable: list[tuple[Path, str]] = []
    for file in files:
        try:
            found.append(facts(file))
        except (DataError, BackendError, ConfigError) as error:
            unreadable.append((file, str(error)))
    return found, unreadable


def load(file: Path) -> list[Run]:
    """Return a baseline's runs, called by the baseline's name, and by their number where there are several."""
    baseline, runs = read(file)
    if len(runs) == 1:
        return [replace(runs[0], label=baseline.name)]
    return [replace(run, label=f"{baseline.name} #{number}") for number, run in enumerate(runs, 1)]


def save(
    name: str,
    runs: Sequence[Run],
    folder: Path | None = None,
    *,
    add: bool = False,
    force: bool = False,
    note: str | None = None,
    now_unix_nano: int | None = None,
) -> Path:
    """Save runs as a baseline, or add them to its runs; return its file.

    Runs must be of one deployment: a model, engine, device or setting that the runs before do not have, and requests
    that they have already, are refused unless ``force`` is given. Without ``add``, ``force`` replaces a baseline that
    exists, but none that a newer vtprof wrote. Runs without requests are left out. Raises NoData when there is nothing
    to save, ConfigError for what is refused.
    """
    file = Path(os.path.realpath(_place(name, folder)))
    check(name, folder, add=add, force=force)
    if not (filled := [run for run in runs if len(run.requests)]):
        raise NoData(f"baseline {name}: no requests to save; give runs that hold some")
    now = time.time_ns() if now_unix_nano is None else now_unix_nano
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with _held(file):
            _remove_abandoned(file)
            check(name, folder, add=add, force=force)
            there: list[tuple[Run, int | None]] = []
            if add and file.exists():
                before, old = read(file)
                there = [(run, told.saved_unix_nano) for run, told in zip(old, before.runs, strict=True)]
                note = before.note if note is None else note
            if not force:
                _check_alike(name, [run for run, _ in there], filled)
            together = [*there, *((run, now) for run in filled)]
            _check_size(name, [run for run, _ in together])
            write(file, name, note, together, now)
    except (FileExistsError, NotADirectoryError) as error:
        raise ConfigError(f"{safe(file.parent)}: not a folder; give another one with --dir") from error
    except OSError as error:
        raise _refused(file, "written", error) from error
    return _place(name, folder)


def check(name: str, folder: Path | None = None, *, add: bool = False, force: bool = False) -> None:
    """Raise the errors that `save` would raise before it looks at any run: reading them may take long."""
    file = _place(name, folder)
    if not file.exists():
        return
    if not is_baseline(file):
        raise ConfigError(f"{safe(file)}: exists and is no baseline; move it, or give another name")
    if not add and not force:
        raise ConfigError(f"baseline {name} exists; add to it with --add, replace it with --force")
    try:
        facts(file)
    except NewerBaseline:
        raise
    except DataError:
        if add:
            raise


def remove(name: str, folder: Path | None = None) -> Path:
    """Remove a baseline, of whatever version, and return what its file was. What is no baseline stays."""
    file = named(name, folder)
    if not is_baseline(file):
        raise ConfigError(f"{safe(file)}: is no baseline, or damaged; remove the file yourself")
    try:
        with _held(file):
            file.unlink(missing_ok=True)
    except OSError as error:
        raise _refused(file, "removed", error) from error
    return file


def _is_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and not name.endswith(SUFFIX)


def _place(name: str, folder: Path | None) -> Path:
    if not _is_name(name):
        raise ConfigError(
            f"{safe(name, 60)!r} is no name for a baseline: letters, digits, '.', '_' and '-', a letter or digit first,"
            f" at most 100, no {SUFFIX} at the end"
        )
    return (folder or default_folder()) / f"{name}{SUFFIX}"


@contextmanager
def _held(file: Path) -> Iterator[None]:
    """Keep other processes from changing a baseline."""
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(file))
        except BackendError as error:
            raise BackendError(
                f"{safe(file)}: another vtprof is changing it and does not end; end that one, or try again"
            ) from error
        yield


def _remove_abandoned(file: Path) -> None:
    """Remove what a process left that was killed while it wrote this baseline."""
    now = time.time()
    for left in file.parent.glob(f".{file.name}.*.tmp"):
        if now - left.lstat().st_mtime > _ABANDONED_S:
            left.unlink(missing_ok=True)


def _check_alike(name: str, there: Sequence[Run], added: Sequence[Run]) -> None:
    """Refuse runs of another deployment, and the same run a second time."""
    before = list(there)
    for run in added:
        if before and (found := differences(before, run)):
            raise ConfigError(
                f"baseline {name}: {safe(run.label, 100)} is of another deployment ("
                f"{'; '.join(safe(one, 100) for one in found[:_SHOWN_DIFFERENCES])}); save it under another name, or"
                " take it all the same with --force"
            )
        for number, other in enumerate(before, 1):
            if common := requests_in_both(other.requests, run.requests):
                raise ConfigError(
                    f"baseline {name}: {counted(common, 'request')} of {safe(run.label, 100)} are in run {number} already;"
                    " give a run of its own, or take it all the same with --force"
                )
        before.append(run)


def _check_size(name: str, runs: Sequence[Run]) -> None:
    requests = sum(len(run.requests) for run in runs)
    if requests > MOST_REQUESTS or len(runs) > MOST_RUNS:
        raise DataError(
            f"baseline {name}: {requests:,} requests in {len(runs):,} runs; a baseline holds {MOST_REQUESTS:,} in"
            f" {MOST_RUNS:,}: give fewer"
        )


def _refused(file: Path, what: str, error: OSError) -> BackendError:
    return BackendError(f"{safe(file)}: cannot be {what} ({error.strerror}); give another folder with --dir")
