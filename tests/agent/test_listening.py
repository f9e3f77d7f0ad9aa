"""Listeners beyond this machine take TLS and a token; files that cannot serve are one line that names them."""

import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from vtprof_agent.listening import Guard, listen_address
from vtprof_schemas.errors import ConfigError

TOKEN = "s3cret-token"


def make_pair(folder: Path, name: str) -> tuple[Path, Path]:
    """Make a certificate for localhost and its key with OpenSSL itself."""
    cert, key = folder / f"{name}.crt", folder / f"{name}.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
         "-keyout", str(key), "-out", str(cert)],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> tuple[tuple[Path, Path], tuple[Path, Path]]:
    """Two certificates with their keys."""
    folder = tmp_path_factory.mktemp("tls")
    return make_pair(folder, "first"), make_pair(folder, "second")


def token_file(folder: Path, text: str = TOKEN + "\n") -> Path:
    path = folder / "token"
    path.write_text(text)
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("9464", ("127.0.0.1", 9464)),
        (":9464", ("127.0.0.1", 9464)),
        ("[::1]:0", ("::1", 0)),
        ("localhost:1", ("localhost", 1)),
        ("127.9.9.9:65535", ("127.9.9.9", 65535)),
    ],
)
def test_this_machine_is_always_listened_to_in_plain_text(text: str, address: tuple[str, int]) -> None:
    assert listen_address(text, "--metrics", Guard()) == address
    assert Guard().ssl_context() is None
    assert Guard().allows(None)


@pytest.mark.parametrize(
    "text", ["0.0.0.0:1", "[::]:1", "10.1.2.3:1", "node.example:1", "[::ffff:127.0.0.1]:1", "127.0.0.1.evil.example:1"]
)  # fmt: skip
def test_beyond_this_machine_needs_both_tls_and_token_or_a_word(
    text: str, pairs: tuple[tuple[Path, Path], ...], tmp_path: Path
) -> None:
    cert, key = pairs[0]
    token = token_file(tmp_path)
    for short in (Guard(), Guard(cert, key), Guard(token_file=token)):
        with pytest.raises(ConfigError, match=r"--metrics .*: would be open to the network") as caught:
            listen_address(text, "--metrics", short)
        assert "\n" not in str(caught.value)
    host = text.rpartition(":")[0].strip("[]")
    assert listen_address(text, "--metrics", Guard(cert, key, token)) == (host, 1)
    assert listen_address(text, "--metrics", Guard(insecure=True)) == (host, 1)


@pytest.mark.parametrize("text", ["", "x", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:٣", "1:-1", "::"])
def test_what_is_no_address_is_said_with_the_flag(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--otlp-receive-http .*: not HOST:PORT"):
        listen_address(text, "--otlp-receive-http", Guard(insecure=True))


def test_a_guard_is_open_on_the_machine_s_own_addresses_and_closed_on_all_others(tmp_path: Path) -> None:
    guard = Guard(token_file=token_file(tmp_path), insecure=True)
    assert guard.at("127.0.0.1").allows(None)
    assert not guard.at("0.0.0.0").allows(None)
    assert guard.at("0.0.0.0").allows(f"Bearer {TOKEN}")


@pytest.mark.parametrize(
    ("header", "allowed"),
    [
        (f"Bearer {TOKEN}", True),
        (f"bearer  {TOKEN} ", True),
        (None, False),
        ("", False),
        ("Bearer", False),
        ("Bearer ", False),
        (f"Basic {TOKEN}", False),
        (TOKEN, False),
        (f"Bearer {TOKEN}x", False),
        (f"Bearer {TOKEN[:-1]}", False),
        ("Bearer \udcff\u00fc", False),
    ],
)
def test_only_the_bearer_of_the_token_is_allowed(tmp_path: Path, header: str | None, allowed: bool) -> None:
    assert Guard(token_file=token_file(tmp_path)).allows(header) is allowed


def test_a_token_is_read_again_when_its_file_changes_and_let_in_no_more_when_it_is_gone(
    tmp_path: Path,
) -> None:
    path = token_file(tmp_path, "old")
    guard = Guard(token_file=path)
    other = tmp_path / "other"
    other.write_text("new-token")
    other.replace(path)
    assert not guard.allows("Bearer old")
    assert guard.allows("Bearer new-token")
    path.unlink()
    assert not guard.allows("Bearer new-token")
    assert not guard.allows("Bearer ")
    token_file(tmp_path, "third")
    assert guard.allows("Bearer third")


def test_a_token_that_everyone_may_read_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = token_file(tmp_path)
    Guard(token_file=path)
    assert not caplog.records
    path.chmod(0o644)
    Guard(token_file=path)
    assert [record.getMessage() for record in caplog.records] == [
        f"token_file {path}: everyone on this machine may read it; chmod 600"
    ]


@pytest.mark.parametrize("text", ["", " \n", "two words", "ü", "a\nb"])
def test_a_file_without_a_token_is_one_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"token_file .*/token: holds no token") as caught:
        Guard(token_file=token_file(tmp_path, text))
    assert "\n" not in str(caught.value)


Spoil = Callable[[Path, tuple[Path, Path]], tuple[Path, Path]]


def _encrypted(folder: Path, pair: tuple[Path, Path]) -> tuple[Path, Path]:
    cert, key = pair
    locked = folder / "locked.key"
    command = ["openssl", "pkcs8", "-topk8", "-in", str(key), "-out", str(locked), "-passout", "pass:x"]
    subprocess.run(command, check=True, capture_output=True)
    return cert, locked


def _garbled(folder: Path, pair: tuple[Path, Path]) -> tuple[Path, Path]:
    path = folder / "garbled.crt"
    path.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    return path, pair[1]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda _, pair: (Path("/nowhere.crt"), pair[1]), r"tls_cert_file /nowhere.crt: cannot be read: No such"),
        (lambda _, pair: (pair[0], Path("/nowhere.key")), r"tls_key_file /nowhere.key: cannot be read: No such"),
        (lambda folder, pair: (folder, pair[1]), "tls_cert_file .*: not a small file"),
        (lambda _, pair: (pair[1], pair[1]), r"tls_cert_file .*first.key: holds no certificate"),
        (lambda _, pair: (pair[0], pair[0]), r"tls_key_file .*first.crt: holds no key"),
        (lambda _, pair: (pair[0], pair[0].with_name("second.key")), r"second.key: is not the key of .*first.crt"),
        (_encrypted, "locked.key: has a passphrase"),
        (_garbled, "garbled.crt, .*: cannot be used for TLS"),
    ],
)  # fmt: skip
def test_files_that_cannot_serve_are_one_line_that_names_them(
    spoil: Spoil, told: str, pairs: tuple[tuple[Path, Path], ...], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        Guard(*spoil(tmp_path, pairs[0]))
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_the_right_to_read_it_is_named(tmp_path: Path) -> None:
    path = token_file(tmp_path)
    path.chmod(0)
    with pytest.raises(ConfigError, match=r"token_file .*: cannot be read: Permission denied"):
        Guard(token_file=path)


def test_a_certificate_without_its_key_is_refused(pairs: tuple[tuple[Path, Path], ...]) -> None:
    with pytest.raises(ConfigError, match="tls_cert_file is set without tls_key_file"):
        Guard(pairs[0][0])
    with pytest.raises(ConfigError, match="tls_key_file is set without tls_cert_file"):
        Guard(None, pairs[0][1])


def presented(guard: Guard, server_name: str | None) -> bytes:
    """Return the certificate that a client of the guard is shown."""
    ours, theirs = socket.socketpair()
    failures: list[Exception] = []

    def serve() -> None:
        try:
            guard.accept(theirs, 10.0).close()
        except OSError as error:
            failures.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    ours.settimeout(10.0)
    with client.wrap_socket(ours, server_hostname=server_name) as connection:
        shown = connection.getpeercert(binary_form=True) or b""
    thread.join(10.0)
    assert not failures
    return shown


@pytest.mark.parametrize("server_name", ["localhost", None])
def test_a_renewed_certificate_is_shown_to_the_next_client_and_half_of_one_is_not(
    server_name: str | None, pairs: tuple[tuple[Path, Path], ...], tmp_path: Path
) -> None:
    (first, first_key), (second, second_key) = pairs
    cert, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    cert.write_bytes(first.read_bytes())
    key.write_bytes(first_key.read_bytes())
    guard = Guard(cert, key)
    before = presented(guard, server_name)
    assert before == ssl.PEM_cert_to_DER_cert(first.read_text())
    cert.write_bytes(second.read_bytes())
    assert presented(guard, server_name) == before, "the new certificate has no key yet"
    key.write_bytes(second_key.read_bytes())
    assert presented(guard, server_name) == ssl.PEM_cert_to_DER_cert(second.read_text())
    assert guard.pem() == (2, second_key.read_bytes(), second.read_bytes())


def test_a_client_that_says_nothing_holds_the_handshake_only_so_long(
    pairs: tuple[tuple[Path, Path], ...],
) -> None:
    ours, theirs = socket.socketpair()
    with ours, pytest.raises(TimeoutError):
        Guard(*pairs[0]).accept(theirs, 0.05)


def test_plain_text_is_no_tls(pairs: tuple[tuple[Path, Path], ...]) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        ours.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with pytest.raises(ssl.SSLError):
            Guard(*pairs[0]).accept(theirs, 10.0)
