"""Says once for each change how delivery to a destination goes."""

import logging

from vtprof_agent.diagnosis import NOT_SURE
from vtprof_agent.export.destination import Outcome
from vtprof_agent.export.parcel import Parcel, Signal
from vtprof_agent.export.transport import Answer

logger = logging.getLogger(__name__)


class Report:
    """Remembers what was said of one destination."""

    def __init__(self, target: str, where: str) -> None:
        """Start with nothing said; ``where`` tells where batches wait that cannot be delivered."""
        self._target = target
        self._where = where
        self.problem: str | None = None
        """Why nothing can be delivered at present; None while it can."""
        self._advised = {""}
        """What was advised since something was delivered: a Collector may come up after us, and with another fault."""
        self._refused: str | None = None
        """What was said when a batch of spans was refused."""
        self._metrics_refused = False
        self._rejected = False
        self._sure = True

    def note(self, parcel: Parcel, answer: Answer) -> None:
        """Log what an answer changes."""
        outcome = answer.outcome
        if outcome is Outcome.REFUSED and parcel.signal is Signal.TRACES:
            if answer.reason != self._refused:  # once, not twice a second for as long as it lasts
                self._refused = answer.reason
                logger.error(
                    "%s: refused a batch (%s); dropping and counting those that it refuses: see the Collector's log",
                    self._target,
                    answer.reason,
                )
        elif outcome is Outcome.REFUSED and not self._metrics_refused:
            self._metrics_refused = True
            logger.warning(
                "%s: does not take metric points (%s); dropping and counting them",
                self._target,
                answer.reason,
            )
        elif outcome is Outcome.RETRY and (self.problem is None or answer.advice not in self._advised):
            self._advised.add(answer.advice)
            logger.warning(
                "%s: cannot deliver (%s%s); batches wait %s",
                self._target,
                answer.reason,
                f"; {answer.advice}" if answer.advice else "",
                self._where,
            )
        elif outcome is Outcome.DELIVERED and self.problem is not None:
            logger.info("%s: delivering again", self._target)
            self._advised = {""}
            self._refused = None
        if answer.rejected and not self._rejected:
            self._rejected = True
            logger.warning(
                "%s: took a message but rejected %d of it (%s); said once, counted",
                self._target, answer.rejected, answer.reason,
            )  # fmt: skip
        if not answer.sure and self._sure:
            self._sure = False
            logger.warning("%s: %s; %s", self._target, NOT_SURE.what, NOT_SURE.advice)
        self.problem = answer.reason if outcome is Outcome.RETRY else None
