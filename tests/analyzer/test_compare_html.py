"""A comparison's page: verdict, pictures and tables in the report's look, inert, and drawn by a browser offline."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from comparisons import SAMPLES, insufficient, masked, no_change, regression, two_models

from vtprof_analyzer.regress.comparison import StratumEffect
from vtprof_analyzer.report import compare_charts, compare_html

CHROMIUM = shutil.which("chromium")
PAGES: dict[str, str] = {}


def page(name: str) -> str:
    """Return the page of a sample, rendered once."""
    if name not in PAGES:
        PAGES[name] = compare_html.render(SAMPLES[name]())
    return PAGES[name]


def layers(spec: dict[str, Any] | None) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Return mark and rows of each layer."""
    assert spec is not None
    return [(layer["mark"], layer["data"]["values"]) for layer in spec["layer"]]


def test_the_verdict_stands_first_then_warnings_numbers_and_the_sections_of_the_terminal() -> None:
    text = page("improvement")
    order = [
        'class="headline better"><strong>IMPROVEMENT:</strong>', "other device", "Mean TTFT",
        "Where the change of TTFT comes from", "Effects, at like images and load", "What differs in the workload",
        "Effects by visual tokens", "Raw times", "Can this be trusted?", "</html>",
    ]  # fmt: skip
    places = [text.index(part) for part in order]
    assert places == sorted(places)


def test_the_waterfall_goes_from_base_to_new_in_steps_that_meet() -> None:
    found = layers(compare_charts.ttft(regression()))
    bars = next(rows for mark, rows in found if mark["type"] == "bar")
    assert bars[0]["start"] == 612.3
    assert all(before["end"] == pytest.approx(after["start"]) for before, after in pairwise(bars))
    assert bars[-1]["end"] == pytest.approx(640.4)
    ticks = next(rows for mark, rows in found if mark["type"] == "tick")
    assert [row["start"] for row in ticks] == [612.3, 640.4]


def test_the_larger_sides_figure_stands_to_the_left_of_its_mark() -> None:
    for sample, larger in ((regression(), "NEW"), (masked(), "BASE")):
        texts = [
            (mark["align"], rows[0]["part"])
            for mark, rows in layers(compare_charts.ttft(sample))
            if mark["type"] == "text" and len(rows) == 1
        ]
        assert ("right", larger) in texts


def test_effects_are_drawn_with_interval_and_the_changes_that_would_not_have_shown() -> None:
    found = layers(compare_charts.effects(regression()))
    rows = next(rows for mark, rows in found if mark["type"] == "point")
    encode = next(row for row in rows if row["name"] == "encode")
    assert [encode[key] for key in ("effect", "low", "high", "least_low", "least")] == pytest.approx(
        [8.3, 5.9, 10.7, -2.9, 2.9]
    )
    assert encode["found"]
    assert "KV per token" not in {row["name"] for row in rows}  # it has no effect: no point at zero
    assert {row["name"] for row in rows if row["found"]} == {"encode", "encode, tail"}


def test_the_shift_is_drawn_by_stratum_in_the_order_of_their_tokens() -> None:
    spec = compare_charts.strata(regression())
    rows = next(rows for mark, rows in layers(spec) if mark["type"] == "point")
    assert len(rows) == 10  # visual tokens alone: the stratum of text tokens is in the table
    assert spec is not None
    point = next(layer for layer in spec["layer"] if layer["mark"]["type"] == "point")
    assert point["encoding"]["y"]["sort"] == ["none", "1 to 256", "257 to 1,024", "1,025 to 4,096"]
    assert point["encoding"]["color"]["scale"]["domain"] == ["encode", "prefill", "decode"]


def test_effects_of_several_models_are_told_apart() -> None:
    rows = next(
        rows for mark, rows in layers(compare_charts.effects(two_models())) if mark["type"] == "point"
    )
    assert {"encode · InternVL3-8B", "KV per token · Qwen2.5-VL-7B"} <= {row["name"] for row in rows}
    assert {"Effects of InternVL3-8B, at like images and load"} <= set(
        re.findall(r"<h2[^>]*>([^<]+)</h2>", page("two_models"))
    )


def test_an_effect_out_of_all_proportion_is_drawn_at_the_edge() -> None:
    row = replace(regression().strata[0], effect_ratio=50.0, ci_high=90.0)
    spec = compare_charts.strata(replace(regression(), strata=(row,)))
    points = next(rows for mark, rows in layers(spec) if mark["type"] == "point")
    assert (points[0]["effect"], points[0]["change"]) == (300, "+5,000 %")


def test_one_wide_interval_does_not_flatten_the_picture_and_what_was_found_is_inside() -> None:
    wide = replace(regression().effects[3], ci_low=-0.9, ci_high=1.1)
    found = replace(regression(), effects=(*regression().effects, wide))
    spec = compare_charts.effects(found)
    assert spec is not None
    point = next(
        layer for layer in spec["layer"] if layer["mark"]["type"] == "rule" and "x2" in layer["encoding"]
    )
    low, high = point["encoding"]["x"]["scale"]["domain"]
    assert -40 < low < -5
    assert 62 < high < 70  # the tail's interval ends at 62 %


def test_what_is_not_known_is_a_sentence_and_no_picture() -> None:
    assert not any(compare_charts.specs(insufficient()).values())
    assert "vegaEmbed" not in page("insufficient")
    assert "Not known: it takes requests on both sides" in page("insufficient")
    unknown = StratumEffect("encode", "m", "visual_tokens", "256", 1, 1, 1.0, 1.0, float("nan"), 0.0, 0.0)
    assert compare_charts.strata(replace(no_change(), strata=(unknown,))) is None


def test_hostile_names_add_no_element() -> None:
    body = re.sub(r"<script>.*?</script>", "", page("hostile"), flags=re.S)
    assert "<img src=x" not in body
    assert "<script>fetch" not in page("hostile")
    assert "\x1b" not in page("hostile")
    data = re.search(r'<script type="application/json" id="charts">(.*?)</script>', page("hostile"), re.S)
    assert data is not None
    assert "<" not in data[1]
    assert set(json.loads(data[1])["specs"]) == {"effects", "strata"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed (apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, chromium_sandbox=False)
        yield chromium
        chromium.close()


@pytest.mark.browser
@pytest.mark.parametrize(
    ("name", "charts"), [("regression", 3), ("two_models", 3), ("hostile", 2), ("insufficient", 0)]
)
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 420)])
def test_a_browser_draws_the_page_offline_without_a_word_and_without_side_scroll(
    browser: Any, tmp_path: Path, name: str, charts: int, scheme: str, width: int
) -> None:
    path = tmp_path / "index.html"
    path.write_text(page(name), encoding="utf-8")
    context = browser.new_context(offline=True, color_scheme=scheme, viewport={"width": width, "height": 900})
    sheet = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    sheet.on("console", lambda message: said.append(message.text))
    sheet.on("pageerror", lambda error: said.append(str(error)))
    sheet.on("request", lambda request: asked.append(request.url))
    sheet.goto(path.as_uri())
    if charts:
        sheet.locator(f"html[data-drawn={scheme}]").wait_for(state="attached")
    assert sheet.locator(".chart svg").count() == charts
    assert sheet.evaluate("document.documentElement.scrollWidth") <= width
    assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
    assert said == []
    context.close()
