"""Tell from its numbers that a column of a request table is in another unit than its name says."""

from typing import Final

import numpy as np

from vtprof_analyzer.regress.requests import Floats, Integers
from vtprof_schemas.errors import DataError

_FACTOR: Final = 100
"""Phases that add up to so many times TTFT, in the median request, are in another unit."""
_LOOKED_AT: Final = 100_000
_SINCE_1973: Final = (
    # Seconds, milliseconds, microseconds that are no later than nanoseconds of 1973.
    (10**8, 10**11, "seconds", "1e9"),
    (10**11, 10**14, "milliseconds", "1e6"),
    (10**14, 10**17, "microseconds", "1000"),
)
_PARTS: Final = ("preprocess_ms", "queue_ms", "encode_ms", "prefill_ms")


def check_start_unit(shown: str, start_ns: Integers) -> None:
    """Raise DataError where most start times look like seconds, milliseconds or microseconds."""
    told = start_ns[start_ns > 0][:_LOOKED_AT]
    if not len(told):
        return
    middle = int(np.median(told))
    for low, high, unit, factor in _SINCE_1973:
        if low <= middle < high:
            raise DataError(
                f"{shown}: start_unix_nano looks like {unit} ({middle}); nanoseconds are wanted: multiply by {factor}"
            )


def check_time_units(shown: str, floats: dict[str, Floats]) -> str | None:
    """Raise DataError where TTFT and its parts cannot be in one unit; return a note where that is likely."""
    if "ttft_ms" not in floats:
        return None
    ttft = floats["ttft_ms"][:_LOOKED_AT]
    parts = [floats[part][:_LOOKED_AT] for part in _PARTS if part in floats]
    if not parts:
        return None
    with np.errstate(all="ignore"):
        known = ~np.isnan(parts).all(axis=0) & (ttft > 0) & np.isfinite(ttft)
        if not known.any():
            return None
        ratios = (np.nansum(parts, axis=0) / ttft)[known]
        middle = float(np.median(ratios))
    if middle > _FACTOR:
        raise DataError(
            f"{shown}: the phases add up to {middle:.0f} times ttft_ms in the median request: they are not in one unit;"
            " give all of them in milliseconds"
        )
    if len(parts) == len(_PARTS) and middle < 1 / _FACTOR:
        return f"the phases add up to {100 * middle:.2g} % of ttft_ms in the median request: are they in seconds?"
    return None
