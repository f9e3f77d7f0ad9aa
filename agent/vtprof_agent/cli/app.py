"""The commands of `vtprof-agent`, one module each."""

import typer

from vtprof_agent.cli import doctor, exec_command, run, stage, status

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
app.command("stage")(stage.stage)
app.command("status")(status.status)
app.command("doctor")(doctor.doctor)
