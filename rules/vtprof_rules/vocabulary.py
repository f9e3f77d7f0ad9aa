"""The facts and evidence columns that rules may name, each with type, unit and meaning.

A fact is one value for one row of a facts view; ``None`` is "not known" and never looks like a pass. An evidence
column is a column of the table that ``evidence.from`` names. Both are public names: add, do not rename.
"""

import tomllib
from collections.abc import Mapping
from importlib import resources
from typing import Final, Literal, NamedTuple, cast

ColumnType = Literal["DOUBLE", "BIGINT", "VARCHAR", "BOOLEAN"]


class Column(NamedTuple):
    """One fact or evidence column."""

    type: ColumnType
    unit: str
    """``ratio`` is a share in 0..1; empty for names and plain counts without a unit."""
    label: str
    """A few words for a sentence in a report."""
    meaning: str


def _read(name: str) -> dict[str, dict[str, Column]]:
    document = tomllib.loads(resources.files("vtprof_rules").joinpath(name).read_text("utf-8"))
    return {
        group: {
            column: Column(*cast("tuple[ColumnType, str, str, str]", entry))
            for column, entry in columns.items()
        }
        for group, columns in document.items()
    }


FACT_GROUPS: Final[Mapping[str, Mapping[str, Column]]] = _read("facts.toml")
"""Every fact by its group: time, tokens, caches and so on."""

FACTS: Final[Mapping[str, Column]] = {
    name: column for columns in FACT_GROUPS.values() for name, column in columns.items()
}
"""Every fact that a rule may use in ``when``, ``unless``, ``saving`` and ``applies.requires``."""

EVIDENCE_COLUMNS: Final[Mapping[str, Mapping[str, Column]]] = _read("evidence.toml")
"""Tables that ``evidence.from`` may name, with the columns that rules may read.

The analyzer may leave out a table or column that it does not have: it is empty, or NULL, for the rule then.
"""

FACT_VIEWS: Final[Mapping[str, str]] = {
    "deployment_facts": "one row: the whole run",
    "model_facts": "one row a model that requests asked for",
    "instance_facts": "one row a serving process",
    "phase_facts": "one row a phase of the whole run",
}
"""What ``facts`` may name: each has all facts as columns, those that do not belong to its rows NULL."""
