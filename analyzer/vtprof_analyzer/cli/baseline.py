"""``vtprof baseline``: save what a good deployment measured, to compare with later."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from vtprof_analyzer.cli import given

app = typer.Typer(no_args_is_help=True, help="Save runs as the BASE that `compare` and `watch` measure by.")

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="Letters, digits, '.', '_' and '-', as main or v0.33-h200.")
]
Folder = Annotated[
    Path | None,
    typer.Option(
        "--dir",
        parser=given.path,
        metavar="DIR",
        help="Folder of baselines; default: $VTPROF_BASELINES, else .vtprof/baselines here.",
    ),
]


class Format(StrEnum):
    """Output formats."""

    TERMINAL = "terminal"
    JSON = "json"


Output = Annotated[Format, typer.Option("--format", help="Output format.")]


@app.command("save")
def save(
    name: Name,
    paths: Annotated[
        list[Path],
        typer.Argument(
            parser=given.path,
            metavar="PATH...",
            help="A run each: a folder or file of traces, a request table (CSV, Parquet), a database of"
            " `vtprof analyze --db`, or a baseline's file (all its runs).",
        ),
    ],
    folder: Folder = None,
    add: Annotated[
        bool,
        typer.Option(
            "--add",
            help="Add the runs to a baseline that exists: several runs of one deployment tell its noise from run to run.",
        ),
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Replace a baseline that exists; take runs of other models, engines, devices or settings together.",
        ),
    ] = False,
    note: Annotated[str | None, typer.Option(metavar="TEXT", help="Kept with it and shown.")] = None,
) -> None:
    """Save runs as a baseline: one small file, to commit or to keep with the builds."""
    from vtprof_analyzer.cli.progress import progress_bar, size_of
    from vtprof_analyzer.report.format import counted, safe, size
    from vtprof_analyzer.runs import baselines
    from vtprof_analyzer.runs.read import read_runs

    baselines.check(name, folder, add=add, force=force)
    with progress_bar("reading", lambda: size_of(paths)) as progress:
        runs = [run for path in paths for run in read_runs(path, progress)]
    file = baselines.save(name, runs, folder, add=add, force=force, note=note)
    for run in runs:
        where = safe(run.label)
        if not len(run.requests):
            typer.echo(f"note: {where}: no requests; left out", err=True)
        for reason, left_out in run.skipped.items():
            typer.echo(f"note: {where}: {left_out:,} left out: {safe(reason)}", err=True)
        for line in run.notes:
            typer.echo(f"note: {where}: {safe(line)}", err=True)
    saved = baselines.facts(file)
    typer.echo(
        f"baseline {name}: {counted(len(saved.runs), 'run')}, {counted(saved.requests, 'request')},"
        f" {size(saved.file_bytes)} in {safe(file)}"
    )


@app.command("list")
def list_baselines(folder: Folder = None, format_: Output = Format.TERMINAL) -> None:
    """List the baselines: runs, requests, when saved, and of what."""
    from vtprof_analyzer.runs import baseline_show, baselines

    where = folder or baselines.default_folder()
    found, unreadable = baselines.listed(where)
    if format_ is Format.JSON:
        typer.echo(baseline_show.as_json(baseline_show.list_document(where, found, unreadable)), nl=False)
    else:
        typer.echo(baseline_show.list_text(where, found, unreadable), nl=False)


@app.command("show")
def show(name: Name, folder: Folder = None, format_: Output = Format.TERMINAL) -> None:
    """Show one baseline: its runs, what they took, and how much runs of it differ."""
    from vtprof_analyzer.runs import baseline_show, baselines

    baseline, runs = baselines.read(baselines.named(name, folder))
    if format_ is Format.JSON:
        typer.echo(baseline_show.as_json(baseline_show.show_document(baseline, runs)), nl=False)
    else:
        typer.echo(baseline_show.show_text(baseline, runs), nl=False)


@app.command("remove")
def remove(name: Name, folder: Folder = None) -> None:
    """Remove a baseline's file."""
    from vtprof_analyzer.report.format import safe
    from vtprof_analyzer.runs import baselines

    typer.echo(f"removed {safe(baselines.remove(name, folder))}")
