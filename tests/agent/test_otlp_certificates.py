"""A file of certificates for OTLP that holds none is refused at the start, in one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from collectors import make_certificate

from vtprof_agent.config import Config
from vtprof_agent.endpoint_checks import checks
from vtprof_agent.export.otlp import GRPC, HTTP, connect
from vtprof_schemas.errors import ConfigError

ENDPOINT = "https://127.0.0.1:4318"


def make(folder: Path, kind: str) -> Path:
    path = folder / "ca.pem"
    certificate, key = make_certificate(folder)
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes(
            {
                "empty": b"",
                "garbage": os.urandom(1000),
                "text": b"-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n",
                "key": key.read_bytes(),
                "cut": certificate.read_bytes()[:200],
            }[kind]
        )
    return path


KINDS = ["empty", "garbage", "text", "key", "cut", "folder", "missing"]


@pytest.mark.parametrize("protocol", [HTTP, GRPC])
@pytest.mark.parametrize("kind", KINDS)
def test_a_ca_file_without_certificates_is_one_line_that_names_it(
    kind: str, protocol: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(tmp_path, kind)
    with pytest.raises(ConfigError, match=str(path)) as refused:
        connect(ENDPOINT, protocol, 1.0, None, path)
    assert "\n" not in str(refused.value)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(path))
    with pytest.raises(ConfigError, match=str(path)):
        connect(ENDPOINT, protocol, 1.0, None, None)


@pytest.mark.parametrize("protocol", [HTTP, GRPC])
def test_one_certificate_or_many_are_taken(protocol: str, tmp_path: Path) -> None:
    first, second = make_certificate(tmp_path)[0], make_certificate(tmp_path, "other")[0]
    connect(ENDPOINT, protocol, 1.0, None, first).close()
    both = tmp_path / "both.pem"
    both.write_text("# trusted\n" + first.read_text() + "\n" + second.read_text())
    connect(ENDPOINT, protocol, 1.0, None, both).close()


@pytest.mark.parametrize("protocol", [HTTP, GRPC])
def test_a_client_certificate_needs_its_own_key(
    protocol: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = make_certificate(tmp_path)
    _, other_key = make_certificate(tmp_path, "other")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", str(certificate))
    for wrong in (other_key, certificate):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_CLIENT_KEY", str(wrong))
        with pytest.raises(ConfigError, match=str(certificate)) as refused:
            connect(ENDPOINT, protocol, 1.0, None, certificate)
        assert "\n" not in str(refused.value)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CLIENT_KEY", str(key))
    connect(ENDPOINT, protocol, 1.0, None, certificate).close()


def test_the_agent_does_not_start_with_it_and_ends_with_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vtprof_agent", "run", "--ring-dir", str(tmp_path / "rings"),
               "--otlp-endpoint", ENDPOINT]  # fmt: skip
    environment = {
        **os.environ,
        "VTPROF_AGENT_OTLP_CA_FILE": str(make(tmp_path, "key")),
        "VTPROF_AGENT_SPOOL_BYTES": "0",
    }
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 2
    assert ran.stderr.count("\n") == 1 and "holds no certificate" in ran.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_doctor_says_so(kind: str, tmp_path: Path) -> None:
    path = make(tmp_path, kind)
    found = {
        one.what: one
        for one in checks(Config(otlp_endpoint=ENDPOINT, otlp_ca_file=path, spool_bytes=0), True)
    }
    assert found["otlp_ca_file"].problem is not None
    whole = Config(otlp_endpoint=ENDPOINT, otlp_ca_file=tmp_path / "server.pem", spool_bytes=0)
    assert {one.what: one for one in checks(whole, True)}["otlp_ca_file"].problem is None
