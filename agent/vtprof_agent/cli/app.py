"""The commands of `vtprof-agent`, one module each."""

from collections.abc import Sequence
from importlib import metadata
from typing import Annotated, Any, Final

import typer

from vtprof_agent.cli import attach, detach, doctor, exec_command, stage, status
from vtprof_agent.cli import run as run_command
from vtprof_agent.cli.options import EPILOG
from vtprof_schemas.errors import ConfigError

_UsageError: Final[Any] = typer.BadParameter.__mro__[1]
"""Base of all usage errors; typer exports it under no name of its own."""
_LONGEST_MESSAGE: Final = 300

app = typer.Typer(
    name="vtprof-agent",
    help="The sidecar of vtprof: follows the rings of inference processes and exports OpenTelemetry spans and metrics.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # panels in --help would cost more than the rest of it
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run", epilog=EPILOG)(run_command.run)
app.command("exec", epilog=EPILOG, context_settings={"allow_interspersed_args": False})(exec_command.exec_)
app.command("attach", cls=attach.PidCommand)(attach.attach)
app.command("detach", cls=attach.PidCommand)(detach.detach)
app.command("stage")(stage.stage)
app.command("status")(status.status)
app.command("doctor", epilog=EPILOG)(doctor.doctor)


def run(words: Sequence[str]) -> int:
    """Run the command line and return its exit code. A usage error is a ConfigError of one line."""
    try:
        code = typer.main.get_command(app).main(list(words), "vtprof-agent", standalone_mode=False)
    except _UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()
            return ConfigError.exit_code
        where = error.ctx.command_path if error.ctx else "vtprof-agent"
        message = " ".join(error.format_message().split()).rstrip(".")
        raise ConfigError(f"{message[:_LONGEST_MESSAGE]}; see {where} --help") from error
    return code if isinstance(code, int) else 0


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"vtprof-agent {metadata.version('vtprof')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    del version  # its callback has answered
