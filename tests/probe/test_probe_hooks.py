"""Wrapping and undoing, waiting for imports, GPU timing, trace contexts: the probe's machinery without an engine."""

import inspect
import sys
from pathlib import Path
from typing import Any

import pytest
from probe_doubles import ListRing

from vtprof_probe.clock import Spent
from vtprof_probe.engines import registry
from vtprof_probe.gpu_timer import GpuTimer
from vtprof_probe.hooks import patches as patches_module
from vtprof_probe.hooks.patches import Patches
from vtprof_probe.hooks.post_import import ImportWatcher
from vtprof_probe.recorder import Recorder
from vtprof_probe.request_context import parse_traceparent
from vtprof_schemas import records


class Host:
    """Somebody's class."""

    def __init__(self) -> None:
        self.calls = 0

    def work(self, left: int, *, right: int = 2) -> int:
        self.calls += 1
        if left < 0:
            raise ValueError("negative")
        return left + right


class Faults:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


def explode(*_arguments: Any) -> Any:
    raise RuntimeError("a bug of the probe")


@pytest.mark.parametrize(("begin", "end", "faults"), [(explode, explode, 1), (lambda *_: 1, explode, 1)])
def test_fault_of_a_hook_is_counted_and_the_host_goes_on(begin: Any, end: Any, faults: int) -> None:
    counted = Faults()
    patches, host = Patches(counted), Host()
    patches.wrap(Host, "work", begin, end)
    try:
        assert host.work(3, right=4) == 7
        assert (host.calls, counted.count) == (1, faults)
        with pytest.raises(ValueError, match="negative"):
            host.work(-1)
        assert host.calls == 2
    finally:
        patches.undo()


def test_time_of_both_hooks_is_summed_without_that_of_the_original(monkeypatch: pytest.MonkeyPatch) -> None:
    # begin 0..7, original 7..100, end 100..105; then a call that is not ours: begin 200..203.
    times = iter([0, 7, 100, 105, 200, 203])
    monkeypatch.setattr(patches_module, "monotonic_ns", lambda: next(times))
    tokens, spent = iter([1, None]), Spent()
    patches, host = Patches(Faults(), spent=spent), Host()
    patches.wrap(Host, "work", lambda *_: next(tokens), lambda *_: None)
    try:
        host.work(1)
        assert spent.ns == 7 + 5
        host.work(1)
        assert spent.ns == 7 + 5 + 3
    finally:
        patches.undo()


def test_time_of_the_hooks_reaches_the_ring_once() -> None:
    ring = ListRing()
    recorder = Recorder(lambda: ring)
    recorder.spent.ns = 40
    assert not recorder.poll_control(0)
    recorder.spent.ns += 2
    recorder.close()
    assert ring.probe_ns == 42


def test_wrapper_keeps_the_signature_and_undo_the_very_function() -> None:
    original, signature = vars(Host)["work"], inspect.signature(Host.work)
    patches = Patches(Faults())
    assert patches.wrap(Host, "work", lambda *_: None, explode)
    assert Host.work is not original
    assert inspect.signature(Host.work) == signature
    assert patches.undo() == 0
    assert vars(Host)["work"] is original


def test_undo_leaves_what_somebody_put_over_ours() -> None:
    original = vars(Host)["work"]
    patches = Patches(Faults())
    patches.wrap(Host, "work", lambda *_: None, explode)
    ours = vars(Host)["work"]
    theirs = lambda self, left: ours(self, left)  # noqa: E731
    Host.work = theirs  # type: ignore[assignment,method-assign]
    try:
        assert patches.undo() == 1
        assert vars(Host)["work"] is theirs
    finally:
        Host.work = original  # type: ignore[method-assign]


def test_missing_attribute_is_counted() -> None:
    patches = Patches(Faults())
    assert not patches.wrap(Host, "absent", explode, explode)
    assert patches.skipped == 1


def test_callback_runs_after_the_import_and_the_loader_is_the_real_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vtprof_late_module.py").write_text("value = 41\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    watcher, seen = ImportWatcher(Faults()), []
    watcher.when_imported("vtprof_late_module", lambda module: seen.append(module.value))
    try:
        import vtprof_late_module  # type: ignore[import-not-found]

        assert seen == [41]
        assert type(vtprof_late_module.__spec__.loader).__module__ != "vtprof_probe.hooks.post_import"
    finally:
        watcher.close()
        sys.modules.pop("vtprof_late_module", None)
    assert watcher not in sys.meta_path


def test_callback_for_an_imported_module_runs_at_once() -> None:
    seen: list[str] = []
    ImportWatcher(Faults()).when_imported("pathlib", lambda module: seen.append(module.__name__))
    assert seen == ["pathlib"]


class Event:
    """A CUDA event on a stream that a test moves on."""

    stream_ms = 0.0
    passed_ms = 0.0

    def record(self) -> None:
        self.at_ms = Event.stream_ms

    def query(self) -> bool:
        return self.at_ms <= Event.passed_ms

    def elapsed_time(self, end: "Event") -> float:
        return end.at_ms - self.at_ms


def test_gpu_time_is_read_only_when_the_stream_has_passed() -> None:
    emitted: list[tuple[int, int, int]] = []
    timer = GpuTimer(Event, lambda *values: emitted.append(values))
    Event.stream_ms, Event.passed_ms = 0.0, -1.0
    encode = timer.mark()
    Event.stream_ms = 2.0
    timer.add(encode, timer.mark(), encoder=True, nested=False)
    forward = timer.mark()
    Event.stream_ms = 5.0
    timer.add(forward, timer.mark(), encoder=False, nested=False)
    timer.close_step(7)
    timer.poll()
    assert emitted == []
    Event.passed_ms = 5.0
    timer.poll()
    assert emitted == [(7, 5_000_000, 2_000_000)]


def test_encoder_within_the_forward_pass_adds_nothing_to_the_step() -> None:
    emitted: list[tuple[int, int, int]] = []
    timer = GpuTimer(Event, lambda *values: emitted.append(values))
    Event.stream_ms = Event.passed_ms = 0.0
    forward, encode = timer.mark(), timer.mark()
    Event.stream_ms = Event.passed_ms = 2.0
    timer.add(encode, timer.mark(), encoder=True, nested=True)
    Event.stream_ms = Event.passed_ms = 5.0
    timer.add(forward, timer.mark(), encoder=False, nested=False)
    timer.close_step(1)
    timer.poll()
    assert emitted == [(1, 5_000_000, 2_000_000)]


def test_no_ring_before_the_first_record() -> None:
    opened: list[ListRing] = []

    def open_ring() -> ListRing:
        opened.append(ListRing())
        return opened[-1]

    recorder = Recorder(open_ring)
    recorder.fault()
    assert opened == []
    recorder.write(records.FIRST_TOKEN, 1, 2)
    assert opened[0].of("first_token") == [{"request": 1, "time_ns": 2}]
    assert opened[0].hook_errors == 1


@pytest.mark.parametrize(
    "header",
    [
        "", "00-short-00f067aa0ba902b7-01", "00-" + "0" * 32 + "-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01", "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
    ],
)  # fmt: skip
def test_invalid_traceparent_is_refused(header: str) -> None:
    assert parse_traceparent(header) is None


def test_bootstrap_waits_for_the_engines_of_the_registry() -> None:
    folder = Path(registry.__file__).parents[1] / "bootstrap" / "sitecustomize.py"
    scope: dict[str, Any] = {"__name__": "read", "__file__": str(folder)}
    exec(compile(folder.read_text(), str(folder), "exec"), scope)
    assert scope["TRIGGERS"] == {entry.trigger for entry in registry.ENGINES.values()}
