"""The JSON document of a comparison: its schema says what the dataclasses do, and every document is valid."""

import dataclasses
import json
import types
import typing
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from comparisons import SAMPLES, hostile, regression

import vtprof_schemas
from vtprof_analyzer.regress import comparison
from vtprof_analyzer.report import compare_json

SCHEMA: dict[str, Any] = json.loads(
    (Path(vtprof_schemas.__file__).parent / "compare.schema.json").read_text(encoding="utf-8")
)
DOCUMENT_ONLY = ["schema_version", "generator", "headline"]
NAMES = {"SideSummary": "Side"}
CLASSES = {
    NAMES.get(name, name): kind for name, kind in vars(comparison).items() if dataclasses.is_dataclass(kind)
}
TYPES: dict[Any, list[str]] = {str: ["string"], int: ["integer"], float: ["number"], bool: ["boolean"]}


def rendered(name: str) -> dict[str, Any]:
    """Return the document of a sample."""
    document: dict[str, Any] = json.loads(compare_json.render(SAMPLES[name]()))
    return document


def _object(name: str) -> dict[str, Any]:
    found: dict[str, Any] = SCHEMA if name == "Comparison" else SCHEMA["$defs"][name]
    return found


def test_the_schema_is_a_schema_and_holds_every_class() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert set(SCHEMA["$defs"]) | {"Comparison"} == set(CLASSES)


@pytest.mark.parametrize("name", CLASSES)
def test_each_object_has_the_fields_of_its_dataclass_in_order_and_says_what_they_mean(name: str) -> None:
    part = _object(name)
    extra = DOCUMENT_ONLY if name == "Comparison" else []
    fields = [*extra, *(field.name for field in dataclasses.fields(CLASSES[name]))]
    assert list(part["properties"]) == part["required"] == fields
    assert part["additionalProperties"] is False
    assert all(field["description"].endswith(".") for field in part["properties"].values())


def _agrees(schema: dict[str, Any], hint: Any) -> bool:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        inner = next(kind for kind in args if kind is not type(None))
        if "anyOf" in schema:
            return schema["anyOf"][1] == {"type": "null"} and _agrees(schema["anyOf"][0], inner)
        return "null" in schema["type"] and _agrees({**schema, "type": schema["type"][0]}, inner)
    if origin is typing.Literal:
        return schema["enum"] == list(args)
    if dataclasses.is_dataclass(hint):
        name = typing.cast(type, hint).__name__
        return schema.get("$ref") == f"#/$defs/{NAMES.get(name, name)}"
    if origin is tuple:
        return schema["type"] == "array" and _agrees(schema["items"], args[0])
    if origin is dict:
        return schema["type"] == "object" and _agrees(schema["additionalProperties"], args[1])
    # A float that is no number is null in the document.
    return schema["type"] in (TYPES[hint][0], [*TYPES[hint], "null"] if hint is float else None)


@pytest.mark.parametrize("name", CLASSES)
def test_each_field_has_the_type_of_its_annotation(name: str) -> None:
    hints = typing.get_type_hints(CLASSES[name])
    properties = _object(name)["properties"]
    assert [field for field, hint in hints.items() if not _agrees(properties[field], hint)] == []


@pytest.mark.parametrize("name", SAMPLES)
def test_every_document_is_valid(name: str) -> None:
    jsonschema.Draft202012Validator(SCHEMA).validate(rendered(name))


def test_a_field_too_many_or_too_few_is_refused() -> None:
    document = rendered("regression")
    validator = jsonschema.Draft202012Validator(SCHEMA)
    assert not validator.is_valid({**document, "extra": 1})
    assert not validator.is_valid({key: value for key, value in document.items() if key != "mde"})
    assert not validator.is_valid({**document, "verdict": "maybe"})


def test_the_fields_that_scripts_rely_on_are_there_in_their_units() -> None:
    document = rendered("regression")
    assert document["verdict"] == "regression"
    assert (document["workload_shift"], document["load_increase"], document["masked"]) == (
        False,
        False,
        False,
    )
    cause = document["causes"][0]
    assert [cause[key] for key in ("phase", "effect_ratio")] == ["encode", 0.083]
    assert [cause["ci_low"], cause["ci_high"]] == pytest.approx([0.059, 0.107])
    assert document["alpha"] == 0.01
    assert document["mde"]["encode"] == 0.029
    assert document["requests_needed"] == 1_150
    assert {key: value for key, value in document["metrics"][1].items() if key != "change_ratio"} == {
        "metric": "ttft_ms",
        "statistic": "p50",
        "base": 540.0,
        "new": 566.0,
    }
    parts = document["decomposition"]["parts"]
    assert document["decomposition"]["base_ms"] + sum(part["change_ms"] for part in parts) == pytest.approx(
        640.4
    )


def test_what_is_no_number_is_null_or_left_out_and_never_nan() -> None:
    text = compare_json.render(hostile())
    document = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert document["run_noise_ratio"] is None
    assert document["mde"] == {"encode": 1e300}
    assert document["strata"][0]["new_ms"] is None


def test_no_name_can_steer_a_terminal() -> None:
    told = replace(regression(), warnings=("\x1b[31m \u202e \x9b \x7f \ud800",))
    text = compare_json.render(told)
    assert text.isascii()
    assert not any(ord(char) < 32 for char in text.replace("\n", ""))
    assert json.loads(text)["warnings"] == ["\x1b[31m \u202e \x9b \x7f \ud800"]
