"""What users write, show and are answered cannot be recorded: no record has a field for it, nor for a digest of it."""

from pathlib import Path

import vtprof_probe
from vtprof_schemas import names, records

IDENTIFIERS = {
    ("request_label", "text"): "the caller's id of a request",
    ("request_model", "text"): "the name of the model",
    ("request_parent", "trace_id"): "W3C trace context",
    ("request_parent", "span_id"): "W3C trace context",
}


def test_of_all_fields_of_records_only_identifiers_hold_bytes() -> None:
    found = {
        (kind.name, name)
        for kind in records.KINDS.values()
        for name, format_, _ in kind.fields
        if format_[-1] in "sp"
    }
    assert found == IDENTIFIERS.keys()


def test_all_other_fields_are_one_number_of_eight_bytes_at_most() -> None:
    numbers = {
        format_
        for kind in records.KINDS.values()
        for name, format_, _ in kind.fields
        if (kind.name, name) not in IDENTIFIERS
    }
    assert numbers <= set("bBhHiIqQdf")


def test_no_attribute_of_a_span_or_resource_is_text_but_names_states_and_settings() -> None:
    texts = {key for key, attribute in names.ATTRIBUTES.items() if attribute.type == names.STRING}
    texts.remove(names.PREPROCESS_MEDIA_DIGESTS)  # read where others write it, keyed; nothing here does
    for word in ("prompt", "completion", "content", "message", "hash", "digest", "url", "body"):
        assert not [key for key in texts if word in key]


def test_nothing_here_records_digests_of_media() -> None:
    sources = Path(vtprof_probe.__file__).parents[1].rglob("*.py")
    assert not [path.name for path in sources if "MEDIA_DIGESTS" in path.read_text(encoding="utf-8")]
