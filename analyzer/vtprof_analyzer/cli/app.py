"""The commands of `vtprof`: a table of contents. Each is a module with one ``command``, or an ``app`` of several."""

import importlib
from importlib import metadata
from typing import Annotated, Final

import typer

COMMANDS: Final = {
    "analyze": "vtprof_analyzer.cli.analyze",
    "demo": "vtprof_analyzer.cli.demo",
    "rules": "vtprof_analyzer.cli.rules",
}
"""Command to module, in the order of `--help`. A module imports nothing heavy before its command runs."""


def build_app() -> typer.Typer:
    """Return the command line with every command of the table."""
    # Rich panels in --help would cost more time than everything else together.
    app = typer.Typer(
        name="vtprof",
        help="Profiler for vision-language model inference: what visual tokens cost, phase by phase.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    app.callback()(_root)
    for name, path in COMMANDS.items():
        module = importlib.import_module(path)
        if hasattr(module, "app"):
            app.add_typer(module.app, name=name)
        else:
            app.command(name)(module.command)
    return app


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"vtprof {metadata.version('vtprof')}")
        raise typer.Exit


def _root(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
