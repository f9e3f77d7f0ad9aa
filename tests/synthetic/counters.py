"""GPU counters of a day: means over the steps of phases, and the samples that an agent takes of them."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from synthetic.kernels import DECODE, ENCODE, PREFILL, Part
from synthetic.life import Iteration, Life
from synthetic.models import Device
from synthetic.scenarios import BASE_NS, EngineSetup
from vtprof_schemas import names

_IDLE_W, _J_PER_BYTE, _J_PER_FLOP = 120.0, 55e-12, 0.35e-12
_BUSY_SM = 0.95
_INTERVAL_NS = 100_000_000
RATIOS = (names.GPU_DRAM_BANDWIDTH_RATIO, names.GPU_TENSOR_ACTIVE_RATIO, names.GPU_SM_ACTIVE_RATIO)


def amounts(device: Device, part: Part, wall_s: float) -> tuple[float, float, float, float]:
    """Return what a stretch adds to the integrals of the three ratios [s], and its energy [J]."""
    joules = _IDLE_W * wall_s + part.bytes * _J_PER_BYTE + part.flops * _J_PER_FLOP
    busy_s = _BUSY_SM * (part.seconds - part.overhead_s)
    return part.bytes / device.bytes_per_s, part.flops / device.flops_per_s, busy_s, joules


class Integrals:
    """Running integrals of the ratios [s] and of energy [J] over an engine's day."""

    def __init__(self, setup: EngineSetup, iterations: Sequence[Iteration]) -> None:
        """Sum up: in each iteration the encoder, then the rest; between two of them the device idles."""
        times, steps = [0], [(0.0, 0.0, 0.0, 0.0)]
        # Of each stretch between two times: whether the encoder ran, or the rest of a step.
        encoding, beside = [False], [False]
        for it in iterations:
            gap_s = (it.start_ns - times[-1]) / 1e9
            language = Part()
            language.add(it.time.parts[PREFILL])
            language.add(it.time.parts[DECODE])
            rest_s = (it.end_ns - it.start_ns - it.encode_ns) / 1e9
            times += [it.start_ns, it.start_ns + it.encode_ns, it.end_ns]
            steps += [
                (0.0, 0.0, 0.0, gap_s * _IDLE_W),
                amounts(setup.device, it.time.parts[ENCODE], it.encode_ns / 1e9),
                amounts(setup.device, language, rest_s),
            ]
            encoding += [False, True, False]
            beside += [False, False, True]
        self._setup = setup
        self._times = np.array(times, float)
        self._totals = np.cumsum(np.array(steps), axis=0)
        amounts_s = np.column_stack([np.array(steps)[:, :3], np.diff(self._times, prepend=0.0) / 1e9])
        self._encoder, self._rest = (
            np.cumsum(amounts_s * np.array(own)[:, None], axis=0) for own in (encoding, beside)
        )

    def at(self, moments_ns: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the four integrals up to each moment, a row each."""
        return self._up_to(moments_ns, self._totals)

    def _up_to(self, moments_ns: NDArray[np.float64], totals: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.stack([np.interp(moments_ns, self._times, column) for column in totals.T], axis=1)

    def note(self, lives: Sequence[Life]) -> None:
        """Write the means of the ratios on every stretch of work of these requests, as an agent attributes them.

        Encode has the mean over the encoder's part of its steps, prefill and decode that over the rest of theirs, whoever
        else was in it; what lies between two steps is nobody's.
        """
        for phases, totals in (({"encode"}, self._encoder), ({"prefill", "decode"}, self._rest)):
            pieces = [piece for life in lives for piece in life.pieces if piece.phase in phases]
            begins = np.array([piece.start_ns for piece in pieces], float)
            ends = np.array([piece.end_ns for piece in pieces], float)
            differences = self._up_to(ends, totals) - self._up_to(begins, totals)
            for piece, (dram, tensor, sm, seconds) in zip(pieces, differences.tolist(), strict=True):
                if seconds > 0:
                    piece.ratios = (dram / seconds, tensor / seconds, sm / seconds)

    def samples(self) -> Iterator[tuple[str, bool, str, list[tuple[int, float]]]]:
        """Yield name, whether it is a running total, unit, and the readings at their Unix times by the host's clock."""
        moments = np.arange(0.0, self._times[-1] + _INTERVAL_NS, _INTERVAL_NS)
        totals = self.at(moments)
        stamps = (moments[1:].astype(np.int64) + BASE_NS + self._setup.clock_offset_ns).tolist()
        for place, name in enumerate(RATIOS):
            means = np.diff(totals[:, place]) / (_INTERVAL_NS / 1e9)
            yield name, False, "1", list(zip(stamps, means.tolist(), strict=True))
            whole = np.round(totals[1:, place] * 1e9)
            yield names.GPU_INTEGRALS[name], True, "ns", list(zip(stamps, whole.tolist(), strict=True))
        millijoules = totals[1:, 3] * 1e3
        yield names.GPU_ENERGY_MJ, True, "mJ", list(zip(stamps, millijoules.tolist(), strict=True))
        watts = np.diff(totals[:, 3]) / (_INTERVAL_NS / 1e9)
        yield names.GPU_POWER_MW, False, "mW", list(zip(stamps, np.round(watts * 1e3).tolist(), strict=True))


def metric(
    name: str, is_total: bool, unit: str, readings: Sequence[tuple[int, float]], hw_id: str
) -> dict[str, object]:
    """Return a metric as OTLP JSON."""
    whole = names.ATTRIBUTES[name].type == names.INT
    about = [
        {"key": names.HW_ID, "value": {"stringValue": hw_id}},
        {"key": names.GPU_SOURCE, "value": {"stringValue": "gpm"}},
        {"key": names.GPU_INTERVAL_NS, "value": {"intValue": str(_INTERVAL_NS)}},
    ]
    points = [
        {
            "attributes": about,
            "timeUnixNano": str(stamp),
            **({"asInt": str(int(value))} if whole else {"asDouble": value}),
        }
        for stamp, value in readings
    ]
    if not is_total:
        return {"name": name, "unit": unit, "gauge": {"dataPoints": points}}
    for point in points:
        point["startTimeUnixNano"] = str(BASE_NS)
    return {
        "name": name,
        "unit": unit,
        "sum": {"dataPoints": points, "aggregationTemporality": 2, "isMonotonic": True},
    }
