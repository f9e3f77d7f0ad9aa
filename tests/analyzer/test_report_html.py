"""The HTML page: complete, inert towards hostile text, and drawn by a real browser without a network."""

import base64
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from report_samples import SAMPLES, demo_run, empty_run, gpu_run, vllm_run

from vtprof_analyzer.report import charts, html

CHROMIUM = shutil.which("chromium")
PAGES: dict[str, str] = {}


def _page(name: str) -> str:
    """Return the page of a sample, rendered once."""
    if name not in PAGES:
        PAGES[name] = html.render(SAMPLES[name]())
    return PAGES[name]


class _Outline(HTMLParser):
    """Collects what the page is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[str] = []
        self.text: list[str] = []
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "link", "img"}:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if "h2" in self._open:
            self.headings.append(data)
        if not {"script", "style"} & set(self._open):
            self.text.append(data)


def _outline(page: str) -> _Outline:
    outline = _Outline()
    outline.feed(page)
    assert outline._open == []
    return outline


@pytest.mark.parametrize("name", SAMPLES)
def test_elements_are_closed_and_only_https_links_leave_the_page(name: str) -> None:
    outline = _outline(_page(name))
    for tag, attributes in outline.tags:
        assert not any(key.startswith("on") for key in attributes), tag
        assert tag not in {"iframe", "object", "embed", "form", "base"}
        for key in ("src", "href"):
            assert (attributes.get(key) or "data:").startswith(("data:", "https://"))
        if tag == "img":
            assert attributes["alt"]
            assert (attributes.get("src") or "").startswith("data:image/svg+xml;base64,")
        if tag == "script":
            assert "src" not in attributes


def test_sections_follow_the_order_of_the_terminal() -> None:
    assert _outline(_page("gpu")).headings == [
        "What visual tokens take",
        "Where TTFT goes",
        "Phases against the roofline",
        "Energy of 18,190 requests (3 % of it estimated)",
        "KV footprint",
        "TTFT by visual tokens",
        "What to do, largest gain first",
        "Can this be trusted?",
    ]


def test_the_policy_allows_nothing_from_outside() -> None:
    policy = next(
        a["content"]
        for tag, a in _outline(_page("gpu")).tags
        if a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None
    assert policy.startswith(
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
    )


def test_hostile_text_adds_no_element() -> None:
    def counts(page: str) -> int:
        return sum(tag in {"script", "img"} for tag, _ in _outline(page).tags)

    assert counts(_page("hostile")) == counts(_page("gpu"))
    body = re.sub(r"<script>.*?</script>", "", _page("hostile"), flags=re.S)
    assert "<img src=x" not in body
    assert "fetch('https" not in body
    assert "\x1b" not in _page("hostile")
    assert "\u202e" not in _page("hostile")


def test_data_of_the_charts_cannot_end_its_script() -> None:
    data = re.search(r'<script type="application/json" id="charts">(.*?)</script>', _page("hostile"), re.S)
    assert data is not None
    assert "<" not in data[1]
    assert set(json.loads(data[1])["specs"]) == {"budget", "roofline", "kv"}


def test_without_javascript_the_charts_are_pictures() -> None:
    pictures = re.findall(
        r'<noscript><img alt="[^"]+" src="data:image/svg\+xml;base64,([^"]+)"></noscript>', _page("gpu")
    )
    assert len(pictures) == 3
    assert all(base64.b64decode(picture).startswith(b"<svg") for picture in pictures)


def test_what_was_not_recorded_is_a_sentence_and_no_chart() -> None:
    assert {name for name, spec in charts.specs(vllm_run()).items() if spec} == {"budget"}
    assert not any(charts.specs(empty_run()).values())
    text = " ".join(" ".join(_outline(_page("vllm")).text).split())
    assert "vtprof.step spans" in text
    assert "--model" in text
    assert "vegaEmbed" not in _page("empty")


def test_a_line_to_paste_is_on_the_page() -> None:
    text = "".join(_outline(_page("gpu")).text)
    assert "vllm serve … --mm-processor-kwargs '{\"max_pixels\": 1003520}'" in text


def test_shares_of_the_budget_close_at_100_with_the_unexplained_last_and_grey() -> None:
    spec = charts.budget(gpu_run())
    assert spec is not None
    rows: list[dict[str, Any]] = spec["data"]["values"]
    for group in ("all requests", "p95 and above"):
        bars = [row for row in rows if row["group"] == group]
        assert bars[-1]["phase"] == "unexplained"
        assert bars[-1]["end"] == pytest.approx(100)
        assert sum(int(row["share"].removesuffix(" %")) for row in bars) == 100
    scale = spec["encoding"]["color"]["scale"]
    assert scale["domain"][-1] == "unexplained"
    assert dict(zip(scale["domain"], scale["range"], strict=True))["encode"] == "#0072B2"


def test_the_roof_is_bandwidth_times_intensity_up_to_the_ridge_and_flat_after() -> None:
    spec = charts.roofline(demo_run())
    assert spec is not None
    line = next(
        layer["data"]["values"]
        for layer in spec["layer"]
        if "roof" in layer["data"]["values"][0] and "y" in layer["data"]["values"][0]
    )
    start, ridge, end = line
    # 1.9e11 FLOP/s over 2.1e10 B/s: the roofs meet at 9.0476 FLOP/B.
    assert start["y"] == pytest.approx(start["x"] * 2.1e10)
    assert ridge["x"] == pytest.approx(9.0476, rel=1e-4)
    assert ridge["y"] == end["y"] == pytest.approx(1.9e11)


def test_each_devices_roof_is_drawn_and_named() -> None:
    run = demo_run()
    own = replace(run.deployment.roofs[0], device="NVIDIA H200")
    slower = replace(own, peak_flops_per_s=1e11, ridge=1e11 / 2.1e10, device="NVIDIA A100-SXM4-80GB")
    sheet = replace(own, kind="datasheet", peak_flops_per_s=3e11)
    several = replace(run, deployment=replace(run.deployment, roofs=[own, slower, sheet]))
    spec = charts.roofline(several)
    assert spec is not None
    values = [(layer["mark"], layer["data"]["values"]) for layer in spec["layer"]]
    lines = [rows for mark, rows in values if mark["type"] == "line"]
    assert [rows[-1]["y"] for rows in lines] == [1.9e11, 1e11, 3e11]
    names = [(rows[0]["name"], rows[0]["y"], mark["dy"]) for mark, rows in values if "name" in rows[0]]
    # A halo and a name each, below its line; 1.9e11 is more than 1.6 times 1e11.
    assert names == [("H200", 1.9e11, 14)] * 2 + [("A100", 1e11, 14)] * 2
    page = html.render(several)
    assert "NVIDIA A100-SXM4-80GB: 100 GFLOP/s" in page
    assert "Each step is judged by its own device&#x27;s" in page


def test_names_of_roofs_of_like_height_stand_below_one_another_and_tell_the_devices_apart() -> None:
    run = demo_run()
    roof = run.deployment.roofs[0]
    roofs = [
        replace(roof, device="NVIDIA H100-PCIE"),
        replace(roof, device="NVIDIA H100-SXM", peak_flops_per_s=1.8e11),
    ]
    spec = charts.roofline(replace(run, deployment=replace(run.deployment, roofs=roofs)))
    assert spec is not None
    names = {layer["data"]["values"][0].get("name"): layer["mark"].get("dy") for layer in spec["layer"]}
    names.pop(None)
    assert names == {"H100-PCIE": 14, "H100-SXM": 28}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed (apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, chromium_sandbox=False)
        yield chromium
        chromium.close()


class _Visit:
    """A page opened without a network, with all that it asked for and said."""

    def __init__(
        self, browser: Any, path: Path, scheme: str = "light", width: int = 1280, scripts: bool = True
    ) -> None:
        self.context = browser.new_context(
            offline=True,
            color_scheme=scheme,
            viewport={"width": width, "height": 900},
            java_script_enabled=scripts,
        )
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: self.said.append("dialog: " + dialog.message))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    def drawn(self, scheme: str) -> None:
        # A selector and no function: the page's policy forbids eval to a debugger's polling too.
        self.page.locator(f"html[data-drawn={scheme}]").wait_for(state="attached")


@pytest.mark.browser
@pytest.mark.parametrize("name", ["gpu", "demo", "hostile"])
def test_a_browser_draws_three_charts_offline_without_a_word(browser: Any, tmp_path: Path, name: str) -> None:
    path = tmp_path / "index.html"
    path.write_text(_page(name), encoding="utf-8")
    visit = _Visit(browser, path)
    visit.drawn("light")
    assert visit.page.locator(".chart svg").count() == 3
    assert visit.page.locator(".chart svg path[aria-label], .chart svg [role='graphics-symbol']").count() > 0
    assert [url for url in visit.requests if not url.startswith("data:")] == [path.as_uri()]
    assert visit.said == []
    visit.context.close()


@pytest.mark.browser
def test_the_charts_follow_the_colour_scheme(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "index.html"
    path.write_text(_page("demo"), encoding="utf-8")
    visit = _Visit(browser, path)
    label = ".chart svg .role-axis-title text"
    visit.drawn("light")
    light = visit.page.locator(label).first.get_attribute("fill")
    visit.page.emulate_media(color_scheme="dark")
    visit.drawn("dark")
    dark = visit.page.locator(label).first.get_attribute("fill")
    expected = [charts.config(dark=is_dark)["axis"]["titleColor"] for is_dark in (False, True)]
    assert [light, dark] == expected
    assert visit.page.locator(".chart svg").count() == 3
    assert visit.said == []
    visit.context.close()


@pytest.mark.browser
@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("width", [420, 1280])
def test_no_side_scroll(browser: Any, tmp_path: Path, name: str, width: int) -> None:
    path = tmp_path / "index.html"
    path.write_text(_page(name), encoding="utf-8")
    visit = _Visit(browser, path, width=width)
    if "vegaEmbed" in _page(name):
        visit.drawn("light")
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    visit.context.close()


@pytest.mark.browser
def test_a_wide_table_on_a_narrow_page_scrolls_in_itself_and_shows_that_it_does(
    browser: Any, tmp_path: Path
) -> None:
    path = tmp_path / "index.html"
    path.write_text(_page("gpu"), encoding="utf-8")
    visit = _Visit(browser, path, width=420)
    visit.drawn("light")
    phases = visit.page.locator('section[aria-labelledby="roofline"] .scroll')
    assert phases.evaluate("e => e.scrollWidth > e.clientWidth")
    assert phases.evaluate("e => getComputedStyle(e).backgroundAttachment").count("scroll") == 2
    visit.context.close()


def test_columns_and_rows_without_a_value_are_left_out() -> None:
    def heads(name: str) -> list[str]:
        return re.findall(r'<th scope="col" class="n?">([^<]+)</th>', _page(name))

    assert {"DRAM", "tensor", "energy", "GPU time"} <= set(heads("gpu"))
    assert not {"DRAM", "tensor", "energy", "GPU time"} & set(heads("demo"))
    assert '<th scope="row">audio</th>' not in _page("gpu")
    assert '<th scope="row">video</th>' in _page("gpu")


def test_names_on_the_roofline_stand_clear_of_their_marks() -> None:
    spec = charts.roofline(gpu_run())
    assert spec is not None
    names = [layer["mark"] for layer in spec["layer"] if layer["mark"].get("fontWeight") == 600]
    assert len(names) == 4  # halo and name, below and above
    assert all(abs(mark["dy"]) >= 20 for mark in names)
    assert {charts.config(dark)["style"]["halo"]["stroke"] for dark in (True, False)} == {
        "#13171c",
        "#ffffff",
    }


@pytest.mark.browser
def test_without_javascript_a_browser_shows_the_pictures(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "index.html"
    path.write_text(_page("gpu"), encoding="utf-8")
    visit = _Visit(browser, path, scripts=False)
    pictures = visit.page.locator("noscript img")
    assert pictures.count() == 3
    assert all(pictures.nth(index).bounding_box()["width"] > 300 for index in range(3))
    visit.context.close()


def test_every_page_is_whole() -> None:
    assert all(_page(name).rstrip().endswith("</html>") for name in SAMPLES)
