"""What tests of rules share: one rule file read as a part of its folder, and facts that hold for all rows."""

from pathlib import Path

from vtprof_rules.fact_rows import FactRow, FactRows, Facts
from vtprof_rules.faults import Fault
from vtprof_rules.load import read_pack
from vtprof_rules.rule import Rule
from vtprof_rules.vocabulary import FACT_VIEWS


def read_rule(path: Path) -> tuple[Rule | None, list[Fault]]:
    """Return the rule of a file, ``None`` where it has a fault, and its faults."""
    rules, faults = read_pack(path.parent)
    rule = next((one for one in rules if one.path == path), None)
    return rule, [one for one in faults if one.path == path]


def same_everywhere(facts: Facts) -> FactRows:
    """Return rows in which every view has one row of these facts, as in a run of one model and one process."""
    return {view: [FactRow(None, facts)] for view in FACT_VIEWS}
