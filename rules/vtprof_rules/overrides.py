"""What a user changes about loaded rules on the command line: thresholds, and rules that are switched off."""

import math
import re
from collections.abc import Sequence
from dataclasses import replace

from vtprof_rules.load import LoadedRules
from vtprof_rules.rule import Rule, Scalar
from vtprof_schemas.errors import ConfigError

_NUMBER = re.compile(r"[+-]?[0-9]{1,30}(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,3})?")


def with_params(loaded: LoadedRules, overrides: Sequence[str]) -> LoadedRules:
    """Return the rules with thresholds replaced, each given as ``ID.name=value``.

    Raises ``ConfigError`` for an unknown rule or parameter, and for a value of another type than the default's.
    """
    rules = {rule.id: rule for rule in loaded}
    for text in overrides:
        target, equals, value = text.partition("=")
        id_, dot, name = target.strip().partition(".")
        if not (equals and dot):
            raise ConfigError(f"--rule-param {text!r}: write ID.name=value, as in ENC001.min_share=0.2")
        rule = _rule(rules, id_, "--rule-param", text)
        if name not in rule.params:
            known = ", ".join(rule.params) or "none"
            raise ConfigError(f"--rule-param {text!r}: {rule.id} has no parameter {name!r}; it has {known}")
        param = rule.params[name]
        changed = replace(
            param,
            default=_typed(text, value.strip(), param.default),
            source=f"given by the user, not {param.default}",
        )
        rules[rule.id] = replace(rule, params={**rule.params, name: changed})
    return replace(loaded, rules=tuple(rules.values()))


def switched_off(loaded: LoadedRules, given: Sequence[str]) -> dict[str, str]:
    """Return the reason for each rule that is not to be judged, each given as ``ID=reason``.

    Raises ``ConfigError`` for an unknown rule, and where the reason is missing: the report repeats it.
    """
    rules = {rule.id: rule for rule in loaded}
    off = {}
    for text in given:
        id_, _, reason = text.partition("=")
        rule = _rule(rules, id_, "--rule-off", text)
        if not reason.strip():
            raise ConfigError(f"--rule-off {text!r}: say why, as in {rule.id}=known, ticket 123")
        off[rule.id] = reason.strip()
    return off


def _rule(rules: dict[str, Rule], id_: str, option: str, text: str) -> Rule:
    rule = rules.get(id_.strip().upper())
    if rule is None:
        raise ConfigError(f"{option} {text!r}: no rule {id_.strip()!r}; see `vtprof rules list`")
    return rule


def _typed(text: str, value: str, default: Scalar) -> Scalar:
    if isinstance(default, str):
        return value
    if isinstance(default, bool):
        if value.lower() not in ("true", "false"):
            raise ConfigError(f"--rule-param {text!r}: takes true or false")
        return value.lower() == "true"
    number = float(value) if _NUMBER.fullmatch(value) else math.inf
    if not abs(number) < 2**63:
        raise ConfigError(f"--rule-param {text[:80]!r}: takes a number below 2^63, as {default}")
    return int(number) if isinstance(default, int) and number.is_integer() else number
