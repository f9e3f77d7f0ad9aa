"""Series of GPUs: base units, running totals that never jump, GPUs that vanish, and a limit to the labels."""

import logging
from collections import Counter

import pytest

from vtprof_agent.counters.rolling import CounterState
from vtprof_agent.metric_points import Point
from vtprof_agent.metrics import series
from vtprof_agent.metrics.gpus import HOLD_GAPS, HOLD_S, LEAST_HOLD_S, MOST_COUNTED, MOST_GPUS, OTHER
from vtprof_agent.metrics.metrics import Metrics
from vtprof_agent.resource import agent_resource
from vtprof_agent.samplers.sampler import Sample
from vtprof_schemas import names

NODE = agent_resource("agent-test")
RING = agent_resource("ring-test")


class Bench:
    """Metrics with a clock that the test sets."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.metrics = Metrics("1", steady_s=lambda: self.now_s)

    def sampled(self, *samples: Sample) -> None:
        self.metrics.gpu([Point(NODE, sample, 1) for sample in samples])

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)

    def gpus(self) -> Counter[str]:
        """Return by GPU label how many samples carry it."""
        return Counter(
            sample.labels["gpu"]
            for family in self.metrics.registry.collect()
            for sample in family.samples
            if "gpu" in sample.labels
        )


def power(gpu: str, milliwatts: float = 412_000, source: str = "nvml") -> Sample:
    return Sample(names.GPU_POWER_MW, milliwatts, hw_id=gpu, source=source)


def energy(gpu: str, millijoules: int, source: str = "nvml") -> Sample:
    return Sample(names.GPU_ENERGY_MJ, millijoules, True, hw_id=gpu, source=source)


def test_values_are_in_base_units_and_what_is_not_offered_is_absent() -> None:
    bench = Bench()
    clock = Sample(names.GPU_SM_CLOCK_MHZ, 1980, hw_id="GPU-1")
    bench.sampled(power("GPU-1"), clock, Sample(names.GPU_DRAM_BANDWIDTH_RATIO, 0.41, hw_id="GPU-1"))
    assert bench.value("vtprof_gpu_power_watts", gpu="GPU-1") == pytest.approx(412)
    assert bench.value("vtprof_gpu_sm_clock_hertz", gpu="GPU-1") == 1.98e9
    assert bench.value("vtprof_gpu_dram_bandwidth_ratio", gpu="GPU-1") == 0.41
    assert bench.value("vtprof_gpu_tensor_active_ratio", gpu="GPU-1") is None


def test_a_value_that_is_no_number_is_absent() -> None:
    bench = Bench()
    bench.sampled(power("GPU-1", float("nan")), power("GPU-2", float("inf")))
    assert not bench.gpus()


def test_a_gpu_that_serves_several_rings_is_counted_once() -> None:
    bench = Bench()
    for total in (1000, 3000):
        sample = energy("GPU-1", total)
        bench.metrics.gpu([Point(NODE, sample, 1), Point(RING, sample, 1)])
    assert bench.value(names.PROM_GPU_ENERGY, gpu="GPU-1") == 2


def test_of_two_sources_in_a_round_the_first_is_believed() -> None:
    bench = Bench()
    for nvml_mj, dcgm_mj in ((1000, 70_000), (3000, 71_000)):
        bench.sampled(
            energy("GPU-1", nvml_mj), energy("GPU-1", dcgm_mj, "dcgm"),
            power("GPU-1", 400_000), power("GPU-1", 300_000, "dcgm"),
        )  # fmt: skip
    assert bench.value(names.PROM_GPU_ENERGY, gpu="GPU-1") == 2
    assert bench.value("vtprof_gpu_power_watts", gpu="GPU-1") == 400


def test_energy_begins_with_the_agent_and_goes_on_when_driver_or_source_begin_anew() -> None:
    bench = Bench()
    for sample in (
        energy("GPU-1", 5_000), energy("GPU-1", 7_500),  # + 2.5 J
        energy("GPU-1", 100), energy("GPU-1", 600),  # the driver was loaded again: + 0.5 J
        energy("GPU-1", 90_000, "dcgm"), energy("GPU-1", 91_000, "dcgm"),  # another count: + 1 J
    ):  # fmt: skip
        bench.sampled(sample)
    assert bench.value(names.PROM_GPU_ENERGY, gpu="GPU-1") == pytest.approx(4.0)


def test_throttling_is_counted_in_seconds() -> None:
    bench = Bench()
    for total_ns in (4_000_000_000, 5_500_000_000):
        bench.sampled(Sample(names.GPU_THROTTLE_POWER_NS, total_ns, True, hw_id="GPU-1"))
    assert bench.value("vtprof_gpu_throttle_power_seconds_total", gpu="GPU-1") == 1.5


def test_a_gpu_that_is_gone_leaves_no_series_and_may_come_back() -> None:
    bench = Bench()
    totals = {("GPU-1", names.GPU_ENERGY_MJ, names.DECODE): 2000.0}
    bench.sampled(power("GPU-1"), energy("GPU-1", 10), power("GPU-2"))
    bench.metrics.attributed(totals, [_state("GPU-1")])
    assert set(bench.gpus()) == {"GPU-1", "GPU-2"}
    bench.now_s = HOLD_S - 1  # it may be of a source that reads every 30 s
    bench.sampled(power("GPU-2"))
    assert set(bench.gpus()) == {"GPU-1", "GPU-2"}
    bench.now_s = HOLD_S + 1
    bench.sampled(power("GPU-2"))
    bench.metrics.attributed(totals, [_state("GPU-1")])
    assert set(bench.gpus()) == {"GPU-2"}
    bench.sampled(power("GPU-1"))
    bench.metrics.attributed(totals, [_state("GPU-1")])
    assert set(bench.gpus()) == {"GPU-1", "GPU-2"}


@pytest.mark.parametrize("every_s", [1.0, 30.0])
def test_gauges_of_what_is_told_no_more_are_absent_soon_and_back_with_it(every_s: float) -> None:
    bench = Bench()
    joules = {("GPU-1", names.GPU_ENERGY_MJ, names.DECODE): 2000.0}

    def shown() -> tuple[float | None, ...]:
        fit = bench.value("vtprof_gpu_fit_condition_number", gpu="GPU-1", counter="energy")
        return bench.value("vtprof_gpu_power_watts", gpu="GPU-1"), fit

    def tell(watts: float) -> None:
        bench.sampled(power("GPU-1", watts * 1000), energy("GPU-1", 10), power("GPU-2"))
        bench.metrics.attributed(joules, [_state("GPU-1")])

    def silence(seconds: float) -> None:
        bench.now_s += seconds
        bench.sampled(power("GPU-2"))
        bench.metrics.attributed(joules, [_state("GPU-1")])

    tell(400)
    bench.now_s += every_s
    tell(410)
    hold_s = max(LEAST_HOLD_S, HOLD_GAPS * every_s)
    silence(hold_s - 0.5)
    assert shown() == (410, 12.5), "a page that is read seldom, or a reading that is late"
    silence(1.0)
    assert shown() == (None, None)
    if bench.now_s < HOLD_S:
        assert bench.value(names.PROM_GPU_ENERGY, gpu="GPU-1") == 0, "a total stands while it may go on"
    tell(420)
    assert shown() == (420, 12.5)
    bench.now_s += 1.0
    tell(430)
    silence(LEAST_HOLD_S + 1)
    assert shown() == (None, None), "how long it was away is not how often it is told"


def test_one_quantity_that_is_told_no_more_takes_no_other_with_it() -> None:
    bench = Bench()
    for bench.now_s in range(60):
        dram = Sample(names.GPU_DRAM_BANDWIDTH_RATIO, 0.41, hw_id="GPU-1", source="gpm")
        bench.sampled(power("GPU-1"), *([dram] if bench.now_s < 30 else []))
    assert bench.value("vtprof_gpu_dram_bandwidth_ratio", gpu="GPU-1") is None
    assert bench.value("vtprof_gpu_power_watts", gpu="GPU-1") == 412


def _state(gpu: str, quality: str = names.QUALITY_ATTRIBUTED, condition: float | None = 12.5) -> CounterState:
    return CounterState(gpu, names.GPU_ENERGY_MJ, quality, condition, 100, 3, True, 0.2, 0)


def test_attribution_is_shown_by_phase_with_the_rest_and_its_quality() -> None:
    bench = Bench()
    bench.metrics.attributed(
        {
            ("GPU-1", names.GPU_ENERGY_MJ, names.DECODE): 2000.0,
            ("GPU-1", names.GPU_ENERGY_MJ, names.UNATTRIBUTED): 500.0,
            ("GPU-1", names.GPU_DRAM_BANDWIDTH_RATIO, names.PREFILL): 3e9,
            ("GPU-1", names.GPU_ENERGY_MJ, "a phase that is none"): 1.0,
        },
        [_state("GPU-1"), _state("GPU-2", condition=None)],
    )
    joules = "vtprof_gpu_phase_energy_joules_total"
    assert bench.value(joules, gpu="GPU-1", phase="decode") == 2
    assert bench.value(joules, gpu="GPU-1", phase="unattributed") == 0.5
    assert bench.value(joules, gpu="GPU-1", phase="encode") is None
    assert bench.value("vtprof_gpu_phase_dram_bandwidth_seconds_total", gpu="GPU-1", phase="prefill") == 3
    labels = {"gpu": "GPU-1", "counter": "energy"}
    assert bench.value("vtprof_gpu_fit_condition_number", **labels) == 12.5
    assert bench.value("vtprof_gpu_fit_condition_number", gpu="GPU-2", counter="energy") is None
    assert bench.value("vtprof_gpu_fit_quality", **labels, quality="attributed") == 1
    assert bench.value("vtprof_gpu_fit_quality", **labels, quality="measured") == 0
    assert bench.value("vtprof_gpu_fit_cotenant_suspected", **labels) == 1
    assert bench.value("vtprof_gpu_fit_windows_refused_total", **labels) == 3


def test_thousands_of_gpus_make_no_more_series_than_the_limit(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    caplog.set_level(logging.WARNING)
    for total in (1000, 2000):
        bench.sampled(
            *(s for n in range(9000) for s in (power(f"GPU-{n}-{'é' * 90}"), energy(f"GPU-{n}-", total)))
        )
    totals = {(f"GPU-{n}", names.GPU_ENERGY_MJ, names.DECODE): 1000.0 for n in range(9000)}
    bench.metrics.attributed(totals, [_state(f"GPU-{n}") for n in range(9000)])
    bench.sampled()
    assert len(bench.gpus()) <= MOST_GPUS + 1
    assert sum(bench.gpus().values()) < 20 * (MOST_GPUS + 1)
    assert sum("more than 64 GPUs" in record.message for record in caplog.records) == 1
    assert 0 < (bench.value("vtprof_gpus_not_shown") or 0) <= MOST_COUNTED
    # 9,000 GPUs of 1 J each, none lost: what has no label of its own stands under the common one.
    shown = [
        bench.value("vtprof_gpu_phase_energy_joules_total", gpu=gpu, phase="decode") or 0
        for gpu in bench.gpus()
    ]
    assert sum(shown) == 9000 and OTHER in bench.gpus()


def test_a_gpu_that_is_named_other_has_a_label_of_its_own() -> None:
    bench = Bench()
    bench.sampled(power("other"))
    assert bench.value("vtprof_gpu_power_watts", gpu="=other") == pytest.approx(412)


def test_a_label_is_free_again_when_its_gpu_is_gone() -> None:
    bench = Bench()
    bench.sampled(*(power(f"MIG-old-{n}") for n in range(MOST_GPUS)), power("MIG-late"))
    assert "MIG-late" not in bench.gpus() and bench.value("vtprof_gpus_not_shown") == 1
    bench.now_s = HOLD_S + 1
    bench.sampled(power("MIG-late"))
    bench.sampled(power("MIG-late"))
    assert set(bench.gpus()) == {"MIG-late"} and bench.value("vtprof_gpus_not_shown") == 0


def test_no_share_of_time_is_called_a_bandwidth() -> None:
    busy = series.GPU_GAUGES[names.GPU_BUSY_RATIO][0]
    assert "bandwidth" not in busy.name and "time" in busy.meaning
    assert names.GPU_MEMORY_BUSY_RATIO not in series.GPU_GAUGES
