"""Hand the report over: which formats, to stdout or to files, and say where the files are."""

import os
import shutil
from pathlib import Path
from typing import TextIO

from vtprof_analyzer.report.formats import FORMATS, render
from vtprof_analyzer.report.model import Report
from vtprof_analyzer.report.output import write
from vtprof_schemas.errors import ConfigError

_TERMINAL = "terminal"
_JSON = "json"
_HTML = "html"
_WIDEST = 100
_NARROWEST = 60


def check_formats(text: str) -> list[str]:
    """Return the formats of a comma-separated list; raise ConfigError for an unknown one."""
    wanted = list(dict.fromkeys(part.strip().lower() for part in text.split(",") if part.strip()))
    unknown = [name for name in wanted if name not in FORMATS]
    if unknown or not wanted:
        shown = f"unknown format {unknown[0]!r}" if unknown else "no format given"
        raise ConfigError(f"--format: {shown}; choose from {', '.join(FORMATS)}, separated by commas")
    return wanted


def deliver(
    report: Report, formats: list[str], folder: Path | None, default: Path, stdout: TextIO | None
) -> None:
    """Write the formats: one text format alone goes to stdout, and to ``folder`` only when the user named one.

    With HTML the JSON document is written beside it, so that a picture never stands without its numbers.
    """
    alone = formats[0] if len(formats) == 1 and formats[0] != _HTML else None
    files = [name for name in formats if name != _TERMINAL and (name != alone or folder)]
    if _HTML in files and _JSON not in files:
        files.append(_JSON)
    where = folder or default
    written = {name: write(where, FORMATS[name].file_name, render(name, report)) for name in files}
    shown = written.get(_HTML) or next(iter(written.values()), None)
    if stdout is None:
        if not written or _TERMINAL in formats:
            raise ConfigError("standard output is closed; give -o FOLDER and --format html, json or markdown")
    elif _TERMINAL in formats:
        stdout.write(_terminal(report, stdout, shown))
    elif alone:
        stdout.write(render(alone, report))
    elif shown:
        stdout.write(f"Report: {shown}\n")


def _terminal(report: Report, stdout: TextIO, full_report: Path | None) -> str:
    from vtprof_analyzer.report import terminal

    watched = stdout.isatty()
    width = min(_WIDEST, max(_NARROWEST, shutil.get_terminal_size().columns)) if watched else 80
    color = watched and "NO_COLOR" not in os.environ
    return terminal.render(
        report, width=width, color=color, full_report=str(full_report) if full_report else None
    )
