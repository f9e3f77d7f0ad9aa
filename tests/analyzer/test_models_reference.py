"""The page of known models is made from the sources."""

from pathlib import Path

from vtprof_analyzer.models.reference import page

FILE = Path(__file__).parents[2] / "analyzer" / "MODELS.md"


def test_the_page_is_up_to_date() -> None:
    assert FILE.read_text("utf-8") == page(), "run `make docs`"
