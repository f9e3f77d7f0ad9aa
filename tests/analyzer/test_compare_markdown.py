"""A comparison as a comment for a pull request: what is shown, what is folded away, and that it fits."""

import re
from dataclasses import replace

from comparisons import effect, hostile, improvement, no_change, regression

from vtprof_analyzer.regress.comparison import Shift
from vtprof_analyzer.report import compare_markdown


def test_the_comment_shows_the_verdict_and_folds_the_tables_away() -> None:
    text = compare_markdown.render(regression())
    shown = text.split("<details>")[0]
    assert "**REGRESSION:** at like images and load, encode is 8.3 % slower" in shown
    assert "| " not in shown
    assert len(shown) < 600
    assert "| encode | +8.3 % | +5.9 to +10.7 % | regression | 2.9 % | 2,400 | 2,410 |" in text
    assert "| encode | +20.8 ms | +3.4 % |" in text
    # GitHub reads Markdown inside an element only after an empty line.
    assert text.count("</summary>\n\n") == text.count("</details>") == 2


def test_the_comment_names_the_differences_of_the_workload() -> None:
    shown = compare_markdown.render(no_change()).split("<details>")[0]
    assert "- visual tokens per request: 1,210 → 1,612 (+33 %)" in shown
    assert "- share of requests with images: 71 % → 84 % (+13 points)" in shown


def test_warnings_are_not_folded_away() -> None:
    assert "other device" in compare_markdown.render(improvement()).split("<details>")[0]


def test_a_comment_fits_and_says_what_it_leaves_out() -> None:
    text = compare_markdown.render(hostile())
    assert len(text) <= compare_markdown.LIMIT < 65_536
    assert "more in HTML and JSON" in text


def test_tables_that_find_no_room_in_a_comment_are_counted() -> None:
    stars = "*" * 400  # escaped twice as long
    rows = tuple(
        effect(f"{stars}", None, model=f"{n % 9}{stars}", outcome="insufficient_data", why_not=f"{n}{stars}")
        for n in range(600)
    )
    shifts = tuple(Shift(stars, 1.0, 2.0, stars, "mix") for _ in range(50))
    text = compare_markdown.render(replace(regression(), effects=rows, shifts=shifts))
    assert len(text) <= compare_markdown.LIMIT
    assert re.search(r"\d tables more in HTML and JSON: no room in a comment", text)
    assert text.count("<details>") == text.count("</details>") == 2


def test_names_mention_nobody_link_nowhere_and_end_no_cell() -> None:
    name = "@octocat #12 www.evil.example https://evil.example | `x` <b>"
    told = compare_markdown.escape(name)
    assert not re.search(r"@\w|#\d|www\.\w|://", told)
    assert "\\|" in told
    assert "\\`" in told
    assert "\\<b\\>" in told
