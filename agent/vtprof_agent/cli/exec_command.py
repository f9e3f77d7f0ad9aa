"""`vtprof-agent exec -- CMD`: run a command with the probe in it and the agent beside it."""

import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from vtprof_agent.cli.options import ALL, Given, takes

logger = logging.getLogger(__name__)
NOT_LOADED = (
    "nothing was recorded: as far as can be told no process of this command loaded the probe: none imported vLLM, SGLang or"
    " transformers, or its Python ran without the PYTHONPATH that it was given (-I, -E, an environment of its own)"
)
NOT_SERVED = (
    "nothing was recorded: the probe was loaded, but no process of this command served a request with vLLM or SGLang,"
    " nor ran a transformers model with an image, video or audio encoder"
)
STILL_RUNNING = "processes of this command still run (PID %s): what they record from now on is not kept"


@takes(*ALL)
def exec_(
    command: Annotated[
        list[str], typer.Argument(metavar="-- CMD", help="The command to run and its arguments.")
    ],
    given: Given,
) -> None:
    """Run a command with the probe in its Python processes, follow it, and return its exit code."""
    import dataclasses
    import os
    import time
    from contextlib import ExitStack
    from functools import partial

    from vtprof_agent.cli import require_extra
    from vtprof_agent.cli.log_lines import start_logging

    require_extra()
    from vtprof_agent.calibrate_host import measure
    from vtprof_agent.child import Child, leave_on_signals, require_command
    from vtprof_agent.config import ORIGIN_DEFAULT
    from vtprof_agent.private_rings import private_rings
    from vtprof_agent.runner import agent
    from vtprof_agent.staging import child_environment, stage

    merged = given.settings()
    chosen = merged.config
    require_command(command[0])
    start_logging(chosen.log_level)
    leave_on_signals()
    with ExitStack() as stack:
        own_rings = merged.origins["ring_dir"] == ORIGIN_DEFAULT
        if own_rings:
            # A folder of its own: the rings of other processes on this machine are not this command's.
            chosen = dataclasses.replace(chosen, ring_dir=stack.enter_context(private_rings()))
        # A process that outlives the command may still import from there while it is removed.
        staged = Path(
            stack.enter_context(
                tempfile.TemporaryDirectory(prefix="vtprof-probe-", ignore_cleanup_errors=True)
            )
        )
        stage(staged)
        peaks = measure() if chosen.calibrate_host else {}
        running = stack.enter_context(agent(chosen, peaks))
        rings = chosen.ring_dir.absolute()
        logger.info("the processes' rings are in %s: `vtprof-agent status` shows them", rings)
        child = Child(command, child_environment(staged, rings, dict(os.environ)))
        # From here on the command is what counts: a failure of ours must not end it, nor speak in its place.
        sound = _survives(partial(running.follow, child.ended, time.sleep))
        code = child.exit_code()
        stack.callback(_survives, stack.pop_all().close)
        sound &= _survives(partial(running.stop, last=own_rings))
        if own_rings and running.living:
            logger.warning(STILL_RUNNING, ", ".join(map(str, running.living)))
        if sound and running.records_read == 0:
            # Byte code that Python left beside the probe tells of an import where no ring does.
            loaded = running.rings_met or any(staged.glob("vtprof_probe/__pycache__"))
            logger.warning(NOT_SERVED if loaded else NOT_LOADED)
    raise typer.Exit(code)


def _survives(step: Callable[[], object]) -> bool:
    """Run a step of the agent; say in one line that it failed and return False, rather than fail."""
    try:
        step()
    except Exception as error:
        logger.error("the agent failed and records no more of this command: %r", error)
        logger.debug("where it failed", exc_info=error)
        return False
    return True
