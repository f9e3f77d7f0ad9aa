"""Measured time of a step, divided among its parts (C10): an attribution, and the report says so."""

from dataclasses import dataclass

import numpy as np

from vtprof_analyzer.cost.parts import PartCost, StepCosts
from vtprof_analyzer.cost.work import Floats
from vtprof_analyzer.devices.roofs import Roof


@dataclass(frozen=True)
class PartSeconds:
    """Seconds of each step that belong to each part; they add up to the step's."""

    encode: Floats
    prefill: Floats
    decode: Floats


def split_seconds(
    costs: StepCosts, roof: Roof | None, step_seconds: Floats, encode_seconds: Floats | None = None
) -> PartSeconds:
    """Divide the time of each step among its parts.

    The encoder's own time is used where it was recorded (NaN: not recorded), at most the step's; the rest goes by the
    parts' floors, or by their bytes and FLOPs alone when no roof is known (bytes weigh like FLOPs at a ridge of
    `NOMINAL_RIDGE`). A step without any work is nobody's: its parts are 0.
    """
    encode, prefill, decode = (_weight(part, roof) for part in (costs.encode, costs.prefill, costs.decode))
    total = encode + prefill + decode
    encode_part = step_seconds * np.divide(encode, total, out=np.zeros_like(total), where=total > 0)
    if encode_seconds is not None:
        # Of an encoder whose cost is not known, too: its time is nobody else's.
        known = np.isfinite(encode_seconds) & (total > 0)
        encode_part = np.where(known, np.clip(encode_seconds, 0.0, step_seconds), encode_part)
    rest = step_seconds - encode_part
    language = prefill + decode
    # A step that only encodes is all the encoder's, whatever its own clock said.
    encode_part = np.where((language <= 0) & (encode > 0), step_seconds, encode_part)
    prefill_part = rest * np.divide(prefill, language, out=np.zeros_like(total), where=language > 0)
    decode_part = rest * np.divide(decode, language, out=np.zeros_like(total), where=language > 0)
    return PartSeconds(encode_part, prefill_part, decode_part)


NOMINAL_RIDGE = 200.0
"""FLOP/B that weigh bytes against FLOPs without a roof: between A100 (153) and H100 (295), dense 16 bit."""


def _weight(part: PartCost, roof: Roof | None) -> Floats:
    if roof is not None:
        return part.floor_seconds(roof)
    weight: Floats = np.maximum(part.flops, part.bytes * NOMINAL_RIDGE)
    return weight
