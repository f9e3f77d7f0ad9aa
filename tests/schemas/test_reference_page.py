"""The generated reference page is up to date and holds every definition; the messages page has every error."""

import re
from pathlib import Path

from vtprof_schemas import errors, names, records, reference

SCHEMAS = Path(__file__).parents[2] / "schemas"


def test_the_page_is_what_the_definitions_say() -> None:
    page = (SCHEMAS / "REFERENCE.md").read_text(encoding="utf-8")
    assert page == reference.page(), "refresh: python -m vtprof_schemas.reference > schemas/REFERENCE.md"


def test_every_span_attribute_record_and_metric_is_on_the_page() -> None:
    page = reference.page()
    metrics = [value for name, value in vars(names).items() if name.startswith("PROM_")]
    wanted = [*names.SPANS, *names.ATTRIBUTES, *(kind.name for kind in records.KINDS.values()), *metrics]
    assert [name for name in wanted if f"`{name}`" not in page] == []


def test_an_attribute_of_a_new_group_is_not_left_out() -> None:
    extra = names.Attribute("vtprof.new.thing", names.INT, "", "a new group", "meaning | with a bar", "1")
    names.ATTRIBUTES[extra.key] = extra
    try:
        page = reference.page()
    finally:
        del names.ATTRIBUTES[extra.key]
    assert "### a new group" in page
    assert "meaning \\| with a bar" in page


def test_every_error_has_its_heading_and_says_what_to_do() -> None:
    page = (SCHEMAS / "messages.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", page, re.M | re.S))
    classes = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.VtprofError)
    ]
    assert sorted(sections) == sorted(kind.slug for kind in classes)
    assert all("**What happened.**" in text and "**What to do.**" in text for text in sections.values())
