"""The formats of a report: name to renderer module, imported when chosen, so that text needs no chart library."""

import importlib
from dataclasses import dataclass

from vtprof_analyzer.report.model import Report


@dataclass(frozen=True)
class Format:
    """One format: the module whose ``render(report)`` returns the text, and the name of its file."""

    module: str
    file_name: str


FORMATS: dict[str, Format] = {
    "terminal": Format("vtprof_analyzer.report.terminal", "report.txt"),
    "html": Format("vtprof_analyzer.report.html", "index.html"),
    "json": Format("vtprof_analyzer.report.json_text", "report.json"),
    "markdown": Format("vtprof_analyzer.report.markdown", "report.md"),
}


def render(format_name: str, report: Report) -> str:
    """Return the report in the named format; raise ``KeyError`` for a name that is not in ``FORMATS``."""
    module = importlib.import_module(FORMATS[format_name].module)
    text: str = module.render(report)
    return text
