"""The JSON Schema and the dataclasses say the same, and every report is valid."""

import dataclasses
import json
import types
import typing
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from report_samples import SAMPLES, gpu_run

import vtprof_schemas
from vtprof_analyzer.report import json_text, model

SCHEMA: dict[str, Any] = json.loads(
    (Path(vtprof_schemas.__file__).parent / "analyze_report.schema.json").read_text(encoding="utf-8")
)
CLASSES = {name: kind for name, kind in vars(model).items() if dataclasses.is_dataclass(kind)}
JSON_TYPES: dict[Any, str] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    list: "array",
    dict: "object",
}


def _object(name: str) -> dict[str, Any]:
    found: dict[str, Any] = SCHEMA if name == "Report" else SCHEMA["$defs"][name]
    return found


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_schema_and_dataclasses_hold_the_same_objects() -> None:
    assert set(SCHEMA["$defs"]) | {"Report"} == set(CLASSES)


@pytest.mark.parametrize("name", CLASSES)
def test_each_object_has_the_fields_of_its_dataclass_in_order(name: str) -> None:
    part = _object(name)
    fields = [field.name for field in dataclasses.fields(CLASSES[name])]
    assert list(part["properties"]) == fields
    assert part["required"] == fields
    assert part["additionalProperties"] is False
    assert all(field["description"] for field in part["properties"].values())


def _agrees(schema: dict[str, Any], hint: Any) -> bool:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        inner = next(kind for kind in args if kind is not type(None))
        if "anyOf" in schema:
            return schema["anyOf"][1] == {"type": "null"} and _agrees(schema["anyOf"][0], inner)
        kinds = schema["type"]
        return (
            isinstance(kinds, list) and kinds[1:] == ["null"] and _agrees({**schema, "type": kinds[0]}, inner)
        )
    if dataclasses.is_dataclass(hint):
        return schema.get("$ref") == f"#/$defs/{typing.cast(type, hint).__name__}"
    if "const" in schema:
        return isinstance(schema["const"], hint)
    if schema.get("type") != JSON_TYPES[origin or hint]:
        return False
    return _agrees(schema["items"], args[0]) if origin is list else True


@pytest.mark.parametrize("name", CLASSES)
def test_each_field_has_the_type_of_its_annotation_and_is_nullable_where_that_is(name: str) -> None:
    hints = typing.get_type_hints(CLASSES[name])
    wrong = [
        field for field, schema in _object(name)["properties"].items() if not _agrees(schema, hints[field])
    ]
    assert wrong == []


@pytest.mark.parametrize("name", SAMPLES)
def test_every_sample_is_valid(name: str) -> None:
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(json_text.render(SAMPLES[name]())))


def test_a_field_too_many_or_too_few_is_refused() -> None:
    document = json.loads(json_text.render(gpu_run()))
    validator = jsonschema.Draft202012Validator(SCHEMA)
    assert not validator.is_valid({**document, "extra": 1})
    assert not validator.is_valid({key: value for key, value in document.items() if key != "kv"})
    assert not validator.is_valid({**document, "summary": {**document["summary"], "requests": None}})
