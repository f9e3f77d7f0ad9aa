"""Where the change of the mean TTFT comes from, as rows that add up in the digits that are shown."""

import math
from dataclasses import dataclass
from typing import Final

from vtprof_analyzer.regress.comparison import Comparison, Decomposition, Part
from vtprof_analyzer.report.compare_phrases import change, finite
from vtprof_analyzer.report.format import MINUS, safe

TITLE: Final = "Where the change of TTFT comes from"
CAPTION: Final = "Mean over the requests of each side that have a TTFT"
NONE: Final = "Not known: it takes requests on both sides that tell TTFT and its phases."
_MEANINGS: Final = (
    (("mix",), "workload mix: the requests' own tokens"),
    (("load",), "load: what other requests did"),
    (("cache",), "encoder cache: images that it held"),
    (("preprocess", "encode", "transfer", "prefill"), "phases: at like work and load"),
    (("queue", "unexplained"), "queue and unexplained: their whole change"),
    (("residual",), "residual: what the model does not tell apart"),
)
_WHOLE_MS: Final = 1_000.0
"""Changes from here on are shown in whole milliseconds."""
_LARGEST_MS: Final = 1e12
"""No TTFT is so long: nothing is drawn or added up beyond."""
_PARTS: Final = 20
_LABELS: Final = {"mix": "workload mix", "cache": "encoder cache"}


@dataclass(frozen=True)
class Row:
    """One part of the change, or a side where ``start`` is None."""

    name: str
    part: str
    shown_ms: str
    shown_ratio: str
    change_ms: float
    start_ms: float
    """Sum of BASE's mean and the parts before it."""


@dataclass(frozen=True)
class Budget:
    """BASE's mean TTFT, the parts and NEW's, in one number of decimals."""

    base_ms: float
    new_ms: float
    base: str
    new: str
    ratio: str
    rows: tuple[Row, ...]


def budget(comparison: Comparison) -> Budget | None:
    """Return the rows; None where they are not known."""
    told = comparison.decomposition
    if told is None or not told.parts:
        return None
    numbers = [told.base_ms, told.new_ms, *(part.change_ms for part in told.parts)]
    if any(finite(number) is None or abs(number) > _LARGEST_MS for number in numbers):
        return None
    parts = _bounded(told.parts)
    decimals = _decimals([told.new_ms - told.base_ms, *(part.change_ms for part in parts)])
    units = _adding_up(told, parts, decimals)
    rows, at = [], told.base_ms
    for part, whole in zip(parts, units, strict=True):
        rows.append(
            Row(
                name=_LABELS.get(part.part, safe(part.part, 16)),
                part=part.part,
                shown_ms=_signed(whole, decimals),
                shown_ratio=change(part.change_ms / told.base_ms) if told.base_ms > 0 else "",
                change_ms=part.change_ms,
                start_ms=at,
            )
        )
        at += part.change_ms
    return Budget(
        told.base_ms,
        told.new_ms,
        f"{told.base_ms:,.{decimals}f} ms",
        f"{told.new_ms:,.{decimals}f} ms",
        change(told.new_ms / told.base_ms - 1) if told.base_ms > 0 else "",
        tuple(rows),
    )


def note(comparison: Comparison) -> str:
    """Return what the parts that are there mean."""
    told = comparison.decomposition
    parts = {part.part for part in told.parts} if told else set()
    meanings = [meaning for names, meaning in _MEANINGS if parts & set(names)]
    return f"{CAPTION}. {'; '.join([*meanings, 'the parts add up'])}."


def _bounded(parts: tuple[Part, ...]) -> list[Part]:
    """Return the parts; of too many the last ones are taken together."""
    if len(parts) <= _PARTS:
        return list(parts)
    return [*parts[:_PARTS], Part("others", math.fsum(part.change_ms for part in parts[_PARTS:]))]


def _decimals(changes: list[float]) -> int:
    largest = max(abs(number) for number in changes)
    if largest == 0 or 1 <= largest < _WHOLE_MS:
        return 1 if not 0 < largest < 10 else 2
    return 0 if largest >= _WHOLE_MS else min(2 - math.floor(math.log10(largest)), 6)


def _adding_up(told: Decomposition, parts: list[Part], decimals: int) -> list[int]:
    """Return the parts in units of the last digit shown, so that BASE and they give NEW."""
    scale = 10**decimals
    return adding_up(
        [part.change_ms * scale for part in parts], round(told.new_ms * scale) - round(told.base_ms * scale)
    )


def adding_up(exact: list[float], total: int) -> list[int]:
    """Return numbers rounded so that they add up to ``total``: those round that lose least."""
    units = [math.floor(number + 0.5) for number in exact]
    missing = total - sum(units)
    # Parts that do not add up, against their promise, are shown as they are.
    if abs(missing) <= len(exact):
        step = 1 if missing > 0 else -1
        by_need = sorted(range(len(exact)), key=lambda index: step * (units[index] - exact[index]))
        for index in by_need[: abs(missing)]:
            units[index] += step
    return units


def _signed(units: int, decimals: int) -> str:
    shown = f"{abs(units) / 10**decimals:,.{decimals}f} ms"
    return f"{MINUS}{shown}" if units < 0 else f"+{shown}" if units > 0 else shown
