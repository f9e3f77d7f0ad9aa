"""The `vtprof` command: `main` is the one place where an error of the user's becomes a line and an exit code.

Bugs keep their traceback.
"""

import logging
import os
import sys

from vtprof_schemas.errors import VtprofError


def main() -> None:
    """Run the command line and exit: 0 fine, 1 a finding at or above `--fail-on`, 2 bad input or usage."""
    logging.basicConfig(level=logging.WARNING, format="vtprof: %(levelname)s: %(message)s", stream=sys.stderr)
    try:
        from vtprof_analyzer.cli.app import build_app

        build_app()()
    except VtprofError as error:
        sys.stderr.write(f"vtprof: {error}\n")
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package.startswith("vtprof"):
            raise
        # An installation without dependencies, such as the agent's image.
        sys.stderr.write(f"vtprof: the package {package} is missing: pip install vtprof\n")
        sys.exit(VtprofError.exit_code)
    except BrokenPipeError:
        # The reader (head, less) has gone: no traceback, and none at exit when stdout is flushed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
