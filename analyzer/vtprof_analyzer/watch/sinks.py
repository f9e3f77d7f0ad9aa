"""Where alerts go: a line of JSON on stdout, and posts to others, each from a thread of its own.

A post that fails is tried again, later each time; what waits is bounded, and the oldest gives way to the newest. Nothing
here holds up who watches.
"""

import json
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, TextIO

from vtprof_analyzer.watch.webhook import Refused, Unreachable

CAPACITY: Final = 1000
FIRST_WAIT_S: Final = 1.0
LONGEST_WAIT_S: Final = 60.0
_LINE: Final = {"ensure_ascii": True, "allow_nan": False}


def line(document: dict[str, Any]) -> str:
    """Return a document as one line; what a terminal could take for a command is spelled out."""
    return json.dumps(document, **_LINE)  # type: ignore[arg-type]


class JsonLines:
    """Writes a line for each document, at once. A reader that has gone raises BrokenPipeError."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def tell(self, document: dict[str, Any]) -> None:
        """Write it."""
        self._stream.write(line(document) + "\n")
        self._stream.flush()


class Delivery:
    """Documents on their way to one endpoint."""

    def __init__(
        self,
        sink: str,
        shown: str,
        post: Callable[[bytes], None],
        *,
        key: str = "",
        capacity: int = CAPACITY,
        newest_only: bool = False,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """``sink`` names the kind in metrics, ``shown`` the endpoint in messages, ``key`` the endpoint in a state.

        ``newest_only``: each document replaces the last.
        """
        self.sink = sink
        self.key = key
        self.sent = self.failed = self.dropped = 0
        """Posts that were taken; attempts that failed; documents that were refused or gave way."""
        self._shown, self._post = shown, post
        self._capacity = 1 if newest_only else capacity
        self._newest_only = newest_only
        self._clock, self._jitter, self._say = clock, jitter, say
        self._waiting: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._attempts = 0
        self._not_before = 0.0
        self._troubled = False
        self._ends = False
        self._thread: threading.Thread | None = None

    def offer(self, document: Any) -> None:
        """Take a document; does not wait."""
        self._offer([json.dumps(document, allow_nan=False).encode()])

    def step(self) -> float | None:
        """Try to send what waits; return for how many seconds there is nothing to do, None: until something comes."""
        while True:
            with self._changed:
                if not self._waiting:
                    return None
                wait = self._not_before - self._clock()
                if wait > 0:
                    return wait
                body = self._waiting[0]
            problem = self._try(body)
            if problem is not None:
                self._note(problem)

    def start(self) -> None:
        """Send from a thread of its own from now on."""
        self._thread = threading.Thread(target=self._run, name=f"vtprof-{self.sink}", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Have the thread try once more what waits, and end."""
        with self._changed:
            self._ends = True
            self._not_before = 0.0
            self._changed.notify_all()

    def join(self, within_s: float) -> None:
        """Wait for the thread to end, for at most so long."""
        if self._thread is not None:
            self._thread.join(within_s)

    def pending(self) -> list[str]:
        """Return what waits, to be kept over a restart. What only repeats the newest is none of it."""
        with self._changed:
            return [] if self._newest_only else [body.decode() for body in self._waiting]

    def restore(self, pending: Iterable[str]) -> None:
        """Take what waited before a restart; raises ValueError or TypeError where it is none."""
        bodies = []
        for text in pending:
            json.loads(text)
            bodies.append(text.encode())
        self._offer(bodies)

    def _offer(self, bodies: Iterable[bytes]) -> None:
        with self._changed:
            for body in bodies:
                if len(self._waiting) >= self._capacity:
                    self._waiting.popleft()
                    self.dropped += not self._newest_only
                self._waiting.append(body)
            self._changed.notify_all()

    def _try(self, body: bytes) -> str | None:
        """Send one, and take it off the queue if that is done with; return what there is to say."""
        try:
            self._post(body)
        except Refused as error:
            self._done(body, dropped=True)
            return f"refused an alert: {error}"
        except Unreachable as error:
            with self._changed:
                self.failed += 1
                # Half of the wait is drawn, so that many watchers do not come back at once.
                longest = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(self._attempts, 16))
                self._attempts += 1
                self._not_before = self._clock() + longest * (0.5 + 0.5 * self._jitter())
            return f"does not take alerts ({error}); trying again"
        self._done(body, dropped=False)
        return None

    def _done(self, body: bytes, *, dropped: bool) -> None:
        with self._changed:
            self._attempts, self._not_before = 0, 0.0
            self.failed += dropped
            self.dropped += dropped
            self.sent += not dropped
            if not dropped and self._troubled:
                self._troubled = False
                self._say(f"{self.sink} {self._shown}: takes alerts again")
            # While it was sent a newer one may have pushed it out.
            if self._waiting and self._waiting[0] is body:
                self._waiting.popleft()

    def _note(self, problem: str) -> None:
        if not self._troubled:
            self._troubled = True
            self._say(f"{self.sink} {self._shown}: {problem}")

    def _run(self) -> None:
        while True:
            wait = self.step()
            with self._changed:
                if self._ends:
                    return
                if wait is not None or not self._waiting:
                    self._changed.wait(wait)
