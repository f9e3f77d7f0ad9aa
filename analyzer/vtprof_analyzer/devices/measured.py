"""What `vtprof calibrate` measured, and where it is kept for `analyze` and `estimate` to find.

One JSON file, ``$XDG_CONFIG_HOME/vtprof/calibration.json`` or ``~/.config/vtprof/calibration.json``, with one entry for
each device name and data type (``calibration.schema.json``). It may have been edited or copied from elsewhere: what
cannot be used is left out with one line that says so.
"""

import json
import os
import stat
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vtprof_analyzer.devices.catalogue import find_device
from vtprof_analyzer.devices.device import CPU, GPU
from vtprof_analyzer.devices.roofs import ATTAINABLE, Roof, plausible
from vtprof_analyzer.devices.shared_file import locked, replace_text
from vtprof_analyzer.models.weights import DTYPE_BYTES, canonical_dtype
from vtprof_schemas.errors import BackendError, ConfigError

SCHEMA_VERSION = 1
FILE_NAME = "calibration.json"
MAX_BYTES = 1024 * 1024
_LONGEST_TEXT = 500
_NEWER = "written by a newer vtprof"
_MOST_SIZES = 16


@dataclass(frozen=True)
class Entry:
    """Ceilings that one device attained for one data type."""

    device: str
    """Name as the driver or the system gives it, the one that traces record."""
    kind: str
    """``cpu`` or ``gpu``."""
    dtype: str
    peak_flops_per_s: float
    bandwidth_bytes_per_s: float
    """Of copies, bytes read and bytes written added up."""
    measured_at: str
    """UTC, ISO 8601."""
    torch_version: str
    method: str
    cores: int | None = None
    """Cores that a CPU's measurement ran on: fewer or more of the same CPU attain something else."""
    gemm_sizes: tuple[int, ...] = ()
    """Rows of the square matrices that were tried."""
    copy_bytes: int | None = None
    """Size of one array that was copied."""

    @property
    def roof(self) -> Roof:
        """Return the roof that these ceilings are."""
        source = f"vtprof calibrate of {self.measured_at[:10]}, torch {self.torch_version}: {self.method}"
        return Roof(ATTAINABLE, self.peak_flops_per_s, self.bandwidth_bytes_per_s, self.dtype, source)

    @property
    def key(self) -> tuple[str, str, str, int | None]:
        """Return what a later measurement of the same has in common with this one."""
        return (_folded(self.device), self.kind, self.dtype, self.cores)


@dataclass(frozen=True)
class Calibrations:
    """Everything that a calibration file holds, and one line where something of it had to be left out."""

    entries: tuple[Entry, ...] = ()
    note: str | None = None
    fault: str | None = None
    """The reason in the note."""
    is_newer: bool = False
    """A later version of vtprof wrote the file."""

    def roof(self, device_name: str | None, dtype: str | None, cores: int | None = None) -> Roof | None:
        """Return what was measured for this very device and data type, or None; the newest where there are several.

        Names agree as text or by the row of the table that they mean. A CPU's has to agree as text, and in its cores
        where both are known.
        """
        fitting = [
            entry
            for entry in self._of(device_name, dtype)
            if entry.kind != CPU or None in (cores, entry.cores) or cores == entry.cores
        ]
        return max(fitting, key=lambda entry: entry.measured_at).roof if fitting else None

    def host_roof(self, device_name: str, dtype: str | None, cores: int) -> Roof | None:
        """Return what was measured on this machine's CPU, of which a process may use so many cores, or None.

        torch computes with a thread for each core, and a process sees up to two CPUs of each: where nothing was measured
        on all of them, the measurement on most stands for them, with low confidence where that was less than half.
        """
        fitting = [
            entry
            for entry in self._of(device_name, dtype)
            if entry.kind == CPU and (entry.cores or cores) <= cores
        ]
        if not fitting:
            return None
        best = max(fitting, key=lambda entry: (entry.cores or cores, entry.measured_at))
        measured = best.cores or cores
        if 2 * measured >= cores:
            return best.roof
        return replace(best.roof, confidence="low", doubt=f"it was measured on {measured} of {cores} cores")

    def dtypes(self, device_name: str) -> list[str]:
        """Return the data types that were measured on this very device."""
        return sorted({entry.dtype for dtype in DTYPE_BYTES for entry in self._of(device_name, dtype)})

    def _of(self, device_name: str | None, dtype: str | None) -> list[Entry]:
        canonical = canonical_dtype(dtype)
        if device_name is None or canonical is None:
            return []
        row = find_device(device_name)
        return [
            entry
            for entry in self.entries
            if entry.dtype == canonical
            and (
                _folded(entry.device) == _folded(device_name)
                or (entry.kind != CPU and row is not None and find_device(entry.device) == row)
            )
        ]


def calibration_file() -> Path | None:
    """Return where calibrations are kept, or None for a user without a home."""
    configured = os.environ.get("XDG_CONFIG_HOME", "")
    if configured.startswith("/"):  # the XDG specification has relative ones ignored
        return Path(configured) / "vtprof" / FILE_NAME
    try:
        return Path.home() / ".config" / "vtprof" / FILE_NAME
    except RuntimeError:
        return None


def read_calibrations(file: Path | None = None) -> Calibrations:
    """Return what the file holds, by default the one of this user; nothing where there is none. Never raises."""
    place = file or calibration_file()
    if place is None:
        return Calibrations()
    try:
        text = _text(place)
    except (FileNotFoundError, NotADirectoryError):
        return Calibrations()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return _ignored(place, reason or "cannot be read")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return _ignored(place, "not JSON")
    version = document.get("schema_version") if isinstance(document, dict) else None
    if isinstance(version, int | float) and version > SCHEMA_VERSION:
        return Calibrations(note=f"calibration file {_shown(place)}: {_NEWER}; ignored", is_newer=True)
    if not isinstance(document, dict) or version != SCHEMA_VERSION:
        return _ignored(place, f"not a calibration of schema_version {SCHEMA_VERSION}")
    listed = document.get("entries")
    if not isinstance(listed, list):
        return _ignored(place, "entries is no list")
    read = [_entry(item) for item in listed]
    entries = tuple(entry for entry in read if entry is not None)
    left_out = len(read) - len(entries)
    if left_out:
        return _ignored(place, f"{left_out} of {len(read)} entries are no measurements", entries)
    return Calibrations(entries)


def check_place(file: Path) -> None:
    """Raise ConfigError for a file that a measurement must not take the place of.

    That is what a later version wrote, no regular file, and what holds something else than calibrations unless it is
    the user's own file of them, which is set aside then.
    """
    found, target, own = read_calibrations(file), Path(os.path.realpath(file)), calibration_file()
    if found.is_newer:
        raise ConfigError(f"{_shown(file)}: {_NEWER}; give --out and another file")
    if found.note and (own is None or target != Path(os.path.realpath(own))):
        raise ConfigError(f"--out {file}: exists and is no calibration file; move it or name another one")
    if os.path.lexists(target) and not target.is_file():
        raise ConfigError(f"{_shown(file)}: no file; move it, or name another one with --out")


def store(new: list[Entry], file: Path) -> str | None:
    """Add measurements to the file, each in place of an older one of the same; return a note on what was unreadable.

    The file, or what a symlink of its name leads to, is replaced at once, never half written, and what other processes
    store at the same time is kept. An old file that held anything unreadable gets another name. Raises ConfigError as
    `check_place` does, and BackendError when the system refuses.
    """
    check_place(file)
    target = Path(os.path.realpath(file))
    replaced = {entry.key for entry in new}
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target):
            check_place(file)  # another process may have been there in the meantime
            before = read_calibrations(target)
            kept = [entry for entry in before.entries if entry.key not in replaced]
            text = json.dumps(as_document([*kept, *new]), indent=2) + "\n"
            aside = replace_text(target, text, keep_old=before.fault is not None)
    except OSError as error:
        raise BackendError(
            f"{file}: cannot be written ({error.strerror}); name another file with --out"
        ) from error
    if aside is None:
        return None
    return f"calibration file {_shown(target)}: {before.fault}; the old file is kept as {aside.name}"


def as_document(entries: list[Entry]) -> dict[str, Any]:
    """Return the document that is stored and printed."""
    listed = [asdict(entry) | {"gemm_sizes": list(entry.gemm_sizes)} for entry in entries]
    return {"schema_version": SCHEMA_VERSION, "entries": listed}


def _text(file: Path) -> str:
    """Return a regular file's text; a pipe or device is never waited for."""
    descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(descriptor, "rb") as opened:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("not a file")
        content = opened.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES >> 20} MiB")
    return content.decode("utf-8", errors="replace")


def _ignored(file: Path, reason: str, entries: tuple[Entry, ...] = ()) -> Calibrations:
    note = f"calibration file {_shown(file)}: {reason}; ignored, `vtprof calibrate` writes a new one"
    return Calibrations(entries, note, reason)


def _shown(file: Path) -> str:
    return str(file)[:200]


def _entry(item: Any) -> Entry | None:
    """Return one entry, or None when a value is not what it should be."""
    if not isinstance(item, dict):
        return None
    device, method = _text_of(item.get("device")), _text_of(item.get("method"))
    measured_at, torch_version = _text_of(item.get("measured_at")), _text_of(item.get("torch_version"))
    dtype = canonical_dtype(_text_of(item.get("dtype")))
    peak, bandwidth = _ceiling(item.get("peak_flops_per_s")), _ceiling(item.get("bandwidth_bytes_per_s"))
    kind = item.get("kind")
    if not (device and method and measured_at and torch_version and dtype and peak and bandwidth):
        return None
    if kind not in (CPU, GPU):
        return None
    sizes = item.get("gemm_sizes")
    tried = [_count(size) for size in sizes[:_MOST_SIZES]] if isinstance(sizes, list) else []
    return Entry(
        device=device,
        kind=kind,
        dtype=dtype,
        peak_flops_per_s=peak,
        bandwidth_bytes_per_s=bandwidth,
        measured_at=measured_at,
        torch_version=torch_version,
        method=method,
        cores=_count(item.get("cores")),
        gemm_sizes=tuple(size for size in tried if size is not None),
        copy_bytes=_count(item.get("copy_bytes")),
    )


def _text_of(value: Any) -> str | None:
    is_text = isinstance(value, str) and len(value) <= _LONGEST_TEXT and value.isprintable()
    return value.strip() or None if is_text else None


def _count(value: Any) -> int | None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 53
    return value if is_count else None


def _ceiling(value: Any) -> float | None:
    """Return a number that can be a ceiling; NaN, infinities and integers too long for a float are none."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and plausible(value) else None


def _folded(name: str) -> str:
    return " ".join(name.lower().split())
