"""What counts as attainable, on a clock that the test's work moves, and what torch is asked to do on a GPU."""

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import chain, repeat
from types import SimpleNamespace
from typing import Any

import pytest

from vtprof_analyzer.calibrate.machine import Machine, check_device, open_machine
from vtprof_analyzer.calibrate.measure import check_dtypes, measure
from vtprof_analyzer.calibrate.rates import Best, Burst, best_rate
from vtprof_schemas.errors import BackendError, ConfigError


class Bench:
    """A clock that bursts move by the times they are told to take."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ran: list[int] = []

    def clock(self) -> float:
        return self.now

    def burst(self, size: int, amount: float, times: Iterator[float]) -> Burst:
        def work() -> None:
            self.ran.append(size)
            self.now += next(times)

        return Burst(amount, work, size)


def test_one_quiet_moment_among_busy_ones_says_what_is_attainable() -> None:
    bench = Bench()
    busy = chain([0.25, 0.25, 0.25, 0.0625], repeat(0.25))
    assert best_rate([bench.burst(512, 8.0, busy)], 1.0, bench.clock) == Best(8.0 / 0.0625, (512,))


def test_the_first_run_warms_up_and_is_not_counted() -> None:
    bench = Bench()
    # Were it counted, this first run would be the best one.
    times = chain([0.0078125], repeat(0.5))
    assert best_rate([bench.burst(1, 1.0, times)], 1.0, bench.clock).rate == 2.0


def test_sizes_share_the_time_alike_and_the_best_size_counts() -> None:
    bench = Bench()
    small, large = bench.burst(512, 1.0, repeat(0.125)), bench.burst(1024, 8.0, repeat(0.5))
    assert best_rate([small, large], 4.0, bench.clock) == Best(16.0, (512, 1024))
    assert bench.ran.count(512) >= 3 * (bench.ran.count(1024) - 2)


def test_larger_sizes_than_the_time_allows_are_not_even_made() -> None:
    bench = Bench()

    def bursts() -> Iterator[Burst]:
        yield bench.burst(512, 6.0, repeat(0.5))
        yield bench.burst(1024, 48.0, repeat(3.0))
        raise AssertionError("made")

    assert best_rate(bursts(), 1.5, bench.clock) == Best(16.0, (512, 1024))
    assert bench.ran == [512, 512, 1024, 1024]


def test_a_clock_too_coarse_for_a_burst_divides_nothing_by_zero() -> None:
    ticks = iter(range(10**6))
    coarse = Burst(1.0, lambda: None, 1)
    assert best_rate([coarse], 1e-12, lambda: next(ticks) // 10).rate == pytest.approx(1e9)
    with pytest.raises(ValueError, match="no burst"):
        best_rate([], 1.0, lambda: 0.0)


class FakeGpu:
    """As much of torch as a GPU's measurement touches; counts what it was asked for and moves a clock by it."""

    __version__ = "2.99.0"
    float32, float16, uint8 = "float32", "float16", "uint8"
    bfloat16 = "bfloat16"

    def __init__(self, refused: str = "") -> None:
        self.now, self.products, self.copies, self.synchronized, self.refused = 0.0, 0, 0, 0, refused
        self.cuda = SimpleNamespace(synchronize=self._synchronize)

    def clock(self) -> float:
        self.now += 1e-6
        return self.now

    def _synchronize(self, device: Any) -> None:
        self.synchronized += 1
        # 1e-3 s a product and 1e-2 s a copy: known only at the end, as on a GPU.
        self.now += 1e-3 * self.products + 1e-2 * self.copies
        self.products = self.copies = 0

    def randn(self, *shape: int, device: Any, dtype: str) -> Any:
        return SimpleNamespace(to=lambda kind: self._array(kind))

    def _array(self, kind: str) -> Any:
        if kind == self.refused:
            raise RuntimeError(f"no kernel for {kind}\nand a stack")
        return SimpleNamespace(kind=kind, copy_=self._copy)

    def _copy(self, source: Any) -> None:
        self.copies += 1

    def ones(self, length: int, device: Any, dtype: str) -> Any:
        return self._array("uint8")

    def zeros_like(self, array: Any) -> Any:
        return self._array("uint8")

    def empty_like(self, array: Any) -> Any:
        return array

    def mm(self, left: Any, right: Any, out: Any) -> None:
        self.products += 1

    def inference_mode(self) -> Any:
        from contextlib import nullcontext

        return nullcontext()


def gpu(torch: FakeGpu) -> Machine:
    return Machine(torch, "cuda:0", "gpu", "NVIDIA H200", None)


def test_a_gpu_is_waited_for_and_all_its_work_is_counted() -> None:
    torch = FakeGpu()
    entries, notes = measure(
        gpu(torch),
        ["bfloat16"],
        1.0,
        lambda _done, _total: None,
        torch.clock,
        lambda: datetime(2026, 1, 2, tzinfo=UTC),
    )
    (entry,), rate = entries, 2 * 8192**3 / 1e-3
    assert notes == []
    assert entry.peak_flops_per_s == pytest.approx(rate, rel=0.01)
    # 1 GiB read and written in 10 ms.
    assert entry.bandwidth_bytes_per_s == pytest.approx(2 * 2**30 / 1e-2, rel=0.01)
    assert (entry.device, entry.kind, entry.dtype, entry.cores) == ("NVIDIA H200", "gpu", "bfloat16", None)
    assert (entry.measured_at, entry.torch_version) == ("2026-01-02T00:00:00Z", "2.99.0")
    assert torch.products == 0
    assert torch.synchronized >= 4


def test_small_products_are_repeated_so_that_launches_do_not_count() -> None:
    torch = FakeGpu()
    bursts = list(gpu(torch).gemms("bfloat16"))
    assert [burst.size for burst in bursts] == [2048, 4096, 8192]
    for burst in bursts:
        assert burst.amount >= 2e12
        assert burst.amount % (2 * burst.size**3) == 0
        burst.work()
    assert torch.synchronized == 3


def test_a_data_type_that_the_device_lacks_is_a_note_unless_it_was_asked_for() -> None:
    torch = FakeGpu(refused="bfloat16")
    entries, notes = measure(gpu(torch), [], 0.01, lambda _done, _total: None, torch.clock)
    assert [entry.dtype for entry in entries] == ["float32", "float16"]
    assert notes == ["NVIDIA H200: bfloat16 cannot be measured (no kernel for bfloat16)"]
    with pytest.raises(BackendError, match="bfloat16 cannot be measured"):
        measure(gpu(torch), ["bfloat16"], 0.01, lambda _done, _total: None, torch.clock)
    with pytest.raises(BackendError, match="the copy failed"):
        measure(gpu(FakeGpu(refused="uint8")), [], 0.01, lambda _done, _total: None, lambda: 0.0)


def test_progress_counts_the_copy_and_each_data_type() -> None:
    torch, seen = FakeGpu(), []
    measure(
        gpu(torch),
        ["float32", "float16"],
        0.01,
        lambda done, total: seen.append((done, total)),
        torch.clock,
    )
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_names_of_data_types_and_devices_are_checked() -> None:
    assert check_dtypes(["bf16", "torch.float32", "bfloat16"]) == ["bfloat16", "float32"]
    assert check_dtypes(None) == []
    for bad in ("int4", "fp8", "", "double", "x" * 1000):
        with pytest.raises(ConfigError, match="choose from float32, bfloat16, float16"):
            check_dtypes([bad])
    for good in (None, "cpu", "cuda", "cuda:3"):
        assert check_device(good) == good
    for bad in ("tpu", "cuda:", "cuda:x", "cuda:-1", "CPU", "cpu\n", "cuda:9999"):
        with pytest.raises(ConfigError, match="choose cpu, cuda or cuda:N"):
            check_device(bad)


def test_a_gpu_of_torch_is_found_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = SimpleNamespace(
        is_available=lambda: True,
        device_count=lambda: 2,
        current_device=lambda: 1,
        get_device_name=lambda i: f"GPU {i}",
    )
    fake = SimpleNamespace(
        __version__="2.99.0", cuda=cuda, device=lambda *parts: parts, get_num_threads=lambda: 1
    )
    monkeypatch.setitem(__import__("sys").modules, "torch", fake)
    assert (open_machine().name, open_machine("cuda:0").name, open_machine("cpu").kind) == (
        "GPU 1",
        "GPU 0",
        "cpu",
    )
    with pytest.raises(ConfigError, match=r"sees 2 GPU\(s\), the last is cuda:1"):
        open_machine("cuda:2")
    cuda.is_available = lambda: False
    assert open_machine().kind == "cpu"
    with pytest.raises(ConfigError, match="sees no GPU here; use --device cpu"):
        open_machine("cuda")


def test_without_torch_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(BackendError, match="pip install torch"):
        open_machine("cpu")
