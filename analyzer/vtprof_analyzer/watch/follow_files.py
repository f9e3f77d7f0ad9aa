"""Follow files that grow, rotate, are renamed, packed, replaced or removed: what is new of each, in whole lines or messages.

A file is known by its first line (a table by its first two, frames by their first message, what is read at once by its
end), not by its name or place: a renamed or packed copy goes on where the file was left, and another file under an old
name begins anew.
"""

import errno
import os
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from vtprof_analyzer.ingest.lines import MAX_LINE_BYTES, detect_packing, unpack
from vtprof_analyzer.ingest.prepare import shown_name
from vtprof_analyzer.report.format import safe
from vtprof_analyzer.watch.follow_cut import (
    Content,
    Cut,
    Looked,
    NotOurs,
    NotYet,
    first_time,
    last_time,
    look,
    read_piece,
    rest_of,
)
from vtprof_analyzer.watch.follow_names import listed
from vtprof_schemas.errors import BackendError

POLL_BYTES: Final = 96 << 20
"""What a poll reads, and one piece more."""
_GONE: Final = 1000
"""Files that are remembered although they are gone, for packed copies may come; and notes that are said."""
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_REMOVED: Final = "file removed before all of it was read"
_UNREADABLE: Final = "file that cannot be read"
_UNFINISHED: Final = "unfinished line or message at the end of a file"
_TOO_LONG: Final = f"line of more than {MAX_LINE_BYTES >> 20} MiB"

Place = tuple[int, int]
"""Device and inode."""


@dataclass
class Followed:
    """A file that is followed. Positions are those of its content, unpacked."""

    key: str
    """Stands for its first line."""
    cut: Cut
    content: Content
    path: str
    place: Place = (0, 0)
    disk: tuple[int, int] = (0, 0)
    """Size, and time of the last change [ns], when it was looked at last."""
    size: int = 0
    offset: int = 0
    """Up to where it was read."""
    scanned: int = 0
    """Up to where nothing more can be read: behind ``offset`` is no whole line."""
    again_until: int = 0
    """Up to where it was read before this process began."""
    newest_ns: int = 0
    """Last time in what was read of it, or the first in it; 0: not known."""
    packed: bool = False
    header: str = ""
    """table: first line, hexadecimal."""
    there: bool = True

    @property
    def behind(self) -> bool:
        """Say whether there is more to read."""
        return self.size > self.scanned


@dataclass(frozen=True)
class Piece:
    """New bytes of a file, in a file of their own."""

    key: str
    content: Content
    staged: Path
    begin: int
    again: bool
    """They were read before this process began."""


@dataclass
class Told:
    """What is said of a poll."""

    skipped: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def count(self, reason: str, number: int = 1) -> None:
        """Count what was left out."""
        if number:
            self.skipped[reason] = self.skipped.get(reason, 0) + number


class Files:
    """The files under a path: one file, a folder, or a pattern."""

    def __init__(self, path: Path, folder: Path) -> None:
        """Follow ``path``; pieces are put into ``folder``."""
        self._path = path
        self._folder = folder
        self._files: dict[str, Followed] = {}
        self._places: dict[Place, str] = {}
        self._plain: dict[str, Path] = {}
        """Where a packed file lies unpacked, while there is more of it to read."""
        self._refused: dict[Path, tuple[int, int]] = {}
        self._waiting: dict[Path, tuple[int, int]] = {}
        """Files that cannot be used, and those that cannot yet, as they lay on disk."""
        self._said: set[str] = set()
        self._number = 0

    def poll(self, told: Told, *, final: bool = False) -> tuple[list[Piece], bool]:
        """Return what is new, staged, and whether that is all; ``final``: what is not finished will not be."""
        self._look(told, final=final)
        if final:
            for one in self._files.values():
                one.scanned = min(one.scanned, one.offset)
        pieces: list[Piece] = []
        taken = 0
        try:
            # What is behind in time comes first: what is ahead is judged only when all before it is there.
            while waiting := [one for one in self._files.values() if one.there and one.behind]:
                if taken > POLL_BYTES:
                    return pieces, False
                first = min(waiting, key=lambda one: (one.newest_ns, one.disk[1], one.path))
                before = first.offset
                piece = self._read(first, told, final=final)
                taken += first.offset - before
                if piece:
                    pieces.append(piece)
            return pieces, True
        finally:
            for key in [key for key in self._plain if not self._files[key].behind]:
                self._drop_plain(key)

    def behind_ns(self) -> int | None:
        """Return the oldest time that what is not read yet may tell of; None where all was read."""
        times = [one.newest_ns for one in self._files.values() if one.there and one.behind]
        return min(times) if times else None

    def name(self, key: str) -> str:
        """Return how a file is shown."""
        one = self._files.get(key)
        return shown_name(Path(one.path)) if one else key

    def state(self, resume: Mapping[str, int]) -> list[dict[str, Any]]:
        """Return what `restore` needs, as plain JSON; from ``resume`` on a file is to be read again."""
        return [
            {**asdict(one), "resume": min(one.offset, resume.get(one.key, one.offset))}
            for one in self._files.values()
        ]

    def restore(self, state: list[Mapping[str, Any]]) -> None:
        """Go on where `state` was taken. Raises ValueError, KeyError or TypeError where it is none."""
        for given in state:
            values = dict(given)
            resume = int(values.pop("resume"))
            one = Followed(**values)
            one.place, one.disk = (int(one.place[0]), int(one.place[1])), (-1, -1)
            one.again_until = max(int(one.offset), int(one.again_until))
            one.offset = one.scanned = max(0, resume)
            if one.cut not in ("lines", "frames", "whole") or one.content not in ("traces", "table"):
                raise ValueError("a file of unknown kind")
            self._files[one.key] = one
            self._places[one.place] = one.key

    def _look(self, told: Told, *, final: bool) -> None:
        """Bring what is known of the files up to date."""
        for one in self._files.values():
            one.there = False
        found = list(listed(self._path, set(self._places), lambda note: self._say(told, note)))
        if not found and not self._files:
            self._say(told, f"{self._shown(self._path)}: no traces and no request tables yet; waits for them")
        seen: set[Place] = set()
        # Those that are known come first: of copies of a file that one goes on.
        for path, status in sorted(found, key=lambda one: (_place(one[1]) not in self._places, str(one[0]))):
            if _place(status) in seen or not stat.S_ISREG(status.st_mode):
                continue
            seen.add(_place(status))
            disk = (status.st_size, status.st_mtime_ns)
            known = self._files.get(self._places.get(_place(status), ""))
            if known and known.disk == disk:
                known.there, known.path = True, os.fspath(path)
            elif self._refused.get(path) != disk or final:
                self._look_at(path, status, told, final=final)
        self._waiting = {path: disk for path, disk in self._waiting.items() if path.exists()}
        self._forget(told)

    def _look_at(self, path: Path, status: os.stat_result, told: Told, *, final: bool) -> None:
        disk = (status.st_size, status.st_mtime_ns)
        steady = final or self._waiting.pop(path, None) == disk
        try:
            looked = look(path, steady=steady, final=final)
        except NotYet:
            self._waiting[path] = disk
        except (OSError, NotOurs) as error:
            why = f"cannot be read ({error.strerror})" if isinstance(error, OSError) else str(error)
            if path not in self._refused:
                told.count(_UNREADABLE)
                self._say(told, f"{self._shown(path)}: {why}; left out")
            self._refused[path] = disk
        else:
            self._refused.pop(path, None)
            self._take(path, status, looked, told)

    def _take(self, path: Path, status: os.stat_result, looked: Looked, told: Told) -> None:
        """Take in which file this is, and how long it is now."""
        known = self._files.get(looked.key)
        size = status.st_size
        if known is None:
            known = Followed(
                looked.key, looked.cut, looked.content, os.fspath(path), header=looked.header.hex()
            )
            self._files[looked.key] = known
            if not looked.packed:
                known.newest_ns = first_time(path)
        elif known.there and (looked.packed or known.size >= size):
            return  # a copy of what is there
        # How long it is unpacked is not known before it is.
        known.size = max(known.offset + 1, known.size) if looked.packed else size
        known.packed = looked.packed
        if not looked.packed and size < known.offset:
            self._say(
                told, f"{self._shown(path)}: became shorter; goes on with what is added to it from now on"
            )
        # Of a file that became shorter, what was cut off was read before.
        known.offset, known.scanned = min(known.offset, known.size), min(known.scanned, known.size)
        known.there, known.path = True, os.fspath(path)
        known.place, known.disk = _place(status), (status.st_size, status.st_mtime_ns)
        self._places[known.place] = known.key
        self._drop_plain(known.key)

    def _drop_plain(self, key: str) -> None:
        if plain := self._plain.pop(key, None):
            plain.unlink(missing_ok=True)

    def _unpacked(self, one: Followed) -> Path:
        """Return where a file lies unpacked, and set its size. Raises OSError."""
        path = Path(one.path)
        if not one.packed:
            return path
        if one.key not in self._plain:
            self._number += 1
            plain = self._folder / f"plain-{self._number:09d}"
            self._plain[one.key] = plain
            with plain.open("wb") as out:
                unpack(path, detect_packing(path), out)
            one.size = plain.stat().st_size
            one.scanned = min(one.scanned, one.size)
        return self._plain[one.key]

    def _read(self, one: Followed, told: Told, *, final: bool) -> Piece | None:
        """Stage the next piece of a file, if it has one; its positions go on."""
        self._number += 1
        staged = self._folder / f"piece-{self._number:09d}"
        try:
            plain = self._unpacked(one)
            begin = one.offset
            again = begin < one.again_until
            stop = min(one.size, one.again_until) if again else one.size
            header = bytes.fromhex(one.header)
            part = read_piece(plain, one.cut, begin, stop, staged, header=header, final=final or again)
        except OSError as error:
            if error.errno in _FULL:
                raise BackendError(
                    f"temporary folder: {error.strerror}; free some space or set TMPDIR"
                ) from error
            told.count(_UNREADABLE)
            self._say(told, f"{self._shown(Path(one.path))}: cannot be read ({error.strerror})")
            # It is looked at again with the next poll.
            one.scanned, one.disk = one.size, (-1, -1)
            return None
        told.count(_TOO_LONG, part.too_long)
        one.offset = part.end
        one.scanned = one.size if part.exhausted and not again else part.end
        if part.end < one.size and final and part.exhausted and not again:
            told.count(_UNFINISHED)
        if not part.staged:
            return None
        if final and one.cut == "lines" and not again:
            # Should the line go on after all, it is read again, as a whole.
            one.offset -= rest_of(staged)
        one.newest_ns = max(one.newest_ns, last_time(staged))
        return Piece(one.key, one.content, staged, begin, again)

    def _forget(self, told: Told) -> None:
        """Count what went unread, and forget the oldest of what is gone."""
        gone = [one for one in self._files.values() if not one.there]
        for one in gone:
            if one.behind or one.offset < one.again_until:
                told.count(_REMOVED)
                one.scanned = one.size
                one.again_until = one.offset
            # Traces are rotated; a table is one file that grows.
            if one.content == "table" and self._places.get(one.place) == one.key:
                self._say(told, f"{self._shown(Path(one.path))}: was removed or replaced; waits for it")
            if self._places.get(one.place) == one.key:
                del self._places[one.place]
        for one in gone[:-_GONE]:
            del self._files[one.key]

    def _say(self, told: Told, note: str) -> None:
        if note not in self._said and len(self._said) < _GONE:
            self._said.add(note)
            told.notes.append(note)

    @staticmethod
    def _shown(path: Path) -> str:
        return safe(shown_name(path))


def _place(status: os.stat_result) -> Place:
    return status.st_dev, status.st_ino
