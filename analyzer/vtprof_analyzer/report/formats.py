"""The formats of a report and of a comparison: name to renderer module, imported when chosen.

So text needs no chart library, and a comparison not the report's model.
"""

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from vtprof_analyzer.regress.comparison import Comparison
    from vtprof_analyzer.report.model import Report

Content = TypeVar("Content")


@dataclass(frozen=True)
class Format(Generic[Content]):
    """One format: the module whose ``render(content)`` returns the text, and the name of its file."""

    module: str
    file_name: str

    def render(self, content: Content, **options: int | str | None) -> str:
        """Return the content in this format; ``options`` are those of the module's ``render``."""
        text: str = importlib.import_module(self.module).render(content, **options)
        return text


REPORT_FORMATS: Final[dict[str, "Format[Report]"]] = {
    "terminal": Format("vtprof_analyzer.report.terminal", "report.txt"),
    "html": Format("vtprof_analyzer.report.html", "index.html"),
    "json": Format("vtprof_analyzer.report.json_text", "report.json"),
    "markdown": Format("vtprof_analyzer.report.markdown", "report.md"),
}
COMPARISON_FORMATS: Final[dict[str, "Format[Comparison]"]] = {
    "terminal": Format("vtprof_analyzer.report.compare_terminal", "compare.txt"),
    "html": Format("vtprof_analyzer.report.compare_html", "index.html"),
    "json": Format("vtprof_analyzer.report.compare_json", "compare.json"),
    "markdown": Format("vtprof_analyzer.report.compare_markdown", "compare.md"),
}
