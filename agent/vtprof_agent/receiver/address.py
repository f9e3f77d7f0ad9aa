"""Where a receiver may listen: on this machine only, for it has neither encryption nor a password."""

import ipaddress

from vtprof_schemas.errors import ConfigError

LOOPBACK = "127.0.0.1"
GRPC_PORT = 4317
HTTP_PORT = 4318


def listen_address(text: str, flag: str) -> tuple[str, int]:
    """Read ``HOST:PORT``, ``:PORT`` or ``PORT`` of a flag; raises ConfigError for what is no address of this machine."""
    host, _, port = text.rpartition(":")
    host = host.strip("[]") or LOOPBACK
    if not (port.isascii() and port.isdecimal()) or int(port) > 65535:
        raise ConfigError(f"{flag} {text!r}: not HOST:PORT; give for example {LOOPBACK}:{HTTP_PORT}")
    if not _is_loopback(host):
        raise ConfigError(
            f"{flag} {text!r}: would take spans from the network, unencrypted and from anyone;"
            f" give {LOOPBACK}:{port} and let the engine send from this machine"
        )
    return host, int(port)


def shown(host: str, port: int) -> str:
    """Return an address as one writes it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
