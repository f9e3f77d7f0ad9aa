"""The log lines of the commands, on stderr: for a terminal, stamped for a log file, or as the systemd journal wants them."""

import logging
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

_PLAIN: Final = "vtprof-agent: %(message)s"
_STAMPED: Final = "%(asctime)s %(levelname)s " + _PLAIN
_PRIORITIES: Final = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
"""From this level on the priority of sd-daemon(3)."""
_DEBUG: Final = 7


class _Stamped(logging.Formatter):
    """Begins with the time in ISO 8601, UTC, and the level."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002, N802
        """Return the time of a record."""
        return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


class _Journal(logging.Formatter):
    """Begins each line with its priority; the journal stamps it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record, a traceback with the priority before each of its lines."""
        priority = next((found for level, found in _PRIORITIES if record.levelno >= level), _DEBUG)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).split("\n"))


def start_logging(level: str, *, stamped: bool | None = None) -> None:
    """Send log lines to stderr; the exporters' own stay out, their failures are counted and said once by us.

    ``stamped``: they say when they were written, and how grave they are; None: unless stderr is a terminal, where
    somebody looks on.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_formatter(not sys.stderr.isatty() if stamped is None else stamped, os.environ))
    logging.basicConfig(handlers=[handler], level=level.upper())
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    logging.getLogger("urllib3").setLevel(logging.CRITICAL)


def _formatter(stamped: bool, environment: Mapping[str, str]) -> logging.Formatter:
    if not stamped:
        return logging.Formatter(_PLAIN)
    return _Journal(_PLAIN) if _in_journal(environment) else _Stamped(_STAMPED)


def _in_journal(environment: Mapping[str, str]) -> bool:
    """Tell whether stderr is the journal's: systemd names its device and inode, so that a redirection is noticed."""
    try:
        status = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
