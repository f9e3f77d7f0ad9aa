"""The `vtprof` command: a table of contents. Each command is a module with one ``command``, or an ``app`` of several.

`main` is the one place where an error of the user's becomes a line and an exit code; bugs keep their traceback.
"""

import importlib
import logging
import os
import sys
from importlib import metadata
from typing import Annotated, Final

import typer

from vtprof_schemas.errors import VtprofError

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


def main() -> None:
    """Run the command line and exit: 0 fine, 1 a finding at or above `--fail-on`, 2 bad input or usage."""
    logging.basicConfig(level=logging.WARNING, format="vtprof: %(levelname)s: %(message)s", stream=sys.stderr)
    try:
        build_app()()
    except VtprofError as error:
        typer.echo(f"vtprof: {error}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader (head, less) has gone: no traceback, and none at exit when stdout is flushed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
