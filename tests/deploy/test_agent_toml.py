"""The example configuration names every setting with its default, and the agent takes it as it is."""

import re
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from vtprof_agent.config import Config, merge, read_file

EXAMPLE = Path(__file__).parents[2] / "deploy" / "agent.toml"
DEFAULTS = {field.name: field.default for field in fields(Config)}
COMMENTED = re.compile(r"^# ([a-z_0-9]+) = (.+?)\s*(?:#.*)?$")


def test_the_agent_takes_it() -> None:
    merged = merge({}, {}, read_file(EXAMPLE), str(EXAMPLE))
    assert set(merged.origins.values()) == {str(EXAMPLE), "default"}


def test_every_setting_is_in_it_once() -> None:
    lines = EXAMPLE.read_text().splitlines()
    named = [found[1] for line in lines if (found := re.match(r"(?:# )?([a-z_0-9]+) = ", line))]
    assert sorted(named) == sorted(DEFAULTS)


@pytest.mark.parametrize("line", [line for line in EXAMPLE.read_text().splitlines() if COMMENTED.match(line)])
def test_what_is_commented_is_the_default(line: str) -> None:
    found = COMMENTED.match(line)
    assert found is not None
    name, text = found.groups()
    default = DEFAULTS[name]
    if default in (None, ()):  # an example of a value
        merge({}, {}, {name: tomllib.loads(f"value = {text}")["value"]}, "example")
        return
    value = tomllib.loads(f"value = {text}")["value"]
    assert value == (str(default) if isinstance(default, Path) else default)
