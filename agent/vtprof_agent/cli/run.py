"""`vtprof-agent run`: follow the rings of a folder until SIGTERM, then write all that was read."""

from vtprof_agent.cli.options import ALL, Given, takes


@takes(*ALL)
def run(given: Given) -> None:
    """Follow the rings until SIGTERM, SIGHUP or Ctrl-C, then write all that was read.

    `vtprof-agent doctor` with the same options says beforehand what is wrong. The exit code is 0 after a stop, and 2 for
    settings that cannot be used.
    """
    import logging

    from vtprof_agent.cli import require_extra
    from vtprof_agent.cli.log_lines import start_logging

    require_extra()
    from vtprof_agent.calibrate_host import measure
    from vtprof_agent.runner import agent
    from vtprof_agent.stopping import stop_on_signals
    from vtprof_schemas.errors import BackendError
    from vtprof_schemas.records import RING_SUFFIX

    chosen = given.settings().config
    start_logging(chosen.log_level, stamped=True)
    stop = stop_on_signals()
    try:
        peaks = measure() if chosen.calibrate_host else {}
    except BackendError:
        if not stop.is_set():
            raise
        peaks = {}  # Ctrl-C in a terminal ends the measuring process as well
    with agent(chosen, peaks) as running:
        if not any(chosen.ring_dir.glob(f"*{RING_SUFFIX}")):
            logging.getLogger(__name__).info(
                "no rings in %s yet: waiting for a process to record there", chosen.ring_dir
            )
        running.run(stop.is_set, stop.wait)
