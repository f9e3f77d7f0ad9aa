"""Hand a report or a comparison over: which formats, to stdout or to files, and say where the files are."""

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, TextIO

from vtprof_analyzer.interrupts import leaving
from vtprof_analyzer.report.formats import Content, Format
from vtprof_analyzer.report.output import write
from vtprof_schemas.errors import ConfigError

_DEFAULT_FOLDER: Final = Path("report")
_TERMINAL: Final = "terminal"
_JSON: Final = "json"
_HTML: Final = "html"


def check_formats(text: str, known: Iterable[str]) -> list[str]:
    """Return the formats of a comma-separated list; raise ConfigError for one that is not known."""
    names = list(known)
    wanted = list(dict.fromkeys(part.strip().lower() for part in text.split(",") if part.strip()))
    unknown = [name for name in wanted if name not in names]
    if unknown or not wanted:
        shown = f"unknown format {unknown[0]!r}" if unknown else "no format given"
        raise ConfigError(f"--format: {shown}; choose from {', '.join(names)}, separated by commas")
    return wanted


def deliver(
    content: Content,
    formats: Mapping[str, Format[Content]],
    wanted: list[str],
    folder: Path | None,
    stdout: TextIO | None,
    widest: int = 100,
) -> None:
    """Write the formats: one text format alone goes to stdout, and to ``folder`` only when the user named one.

    With HTML the JSON document is written beside it, so that a picture never stands without its numbers. A terminal's
    text is as wide as the terminal, up to ``widest`` columns.
    """
    alone = wanted[0] if len(wanted) == 1 and wanted[0] != _HTML else None
    files = [name for name in wanted if name != _TERMINAL and (name != alone or folder)]
    if _HTML in files and _JSON not in files:
        files.append(_JSON)
    where = folder or _DEFAULT_FOLDER
    with leaving(f"each report file in {where} is whole, but some may be missing, or older than others"):
        written = {
            name: write(where, formats[name].file_name, formats[name].render(content)) for name in files
        }
    shown = written.get(_HTML) or next(iter(written.values()), None)
    if stdout is None:
        if not written or _TERMINAL in wanted:
            raise ConfigError("standard output is closed; give -o FOLDER and --format html, json or markdown")
    elif _TERMINAL in wanted:
        watched = stdout.isatty()
        text = formats[_TERMINAL].render(
            content,
            width=min(widest, shutil.get_terminal_size().columns) if watched else 80,
            color=watched and "NO_COLOR" not in os.environ,
            full_report=str(shown) if shown else None,
        )
        stdout.write(text)
    elif alone:
        stdout.write(formats[alone].render(content))
    elif shown:
        stdout.write(f"Report: {shown}\n")
