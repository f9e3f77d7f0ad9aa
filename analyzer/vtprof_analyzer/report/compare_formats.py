"""The formats of a comparison: name to renderer module, imported when chosen, so that text needs no chart library."""

import importlib
from dataclasses import dataclass
from typing import Final

from vtprof_analyzer.regress.comparison import Comparison


@dataclass(frozen=True)
class Format:
    """One format: the module whose ``render(comparison)`` returns the text, and the name of its file."""

    module: str
    file_name: str


FORMATS: Final[dict[str, Format]] = {
    "terminal": Format("vtprof_analyzer.report.compare_terminal", "compare.txt"),
    "html": Format("vtprof_analyzer.report.compare_html", "index.html"),
    "json": Format("vtprof_analyzer.report.compare_json", "compare.json"),
    "markdown": Format("vtprof_analyzer.report.compare_markdown", "compare.md"),
}


def render(format_name: str, comparison: Comparison) -> str:
    """Return the comparison in the named format; raise ``KeyError`` for a name that is not in ``FORMATS``."""
    module = importlib.import_module(FORMATS[format_name].module)
    text: str = module.render(comparison)
    return text
