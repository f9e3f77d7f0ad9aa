"""From bursts to entries of the calibration file: the copy once, then the matrix products of each data type."""

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from vtprof_analyzer.calibrate.machine import DTYPES, KNOWN_DTYPES, Machine
from vtprof_analyzer.calibrate.rates import Best, Clock, best_rate
from vtprof_analyzer.devices.measured import Entry
from vtprof_analyzer.models.weights import canonical_dtype
from vtprof_schemas.errors import BackendError, ConfigError

Progress = Callable[[int, int], None]


def check_dtypes(names: Sequence[str] | None) -> list[str]:
    """Return our names of the data types, each once; raise ConfigError for one that is not measured here."""
    found = []
    for name in names or ():
        dtype = canonical_dtype(name)
        if dtype not in KNOWN_DTYPES:
            raise ConfigError(f"--dtype {name[:40]!r}: choose from {', '.join(KNOWN_DTYPES)}")
        found.append(dtype)
    return list(dict.fromkeys(found))


def measure(
    machine: Machine,
    dtypes: Sequence[str],
    seconds: float,
    progress: Progress,
    clock: Clock = time.perf_counter,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> tuple[list[Entry], list[str]]:
    """Return an entry for each data type and one line for each that this device cannot multiply.

    ``seconds`` is for each of the measurements. Without ``dtypes`` the usual ones of the device are measured. Raises
    BackendError when nothing could be measured, or not what was asked for.
    """
    wanted = list(dtypes) or list(DTYPES[machine.kind])
    total = len(wanted) + 1
    progress(0, total)
    try:
        copied = best_rate(machine.copies(), seconds, clock)
    except RuntimeError as error:
        raise BackendError(f"{machine.name}: the copy failed ({_first_line(error)})") from error
    entries, notes = [], []
    for done, dtype in enumerate(wanted, 1):
        progress(done, total)
        try:
            gemm = best_rate(machine.gemms(dtype), seconds, clock)
        except RuntimeError as error:
            line = f"{machine.name}: {dtype} cannot be measured ({_first_line(error)})"
            if dtypes:
                raise BackendError(line) from error
            notes.append(line)
            continue
        entries.append(_entry(machine, dtype, gemm, copied, seconds, now()))
    progress(total, total)
    if not entries:
        raise BackendError("; ".join(notes))
    return entries, notes


def _entry(machine: Machine, dtype: str, gemm: Best, copied: Best, seconds: float, at: datetime) -> Entry:
    sizes = "/".join(map(str, gemm.sizes))
    on = f" on {machine.cores} threads" if machine.cores else ""
    return Entry(
        device=machine.name,
        kind=machine.kind,
        dtype=dtype,
        peak_flops_per_s=gemm.rate,
        bandwidth_bytes_per_s=copied.rate,
        measured_at=at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        torch_version=machine.torch_version,
        method=f"best burst in {seconds:g} s{on}: GEMM of {sizes} square random matrices,"
        f" copy of {copied.sizes[0] >> 20} MiB (read and written)",
        cores=machine.cores,
        gemm_sizes=gemm.sizes,
        copy_bytes=copied.sizes[0],
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
