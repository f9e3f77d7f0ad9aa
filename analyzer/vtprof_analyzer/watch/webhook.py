"""Posts JSON to an HTTP endpoint: one attempt, bounded in time and in what is read of the answer.

Redirects are not followed, for a token must not go elsewhere; certificates are verified. No proxy is used.
"""

import http.client
import os
import socket
import ssl
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit

from vtprof_schemas.errors import ConfigError
from vtprof_schemas.printable import one_line

TIMEOUT_S: Final = 10.0
"""For connecting, and for each part of the answer."""
WHOLE_S: Final = 20.0
"""For all of it, however slowly it drips."""
_MOST_TOKEN_BYTES: Final = 1 << 16
_MOST_SAID_BYTES: Final = 512
_LONGEST_REASON: Final = 200
_AGAIN: Final = frozenset({408, 425, 429})
"""Answers below 500 after which the same may be taken later."""


class Refused(Exception):
    """The endpoint does not take it, and will not later."""


class Unreachable(Exception):
    """Nobody took it now; a later attempt may succeed."""


@dataclass(frozen=True)
class Token:
    """Where a bearer token is: a file, read anew each time as it may be renewed, or an environment variable."""

    file: Path | None = None
    variable: str | None = None

    def read(self, environment: Mapping[str, str] = os.environ) -> str | None:
        """Return the token, None where there is none to give; raises ConfigError, without telling it."""
        where = str(self.file) if self.file is not None else self.variable
        if self.file is not None:
            try:
                with self.file.open("rb") as file:
                    text = file.read(_MOST_TOKEN_BYTES).decode("ascii", "replace").strip()
            except OSError as error:
                raise ConfigError(
                    f"{self.file}: cannot be read ({error.strerror}); give a file with the token"
                ) from error
        elif self.variable is not None and self.variable in environment:
            text = environment[self.variable].strip()
        else:
            return None
        if not text or not all("!" <= character <= "~" for character in text):
            raise ConfigError(f"{where}: holds no token; put one line of visible ASCII characters there")
        return text


class Endpoint:
    """An HTTP endpoint that takes JSON."""

    def __init__(self, flag: str, url: str, token: Token | None = None) -> None:
        """Check the URL; raises ConfigError."""
        self._parts = _checked(flag, url)
        self._token = token or Token()
        self._token.read()  # a wrong place is said at once
        # A path may hold a secret, as in Slack's hooks: it is in no message.
        host = self._parts.hostname or ""
        shown = f"[{host}]" if ":" in host else host
        self.shown = f"{self._parts.scheme}://{shown}" + (f":{self._parts.port}" if self._parts.port else "")
        self._context = ssl.create_default_context() if self._parts.scheme == "https" else None

    def token_in_plain_text(self) -> bool:
        """Return whether a token would go over the network unencrypted."""
        here = (self._parts.hostname or "") in ("localhost", "127.0.0.1", "::1")
        return self._context is None and not here and self._token.read() is not None

    def post(self, body: bytes) -> None:
        """Send a JSON document; raises Refused or Unreachable, with a reason in a few words."""
        headers = {"Content-Type": "application/json", "User-Agent": "vtprof", "Connection": "close"}
        try:
            token = self._token.read()
        except ConfigError as error:
            raise Unreachable(str(error)) from error
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        connection = self._connection()
        late = threading.Event()
        watchdog = threading.Timer(WHOLE_S, _cut_off, (connection, late))
        watchdog.daemon = True
        watchdog.start()
        try:
            connection.request("POST", self._target(), body, headers)
            answer = connection.getresponse()
            status = answer.status
            said = b"" if status < 300 else answer.read1(_MOST_SAID_BYTES)
        except ssl.SSLCertVerificationError as error:
            raise Unreachable(f"its certificate is not trusted ({error.verify_message})") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            shown = f"no answer within {WHOLE_S:g} s" if late.is_set() else one_line(reason, _LONGEST_REASON)
            raise Unreachable(shown) from error
        finally:
            watchdog.cancel()
            connection.close()
        if late.is_set():  # headers that were cut off read as if they had ended
            raise Unreachable(f"no answer within {WHOLE_S:g} s")
        _judge(status, said)

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self._parts.hostname or "", self._parts.port
        if self._context is None:
            return http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
        return http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=self._context)

    def _target(self) -> str:
        path = self._parts.path or "/"
        return f"{path}?{self._parts.query}" if self._parts.query else path


def _judge(status: int, said: bytes) -> None:
    if 200 <= status < 300:
        return
    words = one_line(said.decode("utf-8", "replace").strip(), _LONGEST_REASON)
    reason = f"answered {status}" + (f": {words}" if words else "")
    if 300 <= status < 400:
        raise Refused(
            f"answered {status}, a redirect, which is not followed; give the address that it leads to"
        )
    if status >= 500 or status in _AGAIN:
        raise Unreachable(reason)
    raise Refused(reason)


def _cut_off(connection: http.client.HTTPConnection, late: threading.Event) -> None:
    late.set()
    with suppress(OSError):
        held = connection.sock
        if held is not None:
            held.shutdown(socket.SHUT_RDWR)


def _checked(flag: str, url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound or not url.isascii() or any(character <= " " or character == "\x7f" for character in url):
        raise ConfigError(f"{flag}: not an http:// or https:// address; give one as https://host:port/path")
    if parts.username is not None or parts.password is not None:
        raise ConfigError(
            f"{flag}: holds a password, which others could see; give a token by file or environment"
        )
    if parts.fragment:
        raise ConfigError(f"{flag}: has a part behind #; give the address without it")
    return parts
