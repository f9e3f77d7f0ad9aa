"""Room for connections and unread bodies, both bounded: who has kept it waiting longest goes when another needs it."""

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

LINGER_S: Final = 0.5
"""A connection that has kept us waiting for so long may be closed for another; exporters send within milliseconds."""
YIELD_S: Final = 0.5
"""How long its room is waited for."""


class Room:
    """The connections of a server and the bytes of their bodies that are not parsed yet."""

    def __init__(
        self,
        max_connections: int,
        max_bytes: int = 0,
        clock: Callable[[], float] = time.monotonic,
        linger_s: float | None = None,
    ) -> None:
        """Start empty; ``linger_s`` is ``LINGER_S`` unless given."""
        self._max_connections, self._max_bytes = max_connections, max_bytes
        self._clock, self._linger_s = clock, LINGER_S if linger_s is None else linger_s
        self._free = threading.Condition()
        self._connections = 0
        self._bytes = 0
        self._waiting: dict[int, tuple[float, socket.socket]] = {}
        """By thread since when its sender has kept us waiting, in the order of that, and the connection's second name:
        with TLS the socket that was accepted is no more, and a number alone might mean another connection by then."""

    def enter(self) -> bool:
        """Take a place for a connection; False: there is none, and nobody lingers."""
        with self._free:
            if self._make(lambda: self._connections < self._max_connections):
                self._connections += 1
                return True
            return False

    def leave(self) -> None:
        """Give the place back."""
        with self._free:
            self._connections -= 1
            self._free.notify_all()

    def await_sender(self, connection: socket.socket) -> None:
        """Note that from now on it is the sender who keeps this thread waiting."""
        self.no_longer()
        with suppress(OSError):  # of which it is told when it reads
            again = socket.socket(fileno=os.dup(connection.fileno()))  # an SSLSocket has no dup()
            with self._free:
                self._waiting[threading.get_ident()] = (self._clock(), again)

    def no_longer(self) -> None:
        """Note that the sender has sent, or that it is over."""
        with self._free:
            waited = self._waiting.pop(threading.get_ident(), None)
        if waited is not None:
            waited[1].close()

    def hold(self, size: int) -> bool:
        """Take room for so many bytes; False: there is none, and nobody lingers."""
        with self._free:
            if self._make(lambda: self._bytes + size <= self._max_bytes):
                self._bytes += size
                return True
            return False

    def release(self, size: int) -> None:
        """Give it back."""
        with self._free:
            self._bytes -= size
            self._free.notify_all()

    def _make(self, enough: Callable[[], bool]) -> bool:
        """Wait until there is enough, for which the one who has lingered longest is disconnected, once."""
        if enough():
            return True
        longest = next(iter(self._waiting.items()), None)
        if longest is None or self._clock() - longest[1][0] < self._linger_s:
            return False
        del self._waiting[longest[0]]
        with suppress(OSError), longest[1][1] as again:
            again.shutdown(socket.SHUT_RDWR)
        return self._free.wait_for(enough, YIELD_S)
