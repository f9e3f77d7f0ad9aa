"""`vtprof-agent attach PID`: bring the probe into a running server, and follow it if wanted."""

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from vtprof_agent.cli.options import FOLLOWING, Given, path_option, takes
from vtprof_schemas.errors import ConfigError

if TYPE_CHECKING:
    from vtprof_agent.attach.outcome import Outcome

logger = logging.getLogger(__name__)
Pid = Annotated[
    int, typer.Argument(metavar="PID", min=1, help="A Python process, such as the server's first.")
]
Children = Annotated[bool, typer.Option("--children/--no-children", help="Also all processes below it.")]
StageDir = Annotated[
    Path | None,
    path_option(
        "--stage-dir",
        help="Folder, as the process sees it, to hand the probe over in; else /tmp, /dev/shm or /var/tmp.",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")]
Timeout = Annotated[float, typer.Option("--timeout", min=0.0, help="Seconds to wait for each process.")]
Format = Annotated[Literal["text", "json"], typer.Option("--format", help="text or json.")]


class PidCommand(TyperCommand):
    """A command on a PID: a negative one would be read as an option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse; raises ConfigError."""
        for before, argument in zip(["", *args], args, strict=False):
            if re.fullmatch(r"-\d+", argument) and before != "--timeout":
                raise ConfigError(
                    f"PID {argument}: no process has it; give the PID of a running Python process"
                )
        return super().parse_args(ctx, args)


NEXT = (
    "records go to {folder}: `vtprof-agent run --ring-dir {folder} --out traces` exports them,"
    " `vtprof-agent detach {pid}` ends it"
)


@takes(*FOLLOWING)
def attach(
    pid: Pid,
    given: Given,
    stage_dir: StageDir = None,
    children: Children = True,
    dry_run: DryRun = False,
    timeout: Timeout = 10.0,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow",
            help="Export until Ctrl-C or the end of the processes, then detach; --out, --otlp-endpoint and --metrics"
            " imply it.",
        ),
    ] = False,
    format_: Format = "text",
) -> None:
    """Bring the probe into a running Python server and its Python children, without a restart.

    Exit code 2 if a process could not be attached to; the others of the tree are.
    """
    from contextlib import ExitStack

    from vtprof_agent.attach.attaching import Options
    from vtprof_agent.attach.attaching import attach as attach_tree
    from vtprof_agent.attach.outcome import ATTACHED, FAILED
    from vtprof_agent.cli import require_extra
    from vtprof_agent.cli.log_lines import start_logging
    from vtprof_agent.config import ORIGIN_DEFAULT
    from vtprof_agent.stopping import Interrupted, stop_on_signals

    destinations = (given.flags[name] for name in ("out_dir", "otlp_endpoint", "metrics"))
    following = (follow or any(destinations)) and not dry_run
    if following:
        require_extra()
    merged = given.settings()
    folder = merged.config.ring_dir.absolute()
    stage = stage_dir.absolute() if stage_dir else None
    options = Options(folder, stage, children, dry_run, timeout)
    with ExitStack() as stack:
        if following:
            from vtprof_agent.attach.session import prepared

            start_logging(merged.config.log_level)
            stop = stop_on_signals()
            own_rings = merged.origins["ring_dir"] == ORIGIN_DEFAULT
            session = stack.enter_context(prepared(pid, merged.config, options, own_rings))
            outcomes = session.attach(pid)
            show(outcomes, session.options.ring_dir, format_)
            if any(outcome.result == ATTACHED for outcome in outcomes):
                for outcome in session.follow(stop):
                    if format_ == "text":
                        say(outcome)
                    elif outcome.result == FAILED:
                        logger.warning("%s", outcome.line())
        else:
            try:
                outcomes = attach_tree(pid, options)
            except KeyboardInterrupt as error:
                left = f"some processes may be attached to: `vtprof-agent detach {pid}` ends that"
                raise Interrupted("" if dry_run else left) from error
            show(outcomes, folder, format_)
            if format_ == "text" and any(outcome.result == ATTACHED for outcome in outcomes):
                typer.echo(NEXT.format(folder=folder, pid=pid))
    if any(outcome.result == FAILED for outcome in outcomes):
        raise typer.Exit(2)


def show(outcomes: "list[Outcome]", ring_dir: Path, format_: str) -> None:
    """Print what became of each process: failures to stderr."""
    import json

    from vtprof_agent.attach.execution import RESOURCE_TRACKER

    if format_ == "json":
        document = {
            "schema_version": 1,
            "ring_dir": str(ring_dir),
            "processes": [outcome.document() for outcome in outcomes],
        }
        typer.echo(json.dumps(document, indent=2))
        return
    for outcome in outcomes:
        if outcome.reason != RESOURCE_TRACKER:  # each server has one, and nobody would look for it
            say(outcome)


def say(outcome: "Outcome") -> None:
    """Print what became of a process: a failure to stderr."""
    from vtprof_agent.attach.outcome import FAILED

    failed = outcome.result == FAILED
    typer.echo(("vtprof-agent: " if failed else "") + outcome.line(), err=failed)
