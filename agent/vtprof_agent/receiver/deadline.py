"""A connection read against a deadline for all reads together, however slowly its bytes drip."""

import io
import socket
import time
from typing import Any


class DeadlineReader(io.RawIOBase):
    """The receiving side of a connection; after the deadline reads raise TimeoutError."""

    def __init__(self, connection: socket.socket) -> None:
        """Read from a connection, which stays the caller's to close; ``allow`` must come before the first read."""
        self._connection = connection
        self._deadline = 0.0
        self.expired = False
        """Whether a read came to the deadline since it was set."""

    def allow(self, seconds: float) -> None:
        """Set the deadline of what is read from now on."""
        self._deadline = time.monotonic() + seconds
        self.expired = False

    def left(self) -> float:
        """Return the seconds until the deadline, at least 0."""
        return max(0.0, self._deadline - time.monotonic())

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what is there; raises TimeoutError."""
        left = self.left()
        try:
            if not left:
                raise TimeoutError("not sent in time")
            self._connection.settimeout(left)
            return self._connection.recv_into(buffer)
        except TimeoutError:
            self.expired = True
            raise
