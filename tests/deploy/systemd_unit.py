"""Reads systemd unit files for tests: sections, keys that may come several times, time spans and sizes."""

import re
import shlex
from pathlib import Path

SECONDS = {"": 1, "s": 1, "sec": 1, "min": 60, "ms": 0.001}
BYTES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}

Section = dict[str, list[str]]


def read_unit(path: Path) -> dict[str, Section]:
    """Return sections with the values of each key in their order; a line that is none of a unit raises ValueError."""
    sections: dict[str, Section] = {}
    current: Section | None = None
    for line in path.read_text("utf-8").splitlines():
        if not line.strip() or line[0] in "#;":
            continue
        if (header := re.fullmatch(r"\[([A-Za-z]+)\]", line)) is not None:
            current = sections.setdefault(header[1], {})
            continue
        key, equals, value = line.partition("=")
        if not equals or current is None or not re.fullmatch(r"[A-Za-z]+", key):
            raise ValueError(line)
        values = current.setdefault(key, [])
        values.append(value.strip())
    return sections


def one(section: Section, key: str) -> str:
    """Return the value of a key that is there once."""
    (value,) = section[key]
    return value


def seconds(text: str) -> float:
    """Return a time span in seconds."""
    found = re.fullmatch(r"([0-9.]+) ?([a-z]*)", text)
    assert found is not None, text
    return float(found[1]) * SECONDS[found[2]]


def size_bytes(text: str) -> int:
    """Return a size in bytes."""
    found = re.fullmatch(r"([0-9]+)([KMG]?)", text)
    assert found is not None, text
    return int(found[1]) * BYTES[found[2]]


def environment(section: Section) -> dict[str, str]:
    """Return the variables that a service is given."""
    words = [word for line in section["Environment"] for word in shlex.split(line)]
    return dict(word.split("=", 1) for word in words)
