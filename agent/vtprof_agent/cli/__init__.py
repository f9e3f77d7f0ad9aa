"""The command `vtprof-agent`: a table of contents, and the one place where an error becomes a line and an exit code."""

import sys
from importlib.util import find_spec

INTERRUPTED = 130
REQUIRED = ("opentelemetry.sdk", "opentelemetry.exporter.otlp", "prometheus_client", "psutil")


def main() -> None:
    """Run the command line; exit code 2 and one line on stderr for what the user can repair, 130 after Ctrl-C."""
    from vtprof_agent.stopping import Interrupted
    from vtprof_schemas.errors import VtprofError

    try:
        if find_spec("typer") is None:
            require_extra()
        from vtprof_agent.cli.app import run

        sys.exit(run(sys.argv[1:]))
    except VtprofError as error:
        sys.stderr.write(f"vtprof-agent: {error}\n")
        sys.exit(error.exit_code)
    except (Interrupted, KeyboardInterrupt) as interrupt:
        left = f"; {interrupt}" if str(interrupt) else ""
        sys.stderr.write(f"vtprof-agent: interrupted{left}\n")
        sys.exit(INTERRUPTED)


def require_extra() -> None:
    """Raise BackendError when the packages of the extra ``agent`` are missing."""
    from vtprof_schemas.errors import BackendError

    for module in REQUIRED:
        try:
            found = find_spec(module) is not None
        except ModuleNotFoundError:
            found = False
        if not found:
            raise BackendError(f"the package {module} is missing: pip install 'vtprof[agent]'")
