"""Who may reach what the agent listens at: this machine in plain text, others with TLS and a bearer token only.

Certificate, key and token are read again when their files change, so that they can be renewed under a running agent.
"""

import hmac
import ipaddress
import logging
import re
import socket
import ssl
import stat
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

from vtprof_schemas.errors import ConfigError

logger = logging.getLogger(__name__)
LOOPBACK: Final = "127.0.0.1"
CERT, KEY, TOKEN, INSECURE = "tls_cert_file", "tls_key_file", "token_file", "insecure_listen"
"""The settings behind a guard, as messages name them."""
_MOST_BYTES: Final = 1 << 20
_TOKEN: Final = re.compile(r"[!-~]+")


class Guard:
    """TLS and token of the listeners. Without files it lets everyone in, in plain text."""

    def __init__(
        self,
        cert_file: Path | None = None,
        key_file: Path | None = None,
        token_file: Path | None = None,
        insecure: bool = False,
    ) -> None:
        """Read and check the files; raises ConfigError, naming the one to repair."""
        if (cert_file is None) != (key_file is None):
            given, missing = (CERT, KEY) if key_file is None else (KEY, CERT)
            raise ConfigError(f"{given} is set without {missing}; give both")
        self.insecure = insecure
        self._cert = _File(CERT, cert_file) if cert_file else None
        self._key = _File(KEY, key_file) if key_file else None
        self._token = _File(TOKEN, token_file) if token_file else None
        self._lock = threading.Lock()
        self._failed = ""
        self._pair = (b"", b"")
        self._generation = 0
        self._context = self._load()
        self._secret = self._read_token()

    @property
    def complete(self) -> bool:
        """Return whether there are both TLS and a token."""
        return self._cert is not None and self._token is not None

    def at(self, host: str) -> "Guard":
        """Return the guard of a listener there: this one, or on the machine's own address an open one."""
        return Guard() if is_loopback(host) else self

    def ssl_context(self) -> ssl.SSLContext | None:
        """Return the server's side of TLS, which renews its certificate; None: plain text."""
        return self._context

    def accept(self, connection: socket.socket, timeout_s: float) -> socket.socket:
        """Do the handshake on an accepted connection, in the caller's thread; raises OSError when it fails or is late."""
        context = self.ssl_context()
        if context is None:
            return connection
        connection.settimeout(timeout_s)
        return context.wrap_socket(connection, server_side=True)

    def turn_away(self, connection: socket.socket, answer: bytes) -> None:
        """Send an answer in plain text where that is spoken; does not wait, for it is called by the thread that accepts."""
        with suppress(OSError):
            connection.setblocking(False)
            if self._context is None:
                connection.send(answer)
            connection.recv(1 << 16)  # what is left unread would take the answer away with it

    def pem(self) -> tuple[int, bytes, bytes] | None:
        """Return the number, the private key and the certificate chain of the newest pair; None: plain text.

        For servers that take no context. The number grows with each new pair.
        """
        if self._context is None:
            return None
        with self._lock:
            self._renew()
            return self._generation, *self._pair

    def allows(self, authorization: str | None) -> bool:
        """Tell whether an Authorization header shows the token, in constant time; without a token all may pass."""
        if self._token is None:
            return True
        with self._lock:
            try:
                if self._token.changed():
                    self._secret = self._read_token()
                    self._failed = ""
            except ConfigError as error:
                self._secret = b""  # whose token is gone is let in no more
                self._say(str(error))
            secret = self._secret
        scheme, _, shown = (authorization or "").partition(" ")
        given = shown.strip().encode("utf-8", "surrogateescape")
        return hmac.compare_digest(given, secret) and scheme.lower() == "bearer" and bool(secret)

    def _renew(self) -> None:
        """Read certificate and key again if they changed; while they are no valid pair, the one before stays."""
        if self._cert is None or self._key is None:
            return
        try:
            if any([self._cert.changed(), self._key.changed()]):
                self._context = self._load()
                self._failed = ""
                logger.info("%s: read anew", self._cert.path)
        except ConfigError as error:
            self._say(str(error))

    def _load(self) -> ssl.SSLContext | None:
        if self._cert is None or self._key is None:
            return None
        _require_pem(self._cert, b"CERTIFICATE-----", "a certificate")
        _require_pem(self._key, b"PRIVATE KEY-----", "a private key")
        if b"ENCRYPTED" in self._key.text:
            raise ConfigError(f"{KEY} {self._key.path}: has a passphrase; give a key without one")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self._cert.path, self._key.path, password=lambda: "")
        except (OSError, ValueError) as error:  # SSLError is an OSError
            if getattr(error, "reason", "") == "KEY_VALUES_MISMATCH":
                raise ConfigError(
                    f"{KEY} {self._key.path}: is not the key of {self._cert.path}; give the two that belong together"
                ) from error
            raise ConfigError(
                f"{CERT} {self._cert.path}, {KEY} {self._key.path}: cannot be used for TLS: {error}; give PEM files"
            ) from error
        context.sni_callback = self._hello
        self._pair = (self._key.text, self._cert.text)
        self._generation += 1
        return context

    def _hello(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        """Hand a client that begins the newest certificate."""
        del name, context
        with self._lock:
            self._renew()
            newest = self._context
        if newest is not None:
            connection.context = newest

    def _read_token(self) -> bytes:
        if self._token is None:
            return b""
        try:
            text = self._token.text.decode("ascii").strip()
        except UnicodeDecodeError:
            text = ""
        if not _TOKEN.fullmatch(text):
            raise ConfigError(
                f"{TOKEN} {self._token.path}: holds no token; write one line of visible ASCII characters into it"
            )
        return text.encode()

    def _say(self, problem: str) -> None:
        if problem != self._failed:
            logger.error("%s", problem)
        self._failed = problem


class _File:
    """A small file, and whether it changed since it was read."""

    def __init__(self, setting: str, path: Path) -> None:
        self.setting = setting
        self.path = path
        self._seen: tuple[int, ...] = ()
        self._mode = 0
        self.text = b""
        self.changed()
        if setting != CERT and self._mode & stat.S_IROTH:
            logger.warning("%s %s: everyone on this machine may read it; chmod 600", setting, path)

    def changed(self) -> bool:
        """Read the file if it is another than at the last call; raises ConfigError when it cannot be read."""
        try:
            status = self.path.stat()
            seen = (status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev)
            if seen == self._seen:
                return False
            self._mode = status.st_mode
            if not stat.S_ISREG(status.st_mode) or status.st_size > _MOST_BYTES:
                self._seen = ()
                raise ConfigError(f"{self.setting} {self.path}: not a small file; give another")
            self.text = self.path.read_bytes()
        except OSError as error:
            self._seen = ()
            raise ConfigError(
                f"{self.setting} {self.path}: cannot be read: {error.strerror}; give a file that this user may read"
            ) from error
        self._seen = seen
        return True


def listen_address(text: str, flag: str, guard: Guard) -> tuple[str, int]:
    """Read ``HOST:PORT``, ``:PORT`` or ``PORT`` of a flag, by default of this machine alone.

    Raises ConfigError for what is no address, and for one beyond this machine unless the guard has TLS and a token.
    """
    host, _, port = text.rpartition(":")
    host = host.strip("[]") or LOOPBACK
    if not (port.isascii() and port.isdecimal()) or int(port) > 65535:
        raise ConfigError(f"{flag} {text!r}: not HOST:PORT; give for example {LOOPBACK}:9464")
    if not (is_loopback(host) or guard.complete or guard.insecure):
        raise ConfigError(
            f"{flag} {text!r}: would be open to the network, unencrypted and to anyone; give {LOOPBACK}:{port}, or set"
            f" {CERT}, {KEY} and {TOKEN} (or {INSECURE} where the network itself is guarded)"
        )
    return host, int(port)


def shown(host: str, port: int) -> str:
    """Return an address as one writes it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Tell whether an address is this machine's own, reached by nobody else."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _require_pem(file: _File, mark: bytes, what: str) -> None:
    if mark not in file.text:
        raise ConfigError(f"{file.setting} {file.path}: holds no {what.split()[-1]} in PEM; give {what}")
