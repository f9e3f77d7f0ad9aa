"""What SGLang's hooks rely on beside their targets, looked up in SGLang's own source, version by version."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest
from sglang_reads import RANKS, READS
from source_targets import module_path
from test_hook_targets import SOURCES, Source

from vtprof_probe.engines.sglang_encoder import FEATURES
from vtprof_probe.hooks.targets import Target, fits

SGLANG = [source for source in SOURCES if source.engine == "sglang"]
every_version = pytest.mark.parametrize("source", SGLANG, ids=lambda source: source.version)


@functools.lru_cache(maxsize=256)
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8-sig"))


def module(source: Source, name: str) -> ast.Module:
    path = module_path(source.folder, name)
    assert path is not None, f"no module {name}"
    return tree(path)


def function(source: Source, name: str, qualname: str) -> ast.FunctionDef | ast.AsyncFunctionDef:
    """Return a function or method as it is written, to be searched."""
    found: ast.AST = module(source, name)
    for part in qualname.split("."):
        found = next(node for node in ast.iter_child_nodes(found) if getattr(node, "name", None) == part)
    assert isinstance(found, ast.FunctionDef | ast.AsyncFunctionDef)
    return found


def names_of(source: Source, module_name: str, owner: str, depth: int = 0) -> set[str]:
    """Return what instances of a class have: its fields, what its methods assign to self, its methods; bases' too.

    Without a class: the functions of the module.
    """
    body = module(source, module_name)
    if not owner:
        return {node.name for node in body.body if isinstance(node, ast.FunctionDef)}
    cls = next(
        (node for node in ast.walk(body) if isinstance(node, ast.ClassDef) and node.name == owner), None
    )
    if cls is None:
        place = imported_from(body, owner)
        return set() if place is None or depth > 6 else names_of(source, place, owner, depth + 1)
    found = set(own_names(cls))
    for base in cls.bases:
        if isinstance(base, ast.Name) and depth < 6:
            found |= names_of(source, module_name, base.id, depth + 1)
    return found


def imported_from(body: ast.Module, name: str) -> str | None:
    for node in ast.walk(body):
        if isinstance(node, ast.ImportFrom) and any(
            (alias.asname or alias.name) == name for alias in node.names
        ):
            return node.module if (node.module or "").startswith("sglang") else None
    return None


def own_names(cls: ast.ClassDef) -> Iterator[str]:
    for statement in cls.body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            yield statement.name
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            yield statement.target.id
        elif isinstance(statement, ast.Assign):
            yield from (target.id for target in statement.targets if isinstance(target, ast.Name))
    for node in ast.walk(cls):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
            and node.value.id == "self"
        ):
            yield node.attr


def called(body: ast.AST) -> set[str]:
    """Return the names, or the last parts of dotted names, that are called somewhere in a piece of code."""
    calls = [node.func for node in ast.walk(body) if isinstance(node, ast.Call)]
    return {getattr(func, "attr", None) or getattr(func, "id", "") for func in calls}


def test_there_is_source_to_look_into() -> None:
    assert SGLANG, "no version of sglang in reach; run `make test-engines`"


@every_version
def test_every_attribute_that_the_hooks_read_is_there(source: Source) -> None:
    missing = {}
    for read in READS:
        if fits(Target(read.module, read.owner, read.since, read.until), source.version):
            lacking = set(read.attributes) - names_of(source, read.module, read.owner)
            if lacking:
                missing[f"{read.module}.{read.owner}"] = sorted(lacking)
    assert missing == {}


@every_version
def test_the_process_s_context_knows_the_ranks(source: Source) -> None:
    if fits(Target("", "", since="0.5.22"), source.version):
        body = module(source, "sglang.srt.runtime_context")
        known = {node.value for node in ast.walk(body) if isinstance(node, ast.Constant)}
        assert {name for name in RANKS if name != "dp_rank"} <= known
        scheduler = ast.dump(module(source, "sglang.srt.managers.scheduler"))
        assert "attr='dp_rank'" in scheduler


@every_version
def test_the_loops_call_what_is_hooked_through_the_object(source: Source) -> None:
    """A method that a loop had bound beforehand would go past the hook on a running server."""
    for loop in ("event_loop_normal", "event_loop_overlap"):
        body = function(source, "sglang.srt.managers.scheduler", f"Scheduler.{loop}")
        assert {"run_batch", "process_batch_result"} <= called(body)
    module_name = "sglang.srt.managers.tokenizer_manager"
    handles = called(function(source, module_name, "TokenizerManager.handle_loop"))
    assert "_result_dispatcher" in handles
    if fits(Target("", "", since="0.5.11"), source.version):
        assert "_handle_batch_output" in handles


@every_version
def test_every_step_is_counted_once_and_first_of_all(source: Source) -> None:
    """The hooks take forward_ct + 1 before run_batch as the step's number."""
    body = function(source, "sglang.srt.managers.scheduler", "Scheduler.run_batch")
    additions = [
        node
        for node in ast.walk(body)
        if isinstance(node, ast.AugAssign) and getattr(node.target, "attr", "") == "forward_ct"
    ]
    assert len(additions) == 1 and additions[0] in body.body[:3]
    assert isinstance(additions[0].value, ast.Constant) and additions[0].value.value == 1


@every_version
def test_the_model_runs_within_run_batch_in_the_scheduler_s_thread(source: Source) -> None:
    """The encoder's hooks take the step that runs from a variable."""
    assert module_path(source.folder, "sglang.srt.managers.tp_worker_overlap_thread") is None
    assert "forward_batch_generation" in called(
        function(source, "sglang.srt.managers.scheduler", "Scheduler.run_batch")
    )


@every_version
def test_media_are_embedded_through_the_module_s_own_name(source: Source) -> None:
    assert "embed_mm_inputs" in called(module(source, "sglang.srt.managers.mm_utils"))


@every_version
def test_retraction_returns_the_requests_first(source: Source) -> None:
    body = function(source, "sglang.srt.managers.schedule_batch", "ScheduleBatch.retract_decode")
    for node in ast.walk(body):
        if isinstance(node, ast.Return):
            assert isinstance(node.value, ast.Tuple) and len(node.value.elts) == 3
            assert isinstance(node.value.elts[0], ast.Name) and node.value.elts[0].id == "retracted_reqs"


@every_version
def test_an_abort_says_its_type_and_status_code(source: Source) -> None:
    body = function(source, "sglang.srt.managers.schedule_batch", "FINISH_ABORT.to_json")
    said = {node.value for node in ast.walk(body) if isinstance(node, ast.Constant)}
    assert {"type", "abort", "status_code"} <= said


@every_version
def test_encoders_of_all_models_have_names_that_are_hooked(source: Source) -> None:
    """Methods given as `data_embedding_funcs` are found by their names."""
    others = set()
    for path in (source.folder / "sglang" / "srt" / "models").glob("*.py"):
        text = path.read_text("utf-8-sig")
        if "data_embedding_funcs" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if (
                isinstance(node, ast.keyword)
                and node.arg == "data_embedding_funcs"
                and isinstance(node.value, ast.Dict)
            ):
                for value in node.value.values:
                    if isinstance(value, ast.Attribute) and not FEATURES.match(value.attr):
                        others.add((path.stem, value.attr))
    assert others == set()


@every_version
def test_the_plugin_is_a_callable_that_each_process_loads(source: Source) -> None:
    if not fits(Target("", "", since="0.5.11"), source.version):
        assert module_path(source.folder, "sglang.srt.plugins") is None
        return
    assert "func" in called(function(source, "sglang.srt.plugins", "load_plugins"))
    for name in ("sglang.srt.managers.scheduler", "sglang.srt.entrypoints.engine"):
        assert "load_plugins" in called(module(source, name))
