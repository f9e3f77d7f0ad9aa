"""The `vtprof` command: `main` is the one place where an error of the user's becomes a line and an exit code.

Bugs keep their traceback.
"""

import errno
import io
import os
import sys
import traceback
from typing import Final

from vtprof_analyzer.interrupts import Interrupted, is_interrupt, watch_ctrl_c
from vtprof_schemas.errors import VtprofError
from vtprof_schemas.printable import one_line

INTERRUPTED: Final = 130
"""What shells expect of a program that Ctrl-C ended."""
_LONGEST_LINE: Final = 400
_ENVIRONMENT: Final = frozenset(
    {
        errno.EACCES,
        errno.EPERM,
        errno.ENAMETOOLONG,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EROFS,
        errno.EFBIG,
        errno.EMFILE,
    }
)
"""What the system refuses whatever the program does; any other OSError that nobody caught is a bug."""


def main() -> None:
    """Run the command line and exit: 0 fine, 1 a finding at or above `--fail-on`, 2 bad input or usage, 130 Ctrl-C.

    A bug prints its traceback and exits 2 as well: there is no report, and 1 would tell a script of a finding.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A report holds characters that LC_ALL=C or latin-1 have not, and paths that are no UTF-8.
        sys.stdout.reconfigure(errors="replace")
    # Our matrices are small: numpy's threads would wait for each other, and take cores from what runs beside.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    watch_ctrl_c()
    try:
        from vtprof_analyzer.cli.app import run

        code = run(sys.argv[1:])
        if sys.stdout is not None:
            sys.stdout.flush()
    except VtprofError as error:
        code = _say(str(error), error.exit_code)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        # A missing package of others: an installation without dependencies, such as the agent's image.
        ours = package.startswith("vtprof")
        code = _crash() if ours else _say(f"the package {package} is missing: pip install vtprof")
    except Interrupted as error:
        code = _say(f"interrupted; {error}", INTERRUPTED)
    except KeyboardInterrupt:
        code = _say("interrupted", INTERRUPTED)
    except BrokenPipeError:
        # The reader (head, less) has gone: no traceback, and none at exit when stdout is flushed.
        _discard_stdout()
        code = 0
    except OSError as error:
        if error.errno not in _ENVIRONMENT:
            code = _crash()
        else:
            _discard_stdout()
            code = _say(f"{error.filename or 'output'}: {error.strerror}; free space, or give another place")
    except Exception as error:
        code = _say("interrupted", INTERRUPTED) if is_interrupt(error) else _crash()
    sys.exit(code)


def _say(message: str, code: int = VtprofError.exit_code) -> int:
    """Print an error, with control characters spelled out and long lines cut, and return the exit code."""
    lines = [
        line if len(line) <= _LONGEST_LINE else line[:_LONGEST_LINE] + "…" for line in message.split("\n")
    ]
    shown = "\n".join(one_line(line) for line in lines)
    if sys.stderr is not None:
        sys.stderr.write(f"vtprof: {shown}\n")
    return code


def _crash() -> int:
    traceback.print_exc()
    return VtprofError.exit_code


def _discard_stdout() -> None:
    """Send what is left in stdout's buffer nowhere: writing it at exit would fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
