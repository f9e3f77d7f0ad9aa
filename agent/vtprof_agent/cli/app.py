"""The commands of `vtprof-agent`, one module each."""

from importlib import metadata
from typing import Annotated

import typer

from vtprof_agent.cli import attach, detach, doctor, exec_command, run, stage, status

app = typer.Typer(
    name="vtprof-agent",
    help="The sidecar of vtprof: follows the rings of inference processes and exports OpenTelemetry spans and metrics.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # panels in --help would cost more than the rest of it
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(run.run)
app.command("exec", context_settings={"allow_interspersed_args": False})(exec_command.exec_)
app.command("attach", cls=attach.PidCommand)(attach.attach)
app.command("detach", cls=attach.PidCommand)(detach.detach)
app.command("stage")(stage.stage)
app.command("status")(status.status)
app.command("doctor")(doctor.doctor)


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
