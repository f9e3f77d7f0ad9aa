"""The commands of `vtprof-agent`, one module each."""

from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from vtprof_agent.cli import attach, detach, doctor, exec_command, stage, status
from vtprof_agent.cli import run as run_command
from vtprof_agent.cli.options import EPILOG
from vtprof_agent.stopping import Interrupted
from vtprof_schemas.errors import ConfigError

_UsageError: Final[Any] = typer.BadParameter.__mro__[1]
"""Base of all usage errors; typer exports it under no name of its own."""
_LONGEST_MESSAGE: Final = 300


class _Group(TyperGroup):
    """All commands: typer itself would make an exit code of Ctrl-C, and nothing would be said."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that is named; raises Interrupted."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Interrupted from error


app = typer.Typer(
    name="vtprof-agent",
    cls=_Group,
    help="The sidecar of vtprof: follows the rings of inference processes and exports OpenTelemetry spans and metrics.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # panels in --help would cost more than the rest of it
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_IN_LIST: Final = {
    "run": "Follow the rings and export, until SIGTERM or Ctrl-C.",
    "exec": "Run a command with the probe in it, and export meanwhile.",
    "attach": "Bring the probe into a running Python server.",
    "detach": "Take the probe out of a running server.",
    "stage": "Copy the probe to a folder, such as a shared volume.",
    "status": "Show the live agent and the rings, and what was lost.",
    "doctor": "Say what this node offers, and what is wrong.",
}
"""What a command does, short enough for the list of commands."""


def _add(name: str, command: Callable[..., None], **more: Any) -> None:
    app.command(name, short_help=_IN_LIST[name], **more)(command)


_add("run", run_command.run, epilog=EPILOG)
_add("exec", exec_command.exec_, epilog=EPILOG, context_settings={"allow_interspersed_args": False})
_add("attach", attach.attach, cls=attach.PidCommand)
_add("detach", detach.detach, cls=attach.PidCommand)
_add("stage", stage.stage)
_add("status", status.status)
_add("doctor", doctor.doctor, epilog=EPILOG)


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
