"""Whatever a comparison holds, every format renders it: valid, bounded, and nothing in it can steer the reader's program."""

import dataclasses
import json
import re
import types
import typing
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import jsonschema
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from report_samples import HOSTILE
from rich.cells import cell_len
from test_compare_json import SCHEMA

from vtprof_analyzer.regress.comparison import Comparison
from vtprof_analyzer.report import compare_html, compare_json, compare_markdown, compare_terminal

UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn"}
TEXTS = (
    "encode", "mix", "load", "queue", "256", "ttft_ms", "share", "", HOSTILE, "long " * 2_000, "\x1b[2J", "a|b`c` @me <b>",
    "\ud800",
)  # fmt: skip
NAMES = st.one_of(st.text(max_size=20), st.sampled_from(TEXTS))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def made(hint: Any) -> st.SearchStrategy[Any]:
    """Return a strategy for a type that the result is made of."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return st.one_of(*(st.none() if kind is type(None) else made(kind) for kind in args))
    if origin is typing.Literal:
        return st.sampled_from(args)
    if origin is tuple:
        return st.lists(made(args[0]), max_size=4).map(tuple)
    if origin is dict:
        return st.dictionaries(made(args[0]), made(args[1]), max_size=4)
    if dataclasses.is_dataclass(hint):
        fields = typing.get_type_hints(hint)
        return st.builds(typing.cast(type, hint), **{name: made(kind) for name, kind in fields.items()})
    plain: dict[Any, st.SearchStrategy[Any]] = {
        str: NAMES,
        int: st.integers(0, 2**63 - 1),
        float: st.one_of(st.floats(), st.floats(-2, 2), st.floats(0, 1_000)),
        bool: st.booleans(),
    }
    return plain[hint]


# Without shrinking: a comparison is so large that it would take minutes.
ANY = settings(max_examples=25, phases=(Phase.explicit, Phase.reuse, Phase.generate))
MANY = ("causes", "improvements", "effects", "shifts", "strata", "metrics", "warnings")


@st.composite
def comparisons(draw: st.DrawFn) -> Comparison:
    """Return any comparison, some with hundreds of everything."""
    found: Comparison = draw(made(Comparison))
    times = draw(st.sampled_from([1, 1, 60]))
    more: dict[str, Any] = {name: getattr(found, name) * times for name in MANY}
    return replace(found, alpha=draw(st.floats(1e-6, 0.2)), min_effect=draw(st.floats(0, 1)), **more)


def unseen(text: str, allowed: str = "\n") -> set[str]:
    """Return the characters that no reader could see."""
    return {char for char in set(text) - set(allowed) if unicodedata.category(char) in UNSEEN}


@ANY
@given(comparisons(), st.sampled_from([60, 80, 110]))
def test_the_terminal_shows_any_comparison_in_its_width(comparison: Comparison, width: int) -> None:
    text = compare_terminal.render(comparison, width=width, full_report="report/index.html")
    assert unseen(text) == set()
    assert len(text) < 200_000
    assert max(map(cell_len, text.splitlines())) <= width


@ANY
@given(comparisons())
def test_the_comment_of_any_comparison_fits_and_holds_no_html_mention_or_reference(
    comparison: Comparison,
) -> None:
    text = compare_markdown.render(comparison)
    assert unseen(text, "\n\u200b") == set()
    assert len(text) <= compare_markdown.LIMIT
    ours = re.sub(r"</?(?:details|summary|sub)>", "", text)
    assert not re.search(r"(?<!\\)(?:\\\\)*<", ours)
    assert not re.search(r"@(?!\u200b)|(?<!^)(?<!\n)(?<!#)#(?![\u200b#])", ours)
    assert ours.count("```") == 0


@ANY
@given(comparisons())
def test_the_document_of_any_comparison_is_valid(comparison: Comparison) -> None:
    text = compare_json.render(comparison)
    assert text.isascii()
    VALIDATOR.validate(json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON")))


@pytest.fixture(scope="module")
def no_drawing() -> Iterator[None]:
    """Leave out what takes a second a page and depends on no input but the charts' documents: their drawing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vl_convert.vegalite_to_svg", lambda *_, **__: "<svg/>")
        patch.setattr("vl_convert.javascript_bundle", lambda *_, **__: "")
        yield


class _Tags(HTMLParser):
    """Collects what a page is made of, and checks that what is opened is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in {"meta", "link", "img"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


OURS = {
    "html", "head", "meta", "title", "link", "style", "body", "header", "div", "span", "h1", "h2", "p", "strong", "main",
    "ul", "li", "dl", "dt", "dd", "section", "noscript", "img", "table", "thead", "tbody", "tr", "th", "td", "details",
    "summary", "footer", "script",
}  # fmt: skip


@ANY
@given(comparison=comparisons())
def test_the_page_of_any_comparison_is_whole_and_holds_no_element_of_others(
    no_drawing: None, comparison: Comparison
) -> None:
    page = compare_html.render(comparison)
    parser = _Tags()
    parser.feed(page)
    assert parser.open == []
    assert parser.tags <= OURS
    assert not {name for name in parser.attributes if name.startswith("on")}
    assert unseen(page) == set()
    assert len(page) < 3_000_000
