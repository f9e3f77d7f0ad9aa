"""`vtprof-agent detach PID`: take the probe out of a running server."""

import typer

from vtprof_agent.cli.attach import Children, DryRun, Format, Pid, StageDir, Timeout, show
from vtprof_agent.cli.options import Given, takes


@takes("ring_dir")
def detach(
    pid: Pid,
    given: Given,
    stage_dir: StageDir = None,
    children: Children = True,
    dry_run: DryRun = False,
    timeout: Timeout = 10.0,
    format_: Format = "text",
) -> None:
    """Restore every patched method of a server and its children, and end their recordings.

    Exit code 2 if a process could not be detached from, or none was attached.
    """
    from vtprof_agent.attach.attaching import Options
    from vtprof_agent.attach.detaching import detach as detach_tree
    from vtprof_agent.attach.outcome import FAILED
    from vtprof_agent.stopping import Interrupted

    folder = given.settings().config.ring_dir.absolute()
    stage = stage_dir.absolute() if stage_dir else None
    try:
        outcomes = detach_tree(pid, Options(folder, stage, children, dry_run, timeout))
    except KeyboardInterrupt as error:
        raise Interrupted("" if dry_run else "some processes may still record: run it again") from error
    show(outcomes, folder, format_)
    if any(outcome.result == FAILED for outcome in outcomes):
        raise typer.Exit(2)
