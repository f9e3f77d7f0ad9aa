"""Which proxy of the environment messages to an endpoint go through, judged as the libraries judge that send them."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import requests
from requests.utils import select_proxy

from vtprof_agent.config import without_secrets

ASKS_FOR_USER: Final = 407
"""The HTTP status with which a proxy, and nobody else, asks for a user."""
_OF_GRPC: Final = ("grpc_proxy", "https_proxy", "http_proxy")


@dataclass(frozen=True)
class Proxy:
    """A proxy, and who named it."""

    url: str
    """Without user and password."""
    variable: str

    def answers(self, endpoint_scheme: str) -> bool:
        """Tell whether it answers itself where requests go, as with http://; else it is asked for a tunnel."""
        return endpoint_scheme == "http" and not self.url.lower().startswith("socks")

    @property
    def advice(self) -> str:
        """What to do where it is the proxy that does not serve."""
        return f"correct {self.variable} in the environment, or name the endpoint's host in no_proxy there"

    def refusal(self, status: int) -> tuple[str, str]:
        """Return what a proxy means with this status, and what to do."""
        if status == ASKS_FOR_USER:
            given = f"give them in {self.variable}, as http://USER:PASSWORD@HOST:PORT"
            return "the proxy asks for a user and a password", given
        return f"the proxy refuses with HTTP status {status}", self.advice


def of_requests(session: requests.Session, url: str, env: Mapping[str, str]) -> Proxy | None:
    """Return the proxy through which a session of requests would send to a URL."""
    found = select_proxy(url, session.merge_environment_settings(url, {}, None, None, None)["proxies"])
    if not found:
        return None
    kinds = (url.partition(":")[0], "all")
    names = [name for kind in kinds for name in (f"{kind}_proxy", f"{kind}_proxy".upper())]
    variable = next((name for name in names if env.get(name)), names[1])
    return Proxy(_shown(found if "://" in found else f"http://{found}"), variable)


def of_grpc(host: str, env: Mapping[str, str]) -> Proxy | None:
    """Return the proxy through which a channel of gRPC would connect to a host: only names in lower case count.

    As its default mapper does (https://grpc.github.io/grpc/core/md_doc_core_default_http_proxy_mapper.html): the first
    variable that is set holds, an empty one means none, and what is no http:// URL is passed over.
    """
    variable = next((name for name in _OF_GRPC if name in env), None)
    url = "" if variable is None else env[variable]
    shown = _shown(url)
    if variable is None or not shown.startswith("http://"):
        return None
    excepted = env.get("no_grpc_proxy", env.get("no_proxy", ""))
    if any(_is_in(host, entry) for part in excepted.split(",") if (entry := part.strip())):
        return None
    return Proxy(shown, variable)


def _shown(url: str) -> str:
    return without_secrets(url).rstrip("/")


def _is_in(host: str, entry: str) -> bool:
    """Tell whether a host is that of an entry of no_proxy, one below it, or an address in its network."""
    if host.lower().endswith(entry.lower()):
        return True
    if "/" not in entry:
        return False
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False
