"""``vtprof demo``: profile a tiny real vision-language model on this machine and show the report."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from vtprof_analyzer.cli import given


def command(
    out: Annotated[
        Path,
        typer.Option(
            parser=given.path,
            metavar="DIR",
            help="Folder for the traces; emptied when an earlier demo made it.",
        ),
    ] = Path("traces"),
    report: Annotated[
        Path, typer.Option(parser=given.path, metavar="DIR", help="Folder for the report's files.")
    ] = Path("report"),
) -> None:
    """Serve a tiny Qwen2.5-VL here, profile it with the real probe and agent, and analyze its traces.

    Needs `pip install 'vtprof[demo]'` (torch, transformers); downloads no model; takes a minute or two.
    """
    from vtprof_analyzer.analyze import Options, analyze
    from vtprof_analyzer.cli.deliver import deliver
    from vtprof_analyzer.cli.progress import counted, progress_bar, size_of
    from vtprof_analyzer.demo import run
    from vtprof_analyzer.report.formats import REPORT_FORMATS

    run.check_packages()
    run.prepare_folder(out)
    with counted("requests answered", _say) as progress:
        run.record(out, report, _say, progress)
    _say(f"analyzing: vtprof analyze {out}")
    with progress_bar("reading", lambda: size_of([out])) as reading:
        result = analyze(Options(paths=[out]), reading)
    deliver(result, REPORT_FORMATS, ["terminal", "html", "json"], report, sys.stdout)


def _say(line: str) -> None:
    typer.echo(f"vtprof demo: {line}", err=True)
