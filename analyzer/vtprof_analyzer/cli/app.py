"""The commands of `vtprof`: a table of contents. Each is a module with one ``command``, or an ``app`` of several."""

import importlib
from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer

from vtprof_schemas.errors import ConfigError

COMMANDS: Final = {
    "analyze": "vtprof_analyzer.cli.analyze",
    "compare": "vtprof_analyzer.cli.compare",
    "watch": "vtprof_analyzer.cli.watch",
    "baseline": "vtprof_analyzer.cli.baseline",
    "demo": "vtprof_analyzer.cli.demo",
    "tokens": "vtprof_analyzer.cli.tokens",
    "estimate": "vtprof_analyzer.cli.estimate",
    "rules": "vtprof_analyzer.cli.rules",
    "calibrate": "vtprof_analyzer.cli.calibrate",
}
"""Command to module, in the order of `--help`. A module imports nothing heavy before its command runs."""


_UsageError: Final[Any] = typer.BadParameter.__mro__[1]
"""Base of all usage errors; typer exports it under no name of its own."""
_LONGEST_MESSAGE: Final = 300


def build_app() -> typer.Typer:
    """Return the command line with every command of the table."""
    # Rich panels in --help would cost more time than everything else together.
    app = typer.Typer(
        name="vtprof",
        help="Profiler for vision-language model inference: what visual tokens cost, phase by phase.",
        context_settings={"help_option_names": ["-h", "--help"]},
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
            app.command(name, cls=getattr(module, "Command", None))(module.command)
    return app


def run(words: Sequence[str]) -> int:
    """Run the command line and return its exit code. A usage error is a ConfigError of one line."""
    command = typer.main.get_command(build_app())
    try:
        # What a command's `main` does, without its own lines and exit codes for errors (broken pipes give 1 there).
        with command.make_context("vtprof", list(words), obj=tuple(words)) as context:
            command.invoke(context)
    except typer.Exit as ended:
        return ended.exit_code
    except _UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()
            return ConfigError.exit_code
        where = error.ctx.command_path if error.ctx else "vtprof"
        message = " ".join(error.format_message().split()).rstrip(".")
        raise ConfigError(f"{message[:_LONGEST_MESSAGE]}; see {where} --help") from error
    return 0


def _version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata  # slower to load than all of the command line

        typer.echo(f"vtprof {metadata.version('vtprof')}")
        raise typer.Exit


def _root(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
