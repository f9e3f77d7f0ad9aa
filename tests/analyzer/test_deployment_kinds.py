"""What ran on what: models and devices of several kinds are counted, each by what processes recorded of themselves."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from otlp_builder import document, request, write

from vtprof_analyzer.analyze import Options, analyze
from vtprof_analyzer.report import phrases
from vtprof_analyzer.report.model import Deployment, DeviceKind, Roof
from vtprof_schemas import names

A100, H200 = "NVIDIA A100-SXM4-80GB", "NVIDIA H200"


def engine(
    trace: int, model: str, hw_name: str | None, hw_id: str | None, requests: int = 1
) -> dict[str, Any]:
    """A process that served so many requests of a model on these devices."""
    about = {names.SERVICE_INSTANCE_ID: f"i{trace}", names.HW_NAME: hw_name, names.HW_ID: hw_id}
    spans = [
        one
        for number in range(requests)
        for one in request(0, 10, {names.REQUEST_MODEL: model}, trace=100 * trace + number)
    ]
    return document(*spans, resource={key: value for key, value in about.items() if value is not None})


def ran(folder: Path, *engines: dict[str, Any]) -> Deployment:
    return analyze(Options([write(folder / "t.jsonl", *engines)])).deployment


def test_one_model_on_devices_of_one_kind_is_named(tmp_path: Path) -> None:
    # Two engines share a device; a third has two.
    found = ran(
        tmp_path,
        engine(1, "m", H200, "GPU-a"),
        engine(2, "m", H200, "GPU-a"),
        engine(3, "m", H200, "GPU-b, GPU-c"),
    )
    assert (found.model, found.models, found.device_count) == ("m", ["m"], 3)
    assert found.devices == [DeviceKind(H200, 3)]
    assert phrases.subject(found) == f"m on 3 × {H200}"


def test_several_models_and_kinds_of_devices_are_counted_that_of_most_requests_first(tmp_path: Path) -> None:
    found = ran(tmp_path, engine(1, "small", A100, "GPU-b"), engine(2, "large", H200, "GPU-a", requests=3))
    assert (found.model, found.models) == ("large", ["large", "small"])
    assert (found.device, found.device_count) == (H200, 2)
    assert found.devices == [DeviceKind(H200, 1), DeviceKind(A100, 1)]
    assert phrases.subject(found) == f"2 models (large, small) on 1 × {H200}, 1 × {A100}"


@pytest.mark.parametrize(
    ("hw_name", "hw_id", "count"), [(None, None, None), (None, "GPU-a", 1), (H200, None, None)]
)
def test_what_was_not_recorded_is_not_made_up(
    tmp_path: Path, hw_name: str | None, hw_id: str | None, count: int | None
) -> None:
    found = ran(tmp_path, engine(1, "m", hw_name, hw_id))
    assert (found.device_count, found.devices) == (count, [])
    nameless = "1 device without a recorded name" if hw_id else "a device that was not recorded"
    assert phrases.subject(found) == f"m on {hw_name or nameless}"


def test_a_roof_beside_others_is_said_to_be_the_first() -> None:
    roof = Roof("datasheet", 1e15, 5e12, 200.0, "bfloat16", "a data sheet")
    roofs = [replace(roof, device=H200), replace(roof, device=A100)]
    assert phrases.roof_line(roof, roofs) == phrases.roof_line(roof) + f"; {H200}, the first of 2 roofs"
    assert phrases.roof_line(roof, roofs[:1]) == phrases.roof_line(roof)
    # Two ceilings of one device.
    assert phrases.roof_line(roof, [roof, roof]) == phrases.roof_line(roof)
