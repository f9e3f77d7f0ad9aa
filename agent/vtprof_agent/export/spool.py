"""A bounded queue of messages on disk for the time that an endpoint is away; the next agent takes over what is left.

Nothing is synced to the disk: what was written survives the death of the process in the page cache, but a crash of the
machine may cost the newest entries, as it costs the rings, which are in memory.

What a damaged file held is counted as lost by its name (see ``segment``). A crash that takes the name itself, with or
before the content, takes the count: what is counted then is the least that was lost.
"""

import hashlib
import logging
import os
import secrets
import stat
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from vtprof_agent.export.parcel import Parcel
from vtprof_agent.export.passing_folder import nothing_left
from vtprof_agent.export.segment import (
    ENTRY_BYTES,
    FIRST_ENTRY,
    LOST_SUFFIX,
    SUFFIX,
    Foreign,
    InUse,
    Loss,
    Segment,
    read_note,
    told_by,
)
from vtprof_agent.export.transport import parse_endpoint
from vtprof_schemas.errors import ConfigError

logger = logging.getLogger(__name__)
SEGMENTS = 16
"""So many files hold what may be kept; the oldest is what goes when all are full."""
LEAST_BYTES = 256 * 1024
"""A batch of 512 spans takes some 40 KB, and at times several times that."""
MOST_SEGMENTS = 48
"""Taken over from earlier agents at a time; each is an open file."""
MOST_DAMAGED = 4
"""Files put aside that are kept to be looked at: the newest, in as much room as one segment may take."""
_DAMAGED = ".damaged"
_UNFINISHED_S = 60.0
SAY_S = 60.0
"""Between two lines that say how much a full spool dropped: an endpoint may be away for days."""


class Spool:
    """The segments of one agent for one endpoint, oldest first; not for more than one thread at a time."""

    def __init__(self, folder: Path, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Take over what dead agents left in a folder, which is made if need be; raises OSError."""
        self.folder = folder
        self._clock = clock
        self._said_s: float | None = None
        """When it was last said that it is full, and the messages dropped since."""
        self._unsaid = 0
        self.lost = Loss()
        """Dropped because newer entries needed the room, or damaged on disk."""
        self._max_bytes = max_bytes
        self._segment_bytes = max(1, max_bytes // SEGMENTS)
        self._segments: deque[Segment] = deque()
        self._buried: list[Segment] = []
        """Notes of dropped segments whose loss is counted here, and not stored yet."""
        self._head: Parcel | None = None
        self._dropped: tuple[Parcel, Segment | None] | None = None
        """A head that went with its segment, or a message that had no room."""
        _own(folder)
        self._adopt()
        self._max_bytes -= _bound_damaged(folder, self._segment_bytes)

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(segment.size for segment in self._segments)

    @property
    def messages(self) -> int:
        """How many wait."""
        return sum(segment.entries for segment in self._segments)

    def append(self, parcel: Parcel) -> None:
        """Add a message behind all others; raises OSError when it cannot be written.

        When the room is used up the oldest segment is dropped, and with it the head, whoever is sending it.
        """
        needed = ENTRY_BYTES + len(parcel.payload)
        if FIRST_ENTRY + needed > self._max_bytes:
            self.lost.add(parcel.signal, parcel.spans)
            self._dropped = parcel, None
            return
        self._make_room(FIRST_ENTRY + needed)
        empty = not self.messages
        newest = self._segments[-1] if self._segments else None
        if newest is None or (newest.size > FIRST_ENTRY and newest.size + needed > self._segment_bytes):
            _own(self.folder)  # an empty folder may have been tidied away
            newest = Segment.create(self._fresh_path())
            self._segments.append(newest)
        newest.append(parcel)
        if empty:
            self._head = parcel

    def head(self) -> Parcel | None:
        """Return the oldest message, the same object until it is passed or dropped."""
        while self._head is None and self._segments:
            oldest = self._segments[0]
            self._head = oldest.head()
            self._take_loss(oldest)
            if self._head is None:
                self._end(self._segments.popleft())
        return self._head

    def advance(self) -> None:
        """Step past the head; a segment that was delivered whole is deleted."""
        self._say_dropped()
        oldest = self._segments[0]
        oldest.advance()
        self._head = None
        if oldest.entries == 0:
            self._end(self._segments.popleft())

    def spare(self, parcel: Parcel) -> bool:
        """Count a message as lost no more if it is the head that was dropped last; tell whether it is."""
        if self._dropped is None or self._dropped[0] is not parcel:
            return False
        _, segment = self._dropped
        self._dropped = None
        self.lost.take(parcel.signal, parcel.spans)
        if segment in self._buried:
            segment.waiting.take(parcel.signal, parcel.spans)
            segment.bury()
        return True

    def noted(self) -> int:
        """Return how many notes of dropped segments tell what ``lost`` counts."""
        return len(self._buried)

    def forget_notes(self, count: int) -> None:
        """Remove the first notes: what they tell is stored elsewhere now."""
        for note in self._buried[:count]:
            note.remove()
        del self._buried[:count]

    def close(self) -> None:
        """Leave what waits to the next agent."""
        self._say_dropped(last=True)
        for segment in self._segments:
            segment.close() if segment.entries else segment.remove()
        self._segments.clear()
        self._head = None

    def _make_room(self, needed: int) -> None:
        while self._segments and self.bytes + needed > self._max_bytes:
            oldest = self._segments.popleft()
            self._unsaid += oldest.entries
            self._bury(oldest)
            if self._head is not None:
                self._dropped = self._head, oldest
            self._head = None
        self._say_dropped()

    def _end(self, segment: Segment) -> None:
        """Delete a segment that holds nothing more to deliver; what is missing of it then was lost by damage."""
        if segment.waiting.spans > 0 or segment.waiting.metrics > 0:
            _say_damaged(segment.path, segment.waiting)
            self._bury(segment)
        else:
            segment.remove()

    def _bury(self, segment: Segment) -> None:
        self.lost.spans += max(0, segment.waiting.spans)
        self.lost.metrics += max(0, segment.waiting.metrics)
        segment.bury()
        self._buried.append(segment)

    def _say_dropped(self, *, last: bool = False) -> None:
        """Say what was dropped: the first time at once, then at most once in ``SAY_S``, and the ``last`` of it."""
        if not self._unsaid:
            return
        now_s, said_s = self._clock(), self._said_s
        if said_s is None:
            logger.warning("%s: full; dropped the oldest %d messages", self.folder, self._unsaid)
        elif last or now_s - said_s >= SAY_S:
            logger.warning(
                "%s: full; dropped %d messages more in %.0f s", self.folder, self._unsaid, now_s - said_s
            )
        else:
            return
        self._said_s, self._unsaid = now_s, 0

    def _take_loss(self, segment: Segment) -> None:
        if segment.lost != Loss():
            _say_damaged(segment.path, segment.lost)
        self.lost.spans += segment.lost.spans
        self.lost.metrics += segment.lost.metrics
        segment.lost = Loss()

    def _fresh_path(self) -> Path:
        """Return a name that sorts behind all others."""
        newest = int(self._segments[-1].path.name.split("-")[0]) if self._segments else 0
        return self.folder / f"{max(time.time_ns(), newest + 1):020d}-{secrets.token_hex(4)}{SUFFIX}"

    def _adopt(self) -> None:
        for path in sorted(self.folder.iterdir()):
            if path.suffix == ".new":
                _remove_unfinished(path)
            elif path.suffix == LOST_SUFFIX:
                self._take_note(path)
            elif path.suffix == SUFFIX:
                if len(self._segments) == MOST_SEGMENTS:
                    logger.warning("%s: more files than can be taken over; the next agent will", self.folder)
                    break
                self._take_over(path)
        if self._segments:
            logger.warning(
                "%s: %d messages of an earlier agent are delivered first", self.folder, self.messages
            )

    def _take_note(self, path: Path) -> None:
        """Count what an agent dropped that was killed before it could store how much that was."""
        with suppress(InUse, Foreign, OSError):
            note, lost = read_note(path)
            self.lost.spans += lost.spans
            self.lost.metrics += lost.metrics
            self._buried.append(note)

    def _take_over(self, path: Path) -> None:
        try:
            if not path.name.split("-")[0].isdecimal():
                raise Foreign
            segment = Segment.open(path)
        except InUse:
            return
        except Foreign:
            self._put_aside(path)
            return
        except FileNotFoundError:  # of another agent, which renames it as it fills
            return
        except OSError as error:
            logger.error("%s: cannot be read, left where it is: %s", path, error.strerror)
            return
        if segment.cut_bytes:
            logger.info("%s: cut off %d bytes that were half written", path, segment.cut_bytes)
        if segment.start_damaged:
            logger.error(
                "%s: its start is damaged; all that is whole in it is delivered, some maybe again", path
            )
        if segment.entries:
            self._segments.append(segment)
        else:
            self._end(segment)

    def _put_aside(self, path: Path) -> None:
        """Keep a file that holds nothing to deliver to be looked at; what its name says was in it is lost."""
        aside, told = path.with_suffix(_DAMAGED), told_by(path)
        if told != Loss():
            with suppress(OSError):
                note = path.with_suffix(LOST_SUFFIX)
                note.touch(0o600)
                self._take_note(note)
        with suppress(OSError):
            path.rename(aside)
        logger.error(
            "%s: not a file of the spool, or damaged as a whole, with %d spans and %d batches of metric points; put"
            " aside as %s", path, told.spans, told.metrics, aside.name,
        )  # fmt: skip


def open_spool(folder: Path | None, endpoint: str, max_bytes: int) -> Spool | None:
    """Open the spool of an endpoint below a folder, by default that of the user's state; None when it is turned off.

    A default folder that cannot be used is a warning and None; one that was named raises ConfigError, as do an
    endpoint that is no URL and a size too small to be of use.
    """
    if not max_bytes:
        return None
    _check_size(max_bytes)
    parse_endpoint(endpoint, "http://collector:4318")  # no folder for what is a slip
    try:
        place = _place(folder, endpoint)
        spool = Spool(place, max_bytes)
        _tell_of_others(place)
        return spool
    except OSError as error:
        if folder is not None:
            raise _unusable(folder, error) from error
        logger.warning("no spool on disk (%s); while the endpoint is away batches wait in memory", error)
        return None


def check_spool(folder: Path | None, endpoint: str, max_bytes: int) -> None:
    """Raise ConfigError where ``open_spool`` would; take nothing over and leave nothing behind."""
    if not max_bytes:
        return
    _check_size(max_bytes)
    parse_endpoint(endpoint, "http://collector:4318")
    if folder is not None:
        place = _place(folder, endpoint)
        try:
            with nothing_left(place):
                _own(place)
        except OSError as error:
            raise _unusable(folder, error) from error


def _check_size(max_bytes: int) -> None:
    if max_bytes < LEAST_BYTES:
        raise ConfigError(
            f"spool_bytes = {max_bytes}: too little for a batch; give {LEAST_BYTES} or more, or 0 for no spool"
        )


def _place(folder: Path | None, endpoint: str) -> Path:
    """Return the folder of an endpoint's spool; raises FileNotFoundError for a user without a home."""
    name = f"{hashlib.sha256(endpoint.rstrip('/').encode()).hexdigest()[:16]}-{os.geteuid()}"
    return (default_folder() if folder is None else folder) / name


def _unusable(folder: Path, error: OSError) -> ConfigError:
    reason = error.strerror or str(error)
    return ConfigError(f"--spool-dir {folder}: cannot be used: {reason}; give another folder")


def _tell_of_others(mine: Path) -> None:
    """Say that batches wait for another endpoint: nobody delivers them until an agent has that endpoint again."""
    for other in sorted(mine.parent.glob(f"*-{os.geteuid()}")):
        waiting = sum(path.stat().st_size > FIRST_ENTRY for path in other.glob(f"*{SUFFIX}"))
        if other != mine and waiting:
            logger.warning(
                "%s: batches of another endpoint wait here (files: %d); run an agent with that --otlp-endpoint to"
                " deliver them, or remove the folder",
                other,
                waiting,
            )


def default_folder() -> Path:
    """Return where batches wait by default: below the state folder of the user, or of the system for root.

    Raises FileNotFoundError for a user without a home.
    """
    if os.environ.get("XDG_STATE_HOME"):
        return Path(os.environ["XDG_STATE_HOME"]) / "vtprof" / "spool"
    if os.geteuid() == 0:
        return Path("/var/lib/vtprof/spool")
    try:
        return Path("~/.local/state/vtprof/spool").expanduser()
    except RuntimeError as error:
        raise FileNotFoundError(2, "this user has no home folder") from error


def _own(folder: Path) -> None:
    """Make a folder for us alone; raises OSError when it cannot be made or written to, or is somebody else's."""
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.mkdir(exist_ok=True, mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise PermissionError(1, "another user's")
    if found.st_mode & 0o077:
        folder.chmod(0o700)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(13, "no permission to write")


def _remove_unfinished(path: Path) -> None:
    """Remove a segment whose maker was killed before it had a header."""
    with suppress(OSError):
        if time.time() - path.lstat().st_mtime > _UNFINISHED_S:
            path.unlink()


def _say_damaged(path: Path, lost: Loss) -> None:
    logger.error("%s: damaged; %d spans and %d batches of metric points lost", path, lost.spans, lost.metrics)


def _bound_damaged(folder: Path, most_bytes: int) -> int:
    """Remove the oldest files that were put aside, beyond so many and so many bytes; return the bytes of the rest."""
    kept = kept_bytes = removed = 0
    for path in sorted(folder.glob(f"*{_DAMAGED}"), reverse=True):
        with suppress(OSError):
            size = path.lstat().st_size
            if kept < MOST_DAMAGED and kept_bytes + size <= most_bytes:
                kept, kept_bytes = kept + 1, kept_bytes + size
            else:
                path.unlink()
                removed += 1
    if removed:
        logger.warning("%s: removed %d damaged files; %d are kept", folder, removed, kept)
    return kept_bytes
