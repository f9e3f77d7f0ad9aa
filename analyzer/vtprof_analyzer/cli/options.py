"""Options that several commands have, each in the words of all of them."""

from pathlib import Path
from typing import Annotated

import typer

from vtprof_analyzer.cli import given

Out = Annotated[
    Path | None,
    typer.Option(
        "-o", "--out", parser=given.path, metavar="DIR", help="Folder for the files; default report/."
    ),
]
OutOrReport = Annotated[
    Path | None,
    typer.Option(
        "-o", "--out", "--report", parser=given.path, metavar="DIR",
        help="Folder for the files; default report/. --report is the same, as `demo` names it.",
    ),
]  # fmt: skip
Cache = Annotated[
    bool,
    typer.Option(
        "--cache/--no-cache",
        help="Keep what was read in .vtprof-cache beside the traces, for the next time.",
    ),
]

Formats = Annotated[
    str,
    typer.Option(
        "--format", metavar="LIST",
        help="Of terminal, html, json and markdown; one alone goes to stdout, but html.",
    ),
]  # fmt: skip
