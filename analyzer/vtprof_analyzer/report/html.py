"""The report as one HTML page that needs no network: text and tables first, three charts, everything inside the file.

The page carries its own Content-Security-Policy; text of a trace is escaped, and data for the charts is JSON in which
no tag can end. Without JavaScript the charts are pictures.
"""

import base64
import json
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import vl_convert

from vtprof_analyzer.report import charts, html_sections, phrases
from vtprof_analyzer.report.model import Report

_ASSETS = Path(__file__).with_name("assets")
_LIGHT, _DARK = "light", "dark"
_PICTURE_WIDTH = 880


def render(report: Report) -> str:
    """Return the page."""
    specs = {name: spec for name, spec in charts.specs(report).items() if spec is not None}
    places = {name: place(name, spec) for name, spec in specs.items()}
    page = Template((_ASSETS / "page.html").read_text(encoding="utf-8"))
    return page.substitute(
        title=escape(f"vtprof · {phrases.subject(report.deployment)}"),
        style=(_ASSETS / "style.css").read_text(encoding="utf-8"),
        body=html_sections.body(report, places),
        scripts=scripts(specs) if specs else "",
    )


def place(name: str, spec: dict[str, Any]) -> str:
    description = escape(str(spec["description"]))
    return (
        f'<div class="chart" id="chart-{name}" role="group" aria-label="{description}"></div>'
        f'<noscript><img alt="{description}" src="data:image/svg+xml;base64,{_picture(spec)}"></noscript>'
    )


def _picture(spec: dict[str, Any]) -> str:
    fixed = {**spec, "width": _PICTURE_WIDTH}
    svg: str = vl_convert.vegalite_to_svg(fixed, config=charts.config(dark=False), allowed_base_urls=[])
    return base64.b64encode(svg.encode()).decode()


def scripts(specs: dict[str, dict[str, Any]]) -> str:
    data = {"specs": specs, "config": {_LIGHT: charts.config(dark=False), _DARK: charts.config(dark=True)}}
    # The bundle's top-level names would meet others' without a function around them.
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace("</script", "<\\/script")
    draw = (_ASSETS / "draw.js").read_text(encoding="utf-8")
    return (
        f'<script type="application/json" id="charts">{_inert_json(data)}</script>\n'
        f"<script>(()=>{{{bundle}\n}})()</script>\n"
        f"<script>(()=>{{\n{draw}}})()</script>"
    )


def _inert_json(data: object) -> str:
    """Return JSON that holds no character with which HTML could go on."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
