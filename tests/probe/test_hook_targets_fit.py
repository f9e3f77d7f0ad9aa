"""Hooks as data: the target that fits the version is wrapped, one that does not is skipped and named, all is undone."""

import asyncio
import inspect
import json
import subprocess
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest
from probe_doubles import ListRing

from vtprof_probe.engines import transformers_vlm
from vtprof_probe.hooks.patches import Patches
from vtprof_probe.hooks.post_import import ImportWatcher
from vtprof_probe.hooks.targets import Hook, HookSetter, Target, fits, version_key
from vtprof_probe.recorder import Recorder
from vtprof_schemas import names


class Probe:
    """A recorder into memory, its patches and watcher, and the calls that its hooks saw."""

    def __init__(self) -> None:
        self.ring = ListRing()
        self.recorder = Recorder(lambda: self.ring)
        self.patches = Patches(self.recorder.fault)
        self.watcher = ImportWatcher(self.recorder.fault)
        self.seen: list[Any] = []

    def setter(self, version: str, **hooks: Hook) -> HookSetter:
        return HookSetter(self.patches, self.watcher, self.recorder, version, hooks)

    def begin(self, owner: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.seen.append((type(owner).__name__, args, kwargs))
        return "token"

    def end(self, token: Any, result: Any, error: BaseException | None) -> None:
        self.seen.append((token, result, type(error).__name__ if error else None))


@pytest.fixture
def probe() -> Iterator[Probe]:
    made = Probe()
    yield made
    made.patches.undo()
    made.watcher.close()


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("some_engine")

    class Base:
        def schedule(self, throttle: bool = False) -> str:
            return "scheduled"

    class Scheduler(Base):
        async def fetch(self, url: str) -> str:
            await asyncio.sleep(0)
            if url == "bad":
                raise OSError(url)
            return url.upper()

    def embed(inputs: int, *, scale: int = 1) -> int:
        return inputs * scale

    module.Base, module.Scheduler, module.embed = Base, Scheduler, embed  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "some_engine", module)
    return module


def hook(*targets: Target, optional: bool = False) -> Hook:
    return Hook("what it sees", targets, ("engine",), optional)


def states(probe: Probe) -> dict[str, str]:
    probe.recorder.set_info({})
    found: dict[str, str] = json.loads(probe.ring.info[names.PROBE_HOOKS])
    return found


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("0.32.0+cpu", (0, 32, 0)), ("0.10.2.post2", (0, 10, 2)), ("0.5.1rc1", (0, 5, 1)), ("1.0.0.dev3+g12", (1, 0, 0)),
        ("", ()), ("main", ()),
    ],
)  # fmt: skip
def test_version_texts_are_read_as_release_numbers(text: str, key: tuple[int, ...]) -> None:
    assert version_key(text) == key


@pytest.mark.parametrize(
    ("version", "since", "until", "expected"),
    [
        ("0.11.0", "0.11.0", "0.12.0", True), ("0.12.0", "0.11.0", "0.12.0", False), ("0.10.9", "0.11", "", False),
        ("0.9.2", "", "0.10", True), ("0.100.0", "0.11", "", True),
        # Built from source: no number. It is taken as the newest.
        ("dev", "0.11", "", True), ("dev", "0.11", "0.12", False),
    ],
)  # fmt: skip
def test_range_holds_from_its_first_version_to_before_its_last(
    version: str, since: str, until: str, expected: bool
) -> None:
    assert fits(Target("m", "f", since, until), version) is expected


def test_method_is_wrapped_where_it_is_defined_and_put_back(probe: Probe, engine: Any) -> None:
    original = vars(engine.Base)["schedule"]
    probe.setter("1.0", plan=hook(Target("some_engine", "Scheduler.schedule", takes=("throttle",)))).set(
        "plan", probe.begin, probe.end
    )
    assert engine.Scheduler().schedule(True) == "scheduled"
    assert probe.seen == [("Scheduler", (True,), {}), ("token", "scheduled", None)]
    assert states(probe) == {"plan": "set"}
    probe.patches.undo()
    assert vars(engine.Base)["schedule"] is original
    assert "schedule" not in vars(engine.Scheduler)


def test_coroutine_function_stays_one_and_is_seen_to_its_end(probe: Probe, engine: Any) -> None:
    probe.setter("1.0", fetch=hook(Target("some_engine", "Scheduler.fetch"))).set(
        "fetch", probe.begin, probe.end
    )
    assert inspect.iscoroutinefunction(engine.Scheduler.fetch)
    pending = engine.Scheduler().fetch("image")
    assert probe.seen == []
    assert asyncio.run(pending) == "IMAGE"
    assert probe.seen[-1] == ("token", "IMAGE", None)
    with pytest.raises(OSError, match="bad"):
        asyncio.run(engine.Scheduler().fetch("bad"))
    assert probe.seen[-1] == ("token", None, "OSError")


def test_fault_around_a_coroutine_is_counted_and_it_is_awaited_all_the_same(
    probe: Probe, engine: Any
) -> None:
    def explode(*_arguments: Any) -> Any:
        raise RuntimeError("a bug of the probe")

    probe.recorder.set_info({})
    probe.patches.wrap(engine.Scheduler, "fetch", lambda *_: 1, explode)
    assert asyncio.run(engine.Scheduler().fetch("image")) == "IMAGE"
    assert probe.ring.hook_errors == 1


def test_function_of_a_module_may_be_called_by_keywords_alone(probe: Probe, engine: Any) -> None:
    probe.setter("1.0", embed=hook(Target("some_engine", "embed", takes=("inputs",)))).set(
        "embed", probe.begin, probe.end
    )
    assert engine.embed(inputs=3, scale=5) == 15
    assert probe.seen == [("NoneType", (), {"inputs": 3, "scale": 5}), ("token", 15, None)]


@pytest.mark.parametrize(
    ("target", "version", "reason"),
    [
        (Target("some_engine", "Scheduler.gone"), "1.0", "some_engine.Scheduler.gone is not there"),
        (Target("some_engine", "Nobody.schedule"), "1.0", "some_engine.Nobody.schedule is not there"),
        (
            Target("some_engine", "embed", takes=("inputs", "mask")),
            "1.0",
            "some_engine.embed does not take mask",
        ),
        (Target("some_engine", "embed", until="0.9"), "1.0", "no target in version 1.0"),
    ],
)
def test_hook_that_does_not_fit_is_named_with_its_reason(
    probe: Probe, engine: Any, target: Target, version: str, reason: str
) -> None:
    before = engine.embed
    probe.setter(version, other=hook(target)).set("other", probe.begin, probe.end)
    assert states(probe) == {"other": reason}
    assert engine.embed is before


def test_optional_hook_without_a_target_says_nothing(probe: Probe, engine: Any) -> None:
    setter = probe.setter("1.0", extra=hook(Target("some_engine", "embed", until="0.9"), optional=True))
    setter.set("extra", probe.begin, probe.end)
    assert setter.states == {}


def test_of_alternatives_the_one_that_is_there_is_taken(probe: Probe, engine: Any) -> None:
    alternatives = hook(Target("some_engine", "Scheduler.old"), Target("some_engine", "embed"))
    probe.setter("1.0", step=alternatives).set("step", probe.begin, probe.end)
    assert engine.embed(2) == 2
    assert (len(probe.seen), states(probe)) == (2, {"step": "set"})


def test_hook_waits_for_its_module_and_opens_no_ring_for_it(probe: Probe) -> None:
    opened: list[int] = []
    recorder = Recorder(lambda: opened.append(1) or probe.ring)
    setter = HookSetter(
        probe.patches, probe.watcher, recorder, "1.0", {"late": hook(Target("not_yet_imported", "f"))}
    )
    setter.set("late", probe.begin, probe.end)
    assert (setter.states, opened) == ({"late": "waiting"}, [])


@pytest.mark.parametrize(
    ("roles", "expected"),
    [
        ([], "all"), (["api"], "api"), (["engine"], "engine"), (["worker", "engine", "worker"], "engine"),
        (["api", "engine"], "all"), (["api", "engine", "worker"], "all"),
    ],
)  # fmt: skip
def test_process_is_named_by_all_that_it_does(roles: list[str], expected: str) -> None:
    ring = ListRing()
    recorder = Recorder(lambda: ring)
    for role in roles:
        recorder.identify(role, 3)
    recorder.set_info({})
    assert (recorder.role, ring.info.get(names.ROLE, "all")) == (expected, expected)


def test_children_belong_to_the_family_of_the_process_that_began_it() -> None:
    code = (
        "import os, subprocess, sys, vtprof_probe\n"
        "vtprof_probe.enable()\n"
        "print(os.getpid(), os.environ['VTPROF_FAMILY'], flush=True)\n"
        "again = 'import os, vtprof_probe; vtprof_probe.enable(); print(os.getpid(), os.environ[\"VTPROF_FAMILY\"])'\n"
        "subprocess.run([sys.executable, '-c', again], check=True)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    (parent, family), (child, inherited) = (line.split() for line in ran.stdout.splitlines())
    assert family.startswith(parent + "-")
    assert (inherited, child != parent) == (family, True)


def test_the_hooks_on_transformers_are_told_as_well(probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    class ImageFile: ...

    class ProcessorMixin:
        def __init__(self) -> None: ...

    class PreTrainedModel:
        def post_init(self) -> None: ...

        def get_compiled_call(self) -> None: ...

        def generate(self) -> None: ...

    def imported(name: str, *classes: type) -> None:
        module = types.ModuleType(name)
        vars(module).update({cls.__name__: cls for cls in classes})
        monkeypatch.setitem(sys.modules, name, module)

    for name in ("PIL.ImageFile", "transformers.processing_utils", "transformers.modeling_utils"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    imported("PIL.ImageFile", ImageFile)
    imported("transformers.modeling_utils", PreTrainedModel)
    probe.recorder.note_hook("vllm.schedule", "set")
    transformers_vlm.install(probe.patches, probe.watcher, probe.recorder, lambda: None)
    at_first = {
        "vllm.schedule": "set",
        "transformers.image_load": f"{ImageFile.__qualname__}.load cannot be wrapped",
        "transformers.processor": "waiting",
        "transformers.model": "set",
    }
    assert states(probe) == at_first, "no model, nothing of it to hook"

    class Vision(PreTrainedModel):
        config = types.SimpleNamespace()

        def get_image_features(self) -> None: ...

        def forward(self) -> None: ...

    Vision().post_init()
    on_the_model = ("encode_image", "generate", "forward")
    assert states(probe) == at_first | {f"transformers.{name}": "set" for name in on_the_model}
