"""The shipped cases pin the rules: flip a comparison or move a threshold by a tenth, and a case has to fail."""

import copy
import re
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from vtprof_rules.build import RuleBuilder
from vtprof_rules.cases import case_facts, compare, read_cases
from vtprof_rules.load import load_packs
from vtprof_rules.rule import Rule

# What each comparison is turned into: its opposite, and its neighbour that differs at the threshold alone.
FLIPS = {">=": ("<", ">"), "<=": (">", "<"), ">": ("<=", ">="), "<": (">=", "<="), "=": ("<>",), "<>": ("=",)}
COMPARISON = re.compile(r">=|<=|<>|>|<|=")
CONSTANT = re.compile(r"(?<![\w.'$])\d+(?:\.\d+)?(?![\w.'])")
CORE = {rule.id: rule for rule in load_packs()}


def expressions(document: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    yield document, "when"
    yield from ((entry, "expr") for entry in document.get("unless", []))
    yield from ((document["evidence"], key) for key in ("where", "order_by"))
    if "saving" in document:
        yield from ((document["saving"], key) for key in ("low", "high"))


def edits(text: str) -> Iterator[str]:
    for match in COMPARISON.finditer(text):
        for flipped in FLIPS[match.group()]:
            yield text[: match.start()] + flipped + text[match.end() :]
    for match in CONSTANT.finditer(text):
        for factor in (0.9, 1.1):
            if float(match.group()):  # a tenth of nothing is nothing
                yield text[: match.start()] + repr(float(match.group()) * factor) + text[match.end() :]
    for before, after in ((" AND ", " OR "), (" DESC", " ASC")):
        for match in re.finditer(before.strip().join((r"\b", r"\b")), text):
            yield text[: match.start()] + after.strip() + text[match.end() :]


def mutants(rule: Rule) -> Iterator[tuple[str, dict[str, Any]]]:
    document = tomllib.loads(rule.path.read_text(encoding="utf-8"))
    for position, (_, key) in enumerate(expressions(document)):
        original = list(expressions(document))[position][0][key]
        for text in edits(original):
            mutant = copy.deepcopy(document)
            list(expressions(mutant))[position][0][key] = text
            yield f"{key}: {' '.join(text.split())}", mutant
    for name, param in document["params"].items():
        for factor in (0.9, 1.1):
            mutant = copy.deepcopy(document)
            mutant["params"][name]["default"] = param["default"] * factor
            yield f"${name} x {factor}", mutant
    for shift in (-1, 1):
        mutant = copy.deepcopy(document)
        mutant["applies"]["min_requests"] += shift
        yield f"min_requests {shift:+d}", mutant


@pytest.mark.parametrize("rule_id", CORE)
def test_each_change_of_a_rule_fails_one_of_its_cases(rule_id: str) -> None:
    rule = CORE[rule_id]
    cases, _ = read_cases(rule)
    # Most are found by status or saving; evidence, which needs tables of its own, is looked at for the rest.
    quick = [
        replace(case, expect={key: value for key, value in case.expect.items() if key != "evidence"})
        for case in cases
    ]
    changed = list(mutants(rule))
    survivors = []
    with case_facts(rule, cases) as bench:
        for what, document in changed:
            builder = RuleBuilder(rule.path, document)
            mutant = builder.build(bind=False)
            assert not builder.faults
            found = (result for some in (quick, cases) for result in compare(mutant, some, bench))
            if not any(result.failures for result in found):
                survivors.append(what)
    assert survivors == []
    assert len(changed) >= 6
