"""Reads rule packs: folders of TOML files, checked against the JSON Schema, the vocabulary and the allow-list.

A faulty rule is never skipped: all faults of all files are collected and reported together.
"""

import errno
import functools
import json
import os
import re
import stat
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from vtprof_rules.build import RuleBuilder, expressions_of
from vtprof_rules.expressions import control_characters, parse_ahead
from vtprof_rules.faults import Fault, sorted_lines
from vtprof_rules.rule import Rule
from vtprof_schemas.errors import RuleError

CASES_SUFFIX = ".cases.toml"
SCHEMA = "rule.schema.json"
MAX_FILE_BYTES = 256 * 1024
MAX_RULES = 1000
MAX_DEPTH = 12
"""Tables and lists within each other; a rule needs four."""
_KEY = r"""(?:(?<![\w-])[\w-]++|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')[ \t]*+"""
_LONG_KEY = re.compile(rf"(?:{_KEY}\.[ \t]*+){{{MAX_DEPTH}}}")
"""A dotted key of more parts than any table is deep: the parser keeps every prefix of one, the square of its length."""
CORE_PACK = Path(__file__).parent / "packs" / "core"


@dataclass(frozen=True)
class LoadedRules:
    """Rules without a fault, in the order of their ids."""

    rules: tuple[Rule, ...]
    replaced: tuple[tuple[Rule, Rule], ...] = ()
    """Rules that a user's pack took the place of, each with the one that is judged instead."""

    def __iter__(self) -> Iterator[Rule]:
        return iter(self.rules)

    def __len__(self) -> int:
        return len(self.rules)


def load_packs(extra: Sequence[Path] = ()) -> LoadedRules:
    """Load the shipped pack and the user's folders; raise ``RuleError`` with one line for each fault found.

    A user's rule replaces a shipped one of the same id only when it names that id in ``supersedes``.
    """
    rules, faults = read_pack(CORE_PACK, trusted=True)
    by_id = {rule.id: rule for rule in rules}
    replaced: list[tuple[Rule, Rule]] = []
    for folder in extra:
        more, more_faults = read_pack(folder)
        faults += more_faults
        for rule in more:
            if rule.id in by_id and rule.id not in rule.supersedes:
                message = f"{rule.id} is already defined in {by_id[rule.id].path}; to replace it, name it in supersedes"
                faults.append(Fault(rule.path, "id", message))
                continue
            for index, superseded in enumerate(rule.supersedes):
                old = by_id.pop(superseded, None)
                if old is None:
                    faults.append(
                        Fault(rule.path, f"supersedes[{index}]", f"there is no rule {superseded!r} before it")
                    )
                else:
                    replaced.append((old, rule))
            by_id[rule.id] = rule
    if faults:
        raise RuleError(sorted_lines(faults))
    return LoadedRules(tuple(by_id[id_] for id_ in sorted(by_id)), tuple(replaced))


def read_pack(folder: Path, trusted: bool = False) -> tuple[list[Rule], list[Fault]]:
    """Read every rule file under ``folder``; return the good rules and the faults of the others.

    A ``trusted`` pack is the shipped one: its tests found schema and types in order, which takes most of the time.
    """
    if not exists(folder, stat.S_ISDIR):
        return [], [Fault(folder, "", "no such folder of rules; give a folder that holds *.toml files")]
    rules: list[Rule] = []
    faults: list[Fault] = []
    paths = sorted(p for p in folder.rglob("*.toml") if not p.name.endswith(CASES_SUFFIX))
    if len(paths) > MAX_RULES:
        return [], [Fault(folder, "", f"holds {len(paths)} rule files; at most {MAX_RULES} are read")]
    if not paths:
        faults.append(Fault(folder, "", "holds no rule files; a rule is a file such as XAB001_my_rule.toml"))
    schema = None if trusted else SCHEMA
    documents = [(path, *read_toml(path, schema)) for path in paths]
    sound = [document for _, document, file_faults in documents if document and not file_faults]
    parse_ahead(*expressions_of(sound))
    seen: dict[str, Path] = {}
    for path, document, file_faults in documents:
        rule, more_faults = _rule_of(path, document, file_faults, trusted)
        faults += more_faults
        if rule is None:
            continue
        if rule.id in seen:
            faults.append(Fault(path, "id", f"{rule.id} is already defined in {seen[rule.id]}"))
            continue
        seen[rule.id] = path
        rules.append(rule)
    return rules, faults


def _rule_of(
    path: Path, document: dict[str, Any] | None, faults: list[Fault], trusted: bool
) -> tuple[Rule | None, list[Fault]]:
    if document is None:
        return None, faults
    if faults:
        return None, faults + _more_faults(path, document)
    faults = _fault_versions(path, document)
    if not path.name.startswith(document["id"]):
        faults.append(Fault(path, "id", f"the file's name has to begin with the rule's id, {document['id']}"))
    builder = RuleBuilder(path, document)
    rule = builder.build(bind=not trusted)
    faults += builder.faults
    return (None if faults else rule), faults


def _more_faults(path: Path, document: Mapping[str, Any]) -> list[Fault]:
    """Return what else is wrong with a file that the schema refuses, as far as it can be read."""
    builder = None
    try:
        builder = RuleBuilder(path, document)
        builder.build(bind=False)
        return builder.faults + _fault_versions(path, document)
    except (AttributeError, KeyError, TypeError, ValueError, IndexError):
        return builder.faults if builder else []


def read_toml(path: Path, schema: str | None) -> tuple[dict[str, Any] | None, list[Fault]]:
    """Read a TOML file and validate it; return the document, ``None`` if it cannot be read, and its faults.

    Without a ``schema`` nothing is looked for but that it can be read.
    """
    try:
        content = _read(path)
        if len(content) > MAX_FILE_BYTES:
            return None, [Fault(path, "", f"larger than {MAX_FILE_BYTES // 1024} KiB")]
        text = content.decode("utf-8")
        if _LONG_KEY.search(text):
            return None, [Fault(path, "", f"is nested too deeply: more than {MAX_DEPTH} levels")]
        document = tomllib.loads(text)
    except OSError as error:
        return None, [Fault(path, "", f"cannot be read: {error.strerror or error}")]
    except UnicodeDecodeError as error:
        return None, [Fault(path, "", f"is not UTF-8 text (byte {error.start})")]
    except (tomllib.TOMLDecodeError, ValueError) as error:
        return None, [Fault(path, "", f"is not TOML: {error}")]
    except RecursionError:
        return None, [Fault(path, "", f"is nested too deeply: more than {MAX_DEPTH} levels")]
    if _is_deep(document):
        return None, [Fault(path, "", f"is nested too deeply: more than {MAX_DEPTH} levels")]
    if schema is None:
        return document, []
    faults = [
        Fault(path, key, message)
        for key, value in _leaves(document, "")
        if (message := _unfit(value, "\n\t" if key == "description" else "\n"))
    ]
    faults += [
        Fault(path, _dotted(invalid.absolute_path), invalid.message)
        for invalid in _validator(schema).iter_errors(document)
    ]
    return document, faults


def _read(path: Path) -> bytes:
    """Return a regular file's bytes, one more than allowed at most; pipes and devices are refused, never waited for."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        return file.read(MAX_FILE_BYTES + 1)


def exists(path: Path, kind: Callable[[int], bool]) -> bool:
    """Tell whether a path is of this kind (a test of `stat`); a name too long for the system is not."""
    try:
        return kind(path.stat().st_mode)
    except OSError:
        return False


def _is_deep(document: dict[str, Any]) -> bool:
    """Tell whether tables and lists lie deeper within each other than `MAX_DEPTH`, without recursion."""
    level: list[Any] = [document]
    for _ in range(MAX_DEPTH):
        values = [item for outer in level for item in (outer.values() if isinstance(outer, dict) else outer)]
        level = [value for value in values if isinstance(value, dict | list)]
    return bool(level)


@functools.cache
def _validator(schema: str) -> jsonschema.Draft202012Validator:
    text = files("vtprof_rules").joinpath(schema).read_text(encoding="utf-8")
    return jsonschema.Draft202012Validator(json.loads(text))


def _dotted(path: Sequence[str | int]) -> str:
    key = ""
    for part in path:
        key += f"[{part}]" if isinstance(part, int) else f".{part}"
    return key.removeprefix(".")


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Yield every value of a document that is not a container, and every key, with its place."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield key, name
            yield from _leaves(item, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{key}[{index}]")
    else:
        yield key, value


def _unfit(value: Any, allowed: str) -> str | None:
    """Say why a value cannot be used in any place: control characters, or a number that is none in SQL or JSON."""
    if isinstance(value, str):
        found = control_characters(value, allowed)
        return f"control characters are not allowed: {', '.join(found)}" if found else None
    if isinstance(value, int | float) and not abs(value) < 2**63:  # nan is below nothing
        return "numbers have to be finite and below 2^63"
    return None


def _fault_versions(path: Path, document: Mapping[str, Any]) -> list[Fault]:
    """Check that every version range is one, as in ``>=0.11,<0.20``."""
    ranges = [(f"applies.engine.{k}", v) for k, v in document.get("applies", {}).get("engine", {}).items()]
    ranges += [
        (f"recommend[{i}].versions", r["versions"])
        for i, r in enumerate(document["recommend"])
        if "versions" in r
    ]
    faults = []
    for key, text in ranges:
        try:
            SpecifierSet(text)
        except InvalidSpecifier:
            faults.append(Fault(path, key, f"{text!r} is not a version range such as '>=0.11,<0.20'"))
    return faults
