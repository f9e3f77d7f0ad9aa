"""`vtprof watch`: polls what is followed, has it judged, tells others, and keeps what it knows.

Everything that acts on the world is handed in: what follows, where alerts go, the clock and the wait.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

from vtprof_analyzer.watch import alertmanager
from vtprof_analyzer.watch.alerts import Notification
from vtprof_analyzer.watch.events import Batch
from vtprof_analyzer.watch.figures import Figures
from vtprof_analyzer.watch.judging import Judge
from vtprof_analyzer.watch.sinks import Delivery
from vtprof_analyzer.watch.state_file import StateFile
from vtprof_analyzer.watch.wording import SCHEMA_VERSION, document, phase_json
from vtprof_schemas.errors import VtprofError

POLL_S: Final = 5.0
SAVE_S: Final = 30.0
"""What was read since is read again after a crash. With an alert the state is saved at once, so that it is told of once."""
FLUSH_S: Final = 10.0
"""For what still waits to be posted in the end."""
_MOST_NOTES: Final = 1000


class Follower(Protocol):
    """What is asked of whatever follows the traces."""

    def poll(self) -> Batch:
        """Return what came since the last time."""
        ...

    def finish(self) -> Batch:
        """Return what still waited for more of it to come: nothing more comes."""
        ...

    def state(self) -> dict[str, Any]:
        """Return where it stands, as plain JSON."""
        ...


@dataclass(frozen=True)
class Outlets:
    """Where alerts and figures go."""

    tell: Callable[[dict[str, Any]], None] = lambda _: None
    """Takes each notification's document, at once; a BrokenPipeError of its ends the watch."""
    webhooks: Sequence[Delivery] = ()
    alertmanagers: Sequence[Delivery] = ()
    link: str | None = None
    publish: Callable[[Figures], None] = lambda _: None
    say: Callable[[str], None] = lambda _: None
    """Takes notes for the operator, a line each."""


@dataclass
class Watch:
    """A watch that runs."""

    follower: Follower
    judge: Judge
    outlets: Outlets
    state_file: StateFile | None = None
    identity: dict[str, str] = field(default_factory=dict)
    now: Callable[[], float] = time.time
    saved: bool = False
    """Whether the state was written when it last was to be."""
    _told: list[Notification] = field(default_factory=list)
    _notes: dict[str, None] = field(default_factory=dict)
    _posted_s: float = 0.0
    _saved_s: float = 0.0
    _unsaved: bool = False
    _errors: int = 0

    def run(self, wait: Callable[[float], bool], poll_s: float = POLL_S) -> None:
        """Poll until ``wait``, which gets the seconds to wait, says that the end has come; keep what is known."""
        self._begin()
        try:
            self._publish()
            while True:
                caught_up = self.poll()
                if wait(poll_s if caught_up else 0.0):
                    break
        finally:
            self._stop()
        # Not after an error: what was not told of is found again.
        self._save()

    def once(self) -> list[Notification]:
        """Read and judge what is there; return all that there was to tell."""
        self._begin()
        try:
            while not self.poll(follows=False):
                pass
            self._take(self.follower.finish(), follows=False)
            for note in (*self.judge.silence_notes(), *self.judge.insufficient_notes()):
                self._note(note)
            self._tell(self.judge.silences(self.now()))
        finally:
            self._stop()
        self._save()
        return self._told

    @property
    def notes(self) -> list[str]:
        """Return what was said to the operator."""
        return list(self._notes)

    def poll(self, *, follows: bool = True) -> bool:
        """Look once for more; return whether all that is there has been read."""
        try:
            batch = self.follower.poll()
        except (OSError, VtprofError) as error:
            # What is followed may come back: a folder that is mounted anew, a file that is replaced.
            self._errors += 1
            self._note(str(error))
            self._tell([])
            self._publish()
            return True
        self._take(batch, follows=follows)
        return batch.caught_up

    def restore(self, content: dict[str, Any]) -> None:
        """Go on from a state's content; raises ValueError, KeyError or TypeError where it is none."""
        self.judge.restore(content["judge"])
        pending = content["pending"]
        for delivery in self.outlets.webhooks:
            delivery.restore(pending.get(delivery.key, []))

    def _begin(self) -> None:
        for delivery in (*self.outlets.webhooks, *self.outlets.alertmanagers):
            delivery.start()
        self._saved_s = self.now()
        self._tell(self.judge.end_orphans(self.now()))

    def _take(self, batch: Batch, *, follows: bool) -> None:
        now_s = self.now()
        told = self.judge.take(batch, now_s, follows=follows)
        for note in (*batch.notes, *self.judge.notes()):
            self._note(note)
        self._tell(told)
        self._unsaved = self._unsaved or bool(told or len(batch.requests) or batch.kv or batch.skipped)
        # A clock that was set back must not keep it from saving.
        if told or (self._unsaved and not 0 <= now_s - self._saved_s < SAVE_S):
            self._save()
        self._publish()

    def _tell(self, told: Sequence[Notification]) -> None:
        now_s = self.now()
        for notification in told:
            shown = document(notification)
            self.outlets.tell(shown)
            for delivery in self.outlets.webhooks:
                delivery.offer(shown)
        self._told += told
        if self.outlets.alertmanagers and (told or not 0 <= now_s - self._posted_s < alertmanager.RESEND_S):
            self._posted_s = now_s
            entries = self.judge.book.entries(now_s)
            if entries:
                posted = alertmanager.alerts_json(entries, now_s, self.outlets.link)
                for delivery in self.outlets.alertmanagers:
                    delivery.offer(posted)

    def _save(self) -> None:
        if self.state_file is None:
            return
        content = {
            "follower": self.follower.state(),
            "judge": self.judge.state(),
            "pending": {one.key: one.pending() for one in self.outlets.webhooks},
        }
        try:
            self.state_file.save(self.identity, content)
        except OSError as error:
            self._note(f"{self.state_file.path}: the state cannot be written ({error.strerror})")
            self.saved = False
            return
        self.saved, self._saved_s, self._unsaved = True, self.now(), False

    def _publish(self) -> None:
        posts: dict[str, tuple[int, int, int]] = {}
        for one in (*self.outlets.webhooks, *self.outlets.alertmanagers):
            sent, failed, dropped = posts.get(one.sink, (0, 0, 0))
            posts[one.sink] = (sent + one.sent, failed + one.failed, dropped + one.dropped)
        figures = self.judge.figures()
        self.outlets.publish(
            replace(figures, poll_errors=self._errors, last_poll_s=self.now(), notifications=posts)
        )

    def _note(self, note: str) -> None:
        """Say it, once."""
        if note not in self._notes and len(self._notes) < _MOST_NOTES:
            self._notes[note] = None
            self.outlets.say(note)

    def _stop(self) -> None:
        ends = time.monotonic() + FLUSH_S
        deliveries = (*self.outlets.webhooks, *self.outlets.alertmanagers)
        for delivery in deliveries:
            delivery.end()
        for delivery in deliveries:
            delivery.join(max(ends - time.monotonic(), 0.0))


def once_document(watch: Watch, told: Sequence[Notification], facts: dict[str, Any]) -> dict[str, Any]:
    """Return the one document of ``--once``: each alert once, with its end where there was one."""
    shown: dict[str, dict[str, Any]] = {}
    for notification in told:
        if notification.status == "firing":
            shown[notification.id] = document(notification)
        elif notification.id in shown:
            shown[notification.id] |= document(notification) | {
                "time_unix_nano": notification.alert.time_unix_nano
            }
    for entry in watch.judge.book.firing():
        newest = Notification("firing", entry.alert, entry.alert.time_unix_nano, entry.number)
        if newest.id in shown:
            shown[newest.id] |= document(newest)
    for one in shown.values():
        del one["schema_version"]
    judge, figures = watch.judge, watch.judge.figures()
    return {
        "schema_version": SCHEMA_VERSION,
        "alarms": [one for one in shown.values() if one["alert"] == "regression"],
        "service_alerts": [one for one in shown.values() if one["alert"] != "regression"],
        **facts,
        "phases": [phase_json(one) for one in judge.detector.standings()],
        "requests": {
            "seen": figures.seen,
            "judged": figures.judged,
            "late": figures.late,
            "not_comparable": figures.not_comparable,
        },
        "newest_request_unix_nano": judge.newest_ns or None,
        "skipped": {reason: count for reason, count in sorted(judge.skipped.items()) if count},
        "notes": watch.notes,
    }
