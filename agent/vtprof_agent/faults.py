"""Counts the faults of the agent's own that it survives, and says each kind of them once."""

import logging
from collections.abc import Callable

logger = logging.getLogger(__name__)
MOST_SAID = 1000


class Faults:
    """One count for the whole agent."""

    def __init__(self) -> None:
        """Start at none."""
        self.count = 0
        self._said: set[str] = set()

    def note(self, what: str, error: Exception) -> None:
        """Count a fault; say ``what`` failed the first time. What is not the machine's doing keeps its traceback."""
        self.count += 1
        if what in self._said or len(self._said) >= MOST_SAID:
            return
        self._said.add(what)
        expected = isinstance(error, OSError)
        logger.error("%s failed: %s; going on", what, error if expected else repr(error))
        if not expected:
            logger.debug("where it failed", exc_info=error)

    def guard(self, what: str, step: Callable[[], object]) -> None:
        """Run a step whose failure must not end the agent."""
        try:
            step()
        except Exception as error:
            self.note(what, error)
