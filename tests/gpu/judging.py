"""Judges what was seen of a GPU's counters against what the agent assumes of them."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

from counter_series import Reading, changes, find_lag, gaps_ms
from findings import DIFFERS, HOLDS, NOT_OFFERED, NOT_SHOWN, Figure, Finding, figure
from loads import COPY, GEMM, TRICKLE, UPLOAD
from observed import METRICS_GET, PCIE_GET, REASONS, SAMPLE_GET, WAVE, Observed, Watched

from vtprof_agent.samplers.gpm import GpmSampler
from vtprof_agent.samplers.nvml import ENERGY_LAG_NS
from vtprof_agent.samplers.pcie import INTERVAL_NS
from vtprof_analyzer.devices.device import scaled
from vtprof_schemas import names


def judge_all(seen: Observed) -> list[Finding]:
    """Return a finding for all that could be looked at; what needs a load that did not run is left out."""
    checks: tuple[tuple[str, Callable[[Observed, Watched], Finding]], ...] = (
        ("", _cost), ("", _windows), ("", _gpm_refresh), (WAVE, _gpm_lag), (COPY, _dram), (TRICKLE, _memory_busy),
        (GEMM, _tensor), ("", _energy_step), (WAVE, _energy_lag), (GEMM, _energy_unit), ("", _idle),
        (GEMM, _throttle), (UPLOAD, _pcie_gpm), (UPLOAD, _pcie_nvml), ("", _other_user),
    )  # fmt: skip
    found = [check(seen, seen.watched[load]) for load, check in checks if load in seen.watched]
    if not seen.refusal:
        return found
    note = f"{SAMPLE_GET}: {seen.refusal}"
    return [
        replace(one, note=note) if one.verdict == NOT_OFFERED and "gpm.py" in one.where else one
        for one in found
    ]


def _ok(good: bool) -> str:
    return HOLDS if good else DIFFERS


def _cost(seen: Observed, rest: Watched) -> Finding:
    what = (
        "cost of a GPM sample",
        "the call takes 2 ms at most, so its middle is known to 1 ms",
        "gpm.py: LEAST_WINDOW_NS",
    )
    if not rest.windows(names.GPU_SM_ACTIVE_RATIO):
        return Finding(*what, NOT_OFFERED)
    figures = [
        figure(name, "ms", seen.calls_ms[name]) for name in (SAMPLE_GET, METRICS_GET) if name in seen.calls_ms
    ]
    cpu = figure("CPU of reading a GPU, GPM and NVML", "ms", seen.reading_cpu_ms)
    return Finding(*what, _ok(figures[0].p95 <= 2.0), (*figures, cpu))


def _windows(seen: Observed, rest: Watched) -> Finding:
    what = "GPM windows", "each reading after 100 ms closes one", "gpm.py: GpmSampler.period_s"
    windows = rest.windows(names.GPU_SM_ACTIVE_RATIO)
    if not windows:
        return Finding(*what, NOT_OFFERED)
    lengths = figure("length", "ms", [(end - begin) / 1e6 for begin, end, _ in windows])
    return Finding(
        *what, _ok(len(windows) >= 0.95 * rest.readings), (lengths,), f"of {rest.readings} readings"
    )


def _gpm_refresh(seen: Observed, rest: Watched) -> Finding:
    every_ms = GpmSampler.period_s * 1e3
    what = "GPM refresh", f"every {every_ms:.0f} ms or so", "gpm.py: period_s, LEAST_WINDOW_NS"
    return _refresh(what, seen.gpm_looks, every_ms)


def _energy_step(seen: Observed, rest: Watched) -> Finding:
    every_ms = 2 * ENERGY_LAG_NS / 1e6
    what = "energy step", f"renewed every {every_ms:.0f} ms or so", "nvml.py: ENERGY_LAG_NS"
    found = _refresh(what, seen.energy_looks, every_ms)
    steps = [step for _, step in changes(seen.energy_looks)]
    return replace(found, measured=(*found.measured, figure("by", "mJ", steps))) if steps else found


def _refresh(what: tuple[str, str, str], looks: Sequence[Reading], assumed_ms: float) -> Finding:
    """Judge how often a counter is renewed: within a fifth of what is assumed, or not."""
    if len(looks) < 2:
        return Finding(*what, NOT_OFFERED)
    note = f"looked every {statistics.median((b[0] - a[0]) / 1e6 for a, b in pairwise(looks)):.3g} ms"
    gaps = gaps_ms(looks)
    if not gaps:
        return Finding(*what, NOT_SHOWN, (), f"{note}; it did not change")
    found = figure("every", "ms", gaps)
    return Finding(*what, _ok(abs(found.median / assumed_ms - 1) <= 0.2), (found,), note)


def _gpm_lag(seen: Observed, wave: Watched) -> Finding:
    return _lag(
        wave, names.GPU_SM_ACTIVE_RATIO, "GPM latch", "a window's edges are the calls of SampleGet, to 20 ms",
        "gpm.py: _take; sampler.py: exact_edges",
    )  # fmt: skip


def _energy_lag(seen: Observed, wave: Watched) -> Finding:
    assumed = f"what is read is {ENERGY_LAG_NS / 1e6:.0f} ms old, to 20 ms (the lag is beyond that)"
    return _lag(wave, names.GPU_ENERGY_MJ, "energy latch", assumed, "nvml.py: ENERGY_LAG_NS")


def _lag(wave: Watched, key: str, *what: str) -> Finding:
    name, assumed, where = what
    windows = wave.windows(key)
    if not windows:
        return Finding(name, assumed, where, NOT_OFFERED)
    found = find_lag(windows, wave.work)
    if found is None or found[1] < 0.5:
        return Finding(name, assumed, where, NOT_SHOWN, (), "the load does not show in the values")
    lag_ms, explained = found
    note = f"explains {explained:.1%} of the variance of {len(windows)} windows; the agent looks for up to 200 ms (lag.py)"
    return Finding(name, assumed, where, _ok(abs(lag_ms) <= 20), (figure("lag", "ms", [lag_ms]),), note)


def _known(
    what: tuple[str, str, str], values: Sequence[float], unit: str, known: float | None, *within: float,
    more: Sequence[Figure] = (), scale: float = 1.0, note: str = "",
) -> Finding:  # fmt: skip
    """Judge values against what is known to have run: their ratio must be within two bounds."""
    if not values:
        return Finding(*what, NOT_OFFERED, tuple(more))
    told = figure("told", unit, [value * scale for value in values])
    if not known:
        return Finding(*what, NOT_SHOWN, (told, *more), note or "what to expect is not known")
    low, high = within
    known *= scale
    figures = (told, figure("known", unit, [known]), *more)
    return Finding(*what, _ok(low <= told.median / known <= high), figures, note)


def _dram(seen: Observed, copy: Watched) -> Finding:
    what = (
        "DRAM ratio, a copy",
        "bytes read and written over the peak, to 10 %",
        "gpm.py: METRICS; devices.csv",
    )
    mhz = copy.values(names.GPU_MEMORY_CLOCK_MHZ)
    now = seen.device and scaled(
        seen.device,
        memory_clock_mhz=statistics.median(mhz) if mhz else None,
        peak_memory_clock_mhz=seen.most_memory_mhz,
    )
    peak = now and now.bandwidth_bytes_per_s
    busy = copy.values(names.GPU_MEMORY_BUSY_RATIO)
    return _known(
        what, copy.values(names.GPU_DRAM_BANDWIDTH_RATIO), "", copy.rate() / peak if peak else None, 0.9, 1.1,
        more=[figure("NVML's memory utilization", "", busy)] if busy else [],
        note=f"peak {peak / 1e9:.0f} GB/s" if peak else "no such GPU in devices.csv",
    )  # fmt: skip


def _memory_busy(seen: Observed, trickle: Watched) -> Finding:
    what = (
        "NVML's memory utilization", "a share of time, no bandwidth: small copies differ by over 0.1",
        "nvml.py: _utilization; gpm.py: METRICS",
    )  # fmt: skip
    dram, busy = trickle.values(names.GPU_DRAM_BANDWIDTH_RATIO), trickle.values(names.GPU_MEMORY_BUSY_RATIO)
    if not dram or not busy:
        return Finding(*what, NOT_OFFERED)
    figures = figure("NVML's", "", busy), figure("GPM's DRAM ratio", "", dram)
    return Finding(*what, _ok(figures[0].median - figures[1].median > 0.1), figures)


def _tensor(seen: Observed, gemm: Watched) -> Finding:
    what = (
        "tensor ratio, a bf16 product",
        "its FLOP/s over the peak at this clock, to 10 %",
        "gpm.py: METRICS; devices.csv",
    )
    told, mhz = gemm.values(names.GPU_TENSOR_ACTIVE_RATIO), gemm.values(names.GPU_SM_CLOCK_MHZ)
    peak = seen.device.peak_flops_per_s.get("bfloat16") if seen.device else None
    more = [figure("SM clock", "MHz", mhz)] if mhz else []
    if seen.device is None or not peak:
        return _known(what, told, "", None, more=more, note="no such GPU in devices.csv")
    if mhz and seen.bf16_per_cycle:
        at_peak_mhz = peak / seen.bf16_per_cycle / 1e6
        now = scaled(seen.device, sm_clock_mhz=statistics.median(mhz), peak_clock_mhz=at_peak_mhz)
        peak = now.peak_flops_per_s["bfloat16"]
    return _known(
        what, told, "", gemm.rate() / peak, 0.9, 1.1, more=more, note=f"peak {peak / 1e12:.0f} TFLOP/s"
    )


def _watts(watched: Watched) -> list[float]:
    """Return the power that the energy counter tells, W."""
    windows = watched.windows(names.GPU_ENERGY_MJ)
    if not windows:
        return []
    mj = sum((end - begin) * rate for begin, end, rate in windows)
    return [mj / ((windows[-1][1] - windows[0][0]) / 1e9) / 1e3]


def _mean_watts(watched: Watched) -> float | None:
    power = watched.values(names.GPU_POWER_MW)
    return statistics.fmean(power) / 1e3 if power else None


def _energy_unit(seen: Observed, gemm: Watched) -> Finding:
    what = "energy under load", "mJ: as power over time tells, to 10 %", "nvml.py: _energy, FIELDS"
    return _known(what, _watts(gemm), "W", _mean_watts(gemm), 0.9, 1.1)


def _idle(seen: Observed, rest: Watched) -> Finding:
    what = "power at rest", "constant to 10 %, and energy tells the same", "counters/idle_power.py: IdleBound"
    power = [value / 1e3 for value in rest.values(names.GPU_POWER_MW)]
    more = [figure("power", "W", power)] if power else []
    found = _known(what, _watts(rest), "W", _mean_watts(rest), 0.9, 1.1, more=more)
    steady = not more or more[0].p95 <= 1.1 * more[0].median
    return found if steady else replace(found, verdict=DIFFERS)


def _throttle(seen: Observed, gemm: Watched) -> Finding:
    what = (
        "throttle counters",
        "ns, as often as the reason is told, to 0.15",
        "nvml.py: FIELDS; 76 is not read",
    )
    if not gemm.lowered:
        return Finding(*what, NOT_OFFERED)
    figures, verdicts = [], []
    for number, advance_ns in gemm.lowered.items():
        counted = advance_ns / (gemm.end_ns - gemm.begin_ns)
        figures.append(figure(f"field {number}", "s/s", [counted]))
        if gemm.reasons:
            told = statistics.fmean(bool(bits & REASONS[number]) for bits in gemm.reasons)
            figures.append(figure(f"reason {REASONS[number]:#x}", "of time", [told]))
            if max(told, counted) > 0.3:
                verdicts.append(abs(told - counted) <= 0.15)
    missing = [f"field {number} is not offered" for number in REASONS if number not in gemm.lowered]
    if not verdicts:
        missing.append("no clock was lowered for long, or why was not told")
    return Finding(*what, _ok(all(verdicts)) if verdicts else NOT_SHOWN, figures, "; ".join(missing))


def _pcie_gpm(seen: Observed, upload: Watched) -> Finding:
    what = "PCIe to the GPU, GPM", "RX, MiB/s: payload and up to 30 % more", "gpm.py: METRICS"
    values = upload.values(names.GPU_PCIE_RX_BYTES_PER_S, "gpm")
    return _known(what, values, "MiB/s", upload.rate(), 0.95, 1.3, scale=1 / (1 << 20))


def _pcie_nvml(seen: Observed, upload: Watched) -> Finding:
    blocks_ms = INTERVAL_NS / 1e6
    what = (
        "PCIe to the GPU, NVML",
        f"RX, KB/s: payload and up to 30 % more; blocks {blocks_ms:.0f} ms",
        "pcie.py: INTERVAL_NS",
    )
    calls = seen.calls_ms.get(PCIE_GET, ())
    more = [figure("a call", "ms", calls)] if calls else []
    values = upload.values(names.GPU_PCIE_RX_BYTES_PER_S, "nvml")
    found = _known(what, values, "MiB/s", upload.rate(), 0.95, 1.3, scale=1 / (1 << 20), more=more)
    if found.verdict != HOLDS or not more or abs(more[0].median / blocks_ms - 1) <= 0.5:
        return found
    return replace(found, verdict=DIFFERS)


def _other_user(seen: Observed, rest: Watched) -> Finding:
    what = "without root", "GPM and energy are read without any capability", "nvml_session.py: _MEANINGS"
    keys = {"GPM": names.GPU_DRAM_BANDWIDTH_RATIO, "energy": names.GPU_ENERGY_MJ}
    offered = {name: key for name, key in keys.items() if rest.values(key)}
    if not offered:
        return Finding(*what, NOT_OFFERED)
    note = ", ".join(f"{name}: {seen.other_user.get(key, 0)} values" for name, key in offered.items())
    return Finding(*what, _ok(all(seen.other_user.get(key) for key in offered.values())), (), note)
