"""The facts that rules are judged on: rows of the four facts views, each about one subject."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from vtprof_rules.rule import Scalar

Facts = Mapping[str, Scalar | None]
"""Values for names of ``vocabulary.FACTS``; one that is absent or ``None`` is not known."""


@dataclass(frozen=True)
class FactRow:
    """One row of a facts view."""

    subject: str | None
    """The model, serving process or phase that it is about; ``None`` for the whole run."""
    values: Facts


FactRows = Mapping[str, Sequence[FactRow]]
"""The rows of each facts view; a view that is absent has none."""

SUBJECTS: Final[Mapping[str, tuple[str, str]]] = {
    "model_facts": ("model", "model"),
    "instance_facts": ("process", "service_instance_id"),
    "phase_facts": ("phase", "phase"),
}
"""What a row of a view is about, in a word, and the evidence column that names it."""


def number(facts: Facts, name: str) -> float | None:
    """Return a fact that is a finite number; ``None`` for anything else."""
    value = facts.get(name)
    known = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if known and value is not None else None


def phases_ms(facts: Facts, phases: Sequence[str], statistic: str) -> float | None:
    """Return the time that these phases take together, median (``p50``) or ``mean``; ``None`` where one is not known.

    The time of decode is that of a token.
    """
    times = [number(facts, f"{'tpot' if phase == 'decode' else phase}_ms_{statistic}") for phase in phases]
    return None if None in times else sum(time for time in times if time)
