"""`vtprof-agent exec -- CMD`: run a command with the probe in it and the agent beside it."""

from typing import Annotated

import typer

from vtprof_agent.cli.options import CalibrateHost, ConfigFile, Metrics, OtlpEndpoint, Out, RingDir


def exec_(
    command: Annotated[
        list[str], typer.Argument(metavar="-- CMD", help="The command to run and its arguments.")
    ],
    out: Out = None,
    otlp_endpoint: OtlpEndpoint = None,
    ring_dir: RingDir = None,
    metrics: Metrics = None,
    config: ConfigFile = None,
    calibrate_host: CalibrateHost = None,
) -> None:
    """Run a command with the probe in its Python processes, follow it, and return its exit code."""
    import dataclasses
    import os
    import tempfile
    import time
    from contextlib import ExitStack
    from pathlib import Path

    from vtprof_agent.cli import require_extra
    from vtprof_agent.cli.options import settings, start_logging

    require_extra()
    from vtprof_agent.calibrate_host import measure
    from vtprof_agent.child import Child
    from vtprof_agent.config import ORIGIN_DEFAULT
    from vtprof_agent.runner import agent
    from vtprof_agent.staging import child_environment, stage

    merged = settings(out, otlp_endpoint, ring_dir, metrics, config, calibrate_host)
    chosen = merged.config
    start_logging(chosen.log_level)
    with ExitStack() as stack:
        if merged.origins["ring_dir"] == ORIGIN_DEFAULT:
            # A folder of its own: the rings of other processes on this machine are not this command's.
            shared_memory = Path("/dev/shm")
            base = shared_memory if os.access(shared_memory, os.W_OK | os.X_OK) else None
            private = stack.enter_context(tempfile.TemporaryDirectory(prefix="vtprof-", dir=base))
            chosen = dataclasses.replace(chosen, ring_dir=Path(private))
        staged = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vtprof-probe-")))
        stage(staged)
        peaks = measure() if chosen.calibrate_host else {}
        running = stack.enter_context(agent(chosen, peaks))
        rings = chosen.ring_dir.absolute()
        child = Child(command, child_environment(staged, rings, dict(os.environ)))
        running.run(child.ended, time.sleep)
        code = child.exit_code()
    raise typer.Exit(code)
