"""`vtprof-agent attach PID`: bring the probe into a running server, and follow it if wanted."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vtprof_agent.cli.options import ConfigFile, Metrics, OtlpEndpoint, Out, RingDir

if TYPE_CHECKING:
    from vtprof_agent.attach.attaching import Options
    from vtprof_agent.attach.outcome import Outcome
    from vtprof_agent.config import Config

logger = logging.getLogger(__name__)
Pid = Annotated[
    int, typer.Argument(metavar="PID", min=1, help="A Python process, such as the server's first.")
]
Children = Annotated[bool, typer.Option("--children/--no-children", help="Also all processes below it.")]
StageDir = Annotated[
    Path | None,
    typer.Option(
        "--stage-dir",
        help="Folder, as the process sees it, to hand the probe over in; else /tmp, /dev/shm or /var/tmp.",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")]
Timeout = Annotated[float, typer.Option("--timeout", min=0.0, help="Seconds to wait for each process.")]
Format = Annotated[Literal["text", "json"], typer.Option("--format", help="text or json.")]
NEXT = "records go to {folder}: `vtprof-agent run --ring-dir {folder}` exports them, `vtprof-agent detach {pid}` ends it"


def attach(
    pid: Pid,
    ring_dir: RingDir = None,
    stage_dir: StageDir = None,
    children: Children = True,
    dry_run: DryRun = False,
    timeout: Timeout = 10.0,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow", help="Export until Ctrl-C or the end of the processes, then detach; implied by --out."
        ),
    ] = False,
    out: Out = None,
    otlp_endpoint: OtlpEndpoint = None,
    metrics: Metrics = None,
    config: ConfigFile = None,
    format_: Format = "text",
) -> None:
    """Bring the probe into a running Python server and its Python children, without a restart.

    Exit code 2 if a process could not be attached to; the others of the tree are.
    """
    from vtprof_agent.attach.attaching import Options
    from vtprof_agent.attach.attaching import attach as attach_tree
    from vtprof_agent.attach.outcome import ATTACHED, FAILED
    from vtprof_agent.cli import require_extra
    from vtprof_agent.cli.options import settings

    following = (follow or any((out, otlp_endpoint, metrics))) and not dry_run
    if following:
        require_extra()
    chosen = settings(out, otlp_endpoint, ring_dir, metrics, config).config
    options = Options(
        chosen.ring_dir.absolute(),
        stage_dir.absolute() if stage_dir else None,
        children,
        dry_run,
        timeout,
    )
    outcomes = attach_tree(pid, options)
    show(outcomes, options.ring_dir, format_)
    attached = [outcome.pid for outcome in outcomes if outcome.result == ATTACHED]
    if attached and following:
        _follow(chosen, attached, options)
    elif attached and format_ == "text":
        typer.echo(NEXT.format(folder=options.ring_dir, pid=pid))
    if any(outcome.result == FAILED for outcome in outcomes):
        raise typer.Exit(2)


def show(outcomes: "list[Outcome]", ring_dir: Path, format_: str) -> None:
    """Print what became of each process: failures to stderr."""
    import json

    from vtprof_agent.attach.outcome import FAILED

    if format_ == "json":
        document = {
            "schema_version": 1,
            "ring_dir": str(ring_dir),
            "processes": [outcome.document() for outcome in outcomes],
        }
        typer.echo(json.dumps(document, indent=2))
        return
    for outcome in outcomes:
        failed = outcome.result == FAILED
        typer.echo(("vtprof-agent: " if failed else "") + outcome.line(), err=failed)


def _follow(chosen: "Config", pids: list[int], options: "Options") -> None:
    """Run the agent until a signal or the end of all processes, then detach and write all that was read."""
    import dataclasses
    import signal
    import threading

    from vtprof_agent.attach.detaching import detach
    from vtprof_agent.attach.outcome import FAILED
    from vtprof_agent.attach.processes import alive, read_process
    from vtprof_agent.attach.refusal import Refused
    from vtprof_agent.cli.options import start_logging
    from vtprof_agent.runner import agent

    start_logging(chosen.log_level)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # nohup's is to stay
            signal.signal(number, lambda *_: stop.set())
    processes = []
    for pid in pids:
        try:
            processes.append(read_process(pid))
        except Refused:
            continue  # it has ended; its ring is read all the same
    with agent(chosen, {}) as running:
        try:
            running.follow(lambda: stop.is_set() or not any(map(alive, processes)), stop.wait)
        finally:
            for process in filter(alive, processes):
                try:
                    for outcome in detach(process.pid, dataclasses.replace(options, children=False)):
                        if outcome.result == FAILED:
                            logger.warning("%s", outcome.line())
                except Refused as error:
                    logger.warning("%s", error)
            running.stop()
