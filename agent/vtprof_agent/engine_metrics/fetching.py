"""Fetches a metrics page from a server nearby: bounded in size and time, without redirects, proxies and passwords."""

import time
from typing import Final

import requests

from vtprof_agent.diagnosis import of_error
from vtprof_agent.whole_answer import limit_answers

TIMEOUT_S: Final = 3.0
"""To connect."""
READ_S: Final = 10.0
"""For the whole answer, however slowly it trickles."""
MAX_BYTES: Final = 16 << 20


class Unreadable(Exception):
    """Why a page could not be read, in words."""


def near_session() -> requests.Session:
    """Return a session for servers nearby."""
    session = limit_answers(requests.Session())
    session.trust_env = False  # no proxy, no password file
    session.headers["Accept-Encoding"] = "identity"
    return session


def fetch(session: requests.Session, url: str, read_s: float = READ_S, max_bytes: int = MAX_BYTES) -> str:
    """Return the text of a page; raises Unreadable."""
    deadline = time.monotonic() + read_s
    try:
        with session.get(url, stream=True, timeout=(TIMEOUT_S, read_s), allow_redirects=False) as response:
            if response.status_code != 200:
                raise Unreadable(f"answered {response.status_code}")
            body = bytearray()
            for chunk in response.iter_content(1 << 16):
                body += chunk
                if len(body) > max_bytes:
                    raise Unreadable(f"more than {max_bytes} bytes")
                if time.monotonic() > deadline:
                    raise Unreadable(f"not read within {read_s:g} s")
    except requests.exceptions.SSLError as error:
        fault = of_error(error)
        raise Unreadable("no TLS connection" if fault is None else fault.what) from error
    except requests.ConnectionError as error:
        if time.monotonic() > deadline:
            raise Unreadable(f"not read within {read_s:g} s") from error
        fault = of_error(error)
        raise Unreadable("cannot connect" if fault is None else fault.what) from error
    except requests.Timeout as error:
        raise Unreadable(f"no answer within {read_s:g} s") from error
    except requests.RequestException as error:
        raise Unreadable(f"cannot be read ({type(error).__name__})") from error
    return body.decode("utf-8", "replace")
