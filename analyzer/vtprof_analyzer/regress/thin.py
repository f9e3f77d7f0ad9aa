"""What is judged of large runs: requests evenly over the run, each for as many as stand between, with the load of all.

Beyond some hundred thousand requests a side, noise from run to run is all that is left of the doubt.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from vtprof_analyzer.regress.load import Load, load_of
from vtprof_analyzer.regress.requests import Flags, Integers, Requests

MOST_REQUESTS: Final = 100_000
"""Of a side, judged."""


@dataclass(frozen=True)
class Thinned:
    """Which requests of a run are judged."""

    rows: Integers
    factor: float
    """Requests of the run for each of them."""


def thin(tables: Sequence[Requests]) -> list[Thinned]:
    """Return what is judged of the runs of a side."""
    share = MOST_REQUESTS / max(sum(len(q) for q in tables), 1)
    found = []
    for q in tables:
        count = len(q) if share >= 1 else max(round(share * len(q)), min(len(q), 1))
        rows = np.linspace(0, len(q) - 1, count).astype(np.int64) if count < len(q) else np.arange(len(q))
        found.append(Thinned(rows, len(q) / max(len(rows), 1)))
    return found


def of_model(q: Requests, name: str) -> Flags:
    """Say which requests a served model answered."""
    return np.isin(q.model, [place for place, one in enumerate(q.models) if one == name])


def judged(q: Requests, thinned: Thinned) -> Requests:
    """Return the judged requests of a run, of all models."""
    table = q if len(thinned.rows) == len(q) else q.select(thinned.rows)
    return replace(table, weight=table.weight * thinned.factor)


def with_load(q: Requests, thinned: Thinned, name: str) -> tuple[Requests, Load]:
    """Return the judged requests of one model, in order, with the load that all of its requests are on them."""
    # An engine serves one model, as a rule: others are no load on it.
    mine = of_model(q, name)
    if mine.all():
        return judged(q, thinned), load_of(q, thinned.rows)
    kept = np.zeros(len(q), np.bool_)
    kept[thinned.rows] = True
    rows = np.flatnonzero(kept[mine])
    table = q.select(np.flatnonzero(mine))
    part = table.select(rows)
    return replace(part, weight=part.weight * thinned.factor), load_of(table, rows)
