"""The file in which a watcher keeps what it knows: one JSON document, replaced as a whole, held by one watcher at a time.

    {"format":"vtprof-watch-state","schema_version":1,"checksum":SHA-256 of the content's bytes,"content":{...}}

The content's identity says what was watched against what: a state of something else is refused. The file is 0600; beside
it lies FILE.lock, which stays.
"""

import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

from vtprof_schemas.errors import BackendError, ConfigError, DataError

SCHEMA_VERSION: Final = 1
MOST_BYTES: Final = 256 << 20
_FORMAT: Final = "vtprof-watch-state"
_CONTENT: Final = b'"content":'
_AFRESH: Final = "give --fresh to start anew, or another --state"


def default_path(watched: Path, identity: Mapping[str, str]) -> Path:
    """Return where a state lies of which the user said nothing: below the current folder, by what is watched."""
    whole = json.dumps([str(watched.absolute()), dict(identity)], sort_keys=True)
    return Path(".vtprof") / "watch" / f"{hashlib.sha256(whole.encode()).hexdigest()[:16]}.json"


class StateFile:
    """A state file, held until it is closed."""

    def __init__(self, path: Path) -> None:
        """Make its folder and take hold of it; raises ConfigError or BackendError, one line."""
        self.path = path
        if path.is_dir():
            raise ConfigError(f"--state {path}: is a folder; give a file")
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(path.with_name(f"{path.name}.lock"), flags, 0o600)
        except (FileExistsError, NotADirectoryError) as error:
            raise ConfigError(f"--state {path}: its folder is a file; give another") from error
        except OSError as error:
            raise BackendError(
                f"--state {path}: cannot be kept there ({error.strerror}); give another"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise ConfigError(
                f"--state {path}: another vtprof watch keeps its state there; end it, or give another --state"
            ) from error
        except OSError:
            pass  # some network file systems have no locks

    def load(self, identity: Mapping[str, str]) -> dict[str, Any] | None:
        """Return the content; None where there is no file. Raises DataError for a damaged one, ConfigError for another's."""
        try:
            with self.path.open("rb") as file:
                text = file.read(MOST_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise BackendError(
                f"--state {self.path}: cannot be read ({error.strerror}); {_AFRESH}"
            ) from error
        document = self._parse(text)
        version = document.get("schema_version")
        if document.get("format") != _FORMAT:
            raise DataError(f"--state {self.path}: is no state of vtprof watch; {_AFRESH}")
        if version != SCHEMA_VERSION:
            raise DataError(
                f"--state {self.path}: has version {str(version)[:20]}, this vtprof knows {SCHEMA_VERSION}; {_AFRESH}"
            )
        content = document.get("content")
        bytes_of_content = text[text.find(_CONTENT) + len(_CONTENT) :].rstrip()[:-1]
        if not isinstance(content, dict) or document.get("checksum") != _checksum(bytes_of_content):
            self.damaged("its checksum does not fit")
        known = content.get("identity")
        if known != dict(identity):
            known = known if isinstance(known, dict) else {}
            differs = [name for name, value in identity.items() if known.get(name) != value]
            raise ConfigError(
                f"--state {self.path}: is of another {' and '.join(differs) or 'watch'}; {_AFRESH}"
            )
        return content

    def save(self, identity: Mapping[str, str], content: Mapping[str, Any]) -> None:
        """Replace the file as a whole; raises OSError."""
        kept = _text({**content, "identity": dict(identity)}).encode()
        head = {"format": _FORMAT, "schema_version": SCHEMA_VERSION, "checksum": _checksum(kept)}
        handle, name = tempfile.mkstemp(prefix=f".{self.path.name}.", dir=self.path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(_text(head).encode()[:-1] + b"," + _CONTENT + kept + b"}")
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(self.path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def damaged(self, why: str) -> NoReturn:
        """Raise the error of a file that cannot be gone on from."""
        raise DataError(f"--state {self.path}: is damaged ({why}); {_AFRESH}")

    def close(self) -> None:
        """Let go of it."""
        os.close(self._lock)

    def _parse(self, text: bytes) -> dict[str, Any]:
        if len(text) > MOST_BYTES:
            self.damaged(f"larger than {MOST_BYTES} bytes")
        try:
            document = json.loads(text, parse_constant=_no_constant)
        except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
            self.damaged("no JSON")
        if not isinstance(document, dict):
            self.damaged("no JSON object")
        return document


def _text(document: Mapping[str, Any]) -> str:
    return json.dumps(document, separators=(",", ":"), allow_nan=False)


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)
