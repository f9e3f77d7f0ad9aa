"""Stage `model_sizes`: what the model and device of each process are by config and data sheet, as far as facts need it."""

from collections.abc import Sequence
from typing import Any, Final

import duckdb

from vtprof_analyzer.cost.capacity import weights_bytes
from vtprof_analyzer.devices.catalogue import find_device
from vtprof_analyzer.devices.device import Device
from vtprof_analyzer.models.weights import Quantization
from vtprof_analyzer.step_cost import CostInputs

STAGE: Final = "89_model_sizes_filled.py"
"""Its place among the SQL stages."""

_FLOAT8: Final = "float8"
_BITS_OF_INTEGERS: Final = {8.0: "int8", 4.0: "int4"}
_NARROW: Final = ("float8", "int8", "float4")


def fill_table(
    connection: duckdb.DuckDBPyConnection, groups: Sequence[CostInputs], named: Device | None = None
) -> None:
    """Fill the table; ``groups`` are the processes whose model is known, as in `step_cost.fill_table`.

    ``named`` is the device that the user named; what it computes in counts where no device that was recorded is known.
    """
    recorded = connection.execute("SELECT resource_id, hw_name, weights_dtype FROM resources").fetchall()
    devices = [find_device(hw_name) if hw_name else None for _, hw_name, _ in recorded]
    assumed = None if any(devices) else named
    rows: list[list[Any]] = []
    for (resource_id, _, dtype), device in zip(recorded, devices, strict=True):
        inputs = next(
            (one for one in groups if one.resource_ids is None or resource_id in one.resource_ids), None
        )
        power_mw = device.power_mw if device else None
        computes = device or assumed
        ratios = [computes.peak_ratio(narrow) if computes else None for narrow in _NARROW]
        rows.append(
            [resource_id, *([None] * 5 if inputs is None else _sizes(inputs, dtype)), power_mw, *ratios]
        )
    if rows:
        # One statement: each of its own costs half a millisecond.
        columns = [
            "unnest(?::UBIGINT[])",
            "unnest(?::VARCHAR[])",
            *["unnest(?::DOUBLE[])"] * (5 + len(_NARROW)),
        ]
        connection.execute(
            f"INSERT INTO model_sizes SELECT {', '.join(columns)}", list(zip(*rows, strict=True))
        )


def _sizes(inputs: CostInputs, dtype: str | None) -> list[Any]:
    spec, precision = inputs.spec, inputs.precision
    # A copy of the encoder on every rank is no part of the model.
    encoders = spec.params.vision * precision.of_vision + spec.params.audio * precision.of_audio
    return [
        weight_dtype(spec.quantization) if spec.quantization else dtype or spec.dtype,
        weights_bytes(spec, precision),
        encoders,
        precision.weight_bytes,
        precision.kv_bytes,
    ]


def weight_dtype(quantised: Quantization) -> str | None:
    """Name the data type of quantised weights as engines do: fp8, fp4, int8, int4; None for other widths."""
    floats = _FLOAT8 in (quantised.compute_dtype or "") or "fp" in quantised.method.lower()
    if floats:
        return {8.0: "fp8", 4.0: "fp4"}.get(quantised.bits)
    return _BITS_OF_INTEGERS.get(quantised.bits)
