"""`vtprof-agent status`: the rings of this node and how far they were read."""

from typing import Annotated, Literal

import typer

from vtprof_agent.cli.options import ConfigFile, RingDir


def status(
    ring_dir: RingDir = None,
    config: ConfigFile = None,
    format_: Annotated[Literal["text", "json"], typer.Option("--format", help="text or json.")] = "text",
) -> None:
    """Show the rings of this node: process, engine, hooks, records read and lost."""
    import json

    from vtprof_agent.cli import require_extra
    from vtprof_agent.cli.options import settings

    require_extra()
    from vtprof_agent.rings_report import look

    folder = settings(ring_dir=ring_dir, config=config).config.ring_dir
    rings, problems = look(folder)
    if format_ == "json":
        document = {
            "ring_dir": str(folder),
            "rings": [ring.document() for ring in rings],
            "problems": problems,
        }
        typer.echo(json.dumps(document, indent=2))
        return
    if not rings:
        typer.echo(f"no rings in {folder}: no process with an active probe uses this folder")
    for ring in rings:
        typer.echo(ring.text())
    for problem in problems:
        typer.echo(problem, err=True)
