"""Remembers what a device refused, so that it is asked again only rarely and never ten times a second."""

from typing import Final

SOON_S: Final = 10.0
"""After an error that may pass."""
RARELY_S: Final = 600.0
"""After an answer that only a new driver or new rights change."""


class Refusals:
    """When to ask a device again for something, by device and by what was asked."""

    def __init__(self) -> None:
        """Start with nothing refused."""
        self._again_s: dict[tuple[str, str], float] = {}

    def asks(self, device: str, what: str, now_s: float) -> bool:
        """Tell whether to ask now."""
        return now_s >= self._again_s.get((device, what), now_s)

    def refused(self, device: str, what: str, now_s: float, *, lasting: bool) -> None:
        """Note that it was refused; ``lasting``: it is not offered, or not allowed."""
        self._again_s[device, what] = now_s + (RARELY_S if lasting else SOON_S)

    def forget(self, device: str) -> None:
        """Ask a device for everything again: it is a new one, or has a new driver."""
        for key in [key for key in self._again_s if key[0] == device]:
            del self._again_s[key]
