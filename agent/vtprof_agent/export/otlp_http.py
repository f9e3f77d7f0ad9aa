"""OTLP over HTTP: posts protobuf messages and reads from the answer what became of them."""

import json
import math
import os
import re
import time
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import requests
import urllib3

from vtprof_agent.diagnosis import (
    BASE_URL,
    BROKEN_OFF,
    NO_HTTP,
    NO_OTLP,
    TLS,
    causes,
    is_plain_to_tls,
    of_error,
)
from vtprof_agent.export.destination import Outcome
from vtprof_agent.export.parcel import Parcel, Signal
from vtprof_agent.export.proxies import ASKS_FOR_USER, Proxy, of_requests
from vtprof_agent.export.transport import (
    Answer,
    TokenFile,
    certificates,
    headers,
    parse_endpoint,
    partial_success,
    shown,
)
from vtprof_agent.whole_answer import limit_answers

RETRYABLE: Final = frozenset((401, 403, 404, ASKS_FOR_USER, 408, 429))
"""Statuses of a Collector that is not ready, not yet configured for us, or asks to slow down."""
NO_METRICS: Final = 404
"""To metrics: of a Collector without a pipeline for them, which must not hold up the spans behind."""
BAD_REQUEST: Final = 400
_TAKEN: Final = frozenset((200, 201, 202, 204))
"""OTLP names 200 alone; the others are given by gateways that queue. Any other 2xx says that less was done, or nothing."""
_CONTENT_TOO_LARGE: Final = 413
_BODY_TOO_LARGE: Final = b"request body too large"
"""What the Collector says with 400, as Go's http.MaxBytesReader words it."""
_ADVICE: Final = {
    401: "set otlp_token_file",
    404: f"nothing takes traces at /v1/traces below it: {BASE_URL}",
}
_NO_SUCCESS: Final = f"OTLP answers 200 to what it took, and messages are sent again until then: {BASE_URL}"
_PROTOBUF: Final = "application/x-protobuf"
_JSON: Final = "application/json"
_NO_PROTOBUF: Final = ("text/", _JSON)
_MOST_ANSWER_BYTES: Final = 64 * 1024
_NO_TUNNEL: Final = re.compile(r"Tunnel connection failed: (\d{3})")
"""What http.client says with the status that a proxy answers to CONNECT."""
_OF_PROXY: Final = (requests.exceptions.ProxyError, requests.exceptions.InvalidSchema)
"""What only a proxy can be the reason of; InvalidSchema: one of SOCKS, without the package that it takes."""


def signal_urls(endpoint: str) -> tuple[str, str]:
    """Return the URLs for traces and metrics of a Collector's base URL, or of one of the two; raises ConfigError."""
    parse_endpoint(endpoint, "http://collector:4318")
    base = endpoint.rstrip("/").removesuffix("/v1/traces").removesuffix("/v1/metrics")
    return f"{base}/v1/traces", f"{base}/v1/metrics"


class HttpTransport:
    """One connection to an endpoint, kept open; headers and certificates may come from OTEL_EXPORTER_OTLP_*."""

    def __init__(
        self, endpoint: str, timeout_s: float, token_file: Path | None = None, ca_file: Path | None = None
    ) -> None:
        """Prepare; connects with the first message. Raises ConfigError.

        ``timeout_s`` is for the connection and again for the whole answer, however slowly it comes.
        """
        self._urls = dict(zip(Signal, signal_urls(endpoint), strict=True))
        parts = urlsplit(endpoint)
        self.target = shown(parts)
        self._token = None if token_file is None else TokenFile(token_file, parts)
        self._certificates = {signal: certificates(signal, ca_file) for signal in Signal}
        self._headers = {
            signal: {
                "user-agent": "vtprof-agent",
                **headers(signal),
                "content-type": _PROTOBUF,
                "content-encoding": "gzip",
            }
            for signal in Signal
        }
        self._timeout_s = timeout_s
        self._session = limit_answers(requests.Session())
        if self._token is not None and parts.scheme == "http":
            self._session.trust_env = False  # no proxy: it would see the token
        self.proxy = of_requests(self._session, self._urls[Signal.TRACES], os.environ)
        self._answering = self.proxy if self.proxy is not None and self.proxy.answers(parts.scheme) else None

    def send(self, parcel: Parcel) -> Answer:
        """Post a message."""
        try:
            try:
                return self._post(parcel)
            except requests.Timeout:
                raise
            except requests.ConnectionError:
                # A connection that idled was closed by the other side; where that is not so, this fails as well.
                return self._post(parcel)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            return self._failure(error)

    def _failure(self, error: Exception) -> Answer:
        if isinstance(error, requests.Timeout):
            return Answer(Outcome.RETRY, f"no answer within {self._timeout_s:g} s")
        fault = of_error(error)
        no_url = _is_no_proxy_url(error)
        proxy = self.proxy if no_url or isinstance(error, _OF_PROXY) else self._answering
        if proxy is None and self.proxy is not None and fault in (NO_HTTP, BROKEN_OFF):
            what, advice = f"it or the proxy {fault.what}", self.proxy.advice
        elif proxy is None:
            what, advice = (_said(error), "") if fault is None else (fault.what, fault.advice)
        elif refused := _NO_TUNNEL.search(str(error)):
            what, advice = proxy.refusal(int(refused[1]))
        elif fault is not None:
            what, advice = f"the proxy {fault.what}", proxy.advice
        else:
            what = f"the proxy cannot be used ({'no URL' if no_url else _said(error)})"
            advice = proxy.advice
        return Answer(Outcome.RETRY, what, advice=advice)

    def _post(self, parcel: Parcel) -> Answer:
        found = self._certificates[parcel.signal]
        own = (found.client_file, found.client_key_file) if found.client_key_file else found.client_file
        with self._session.post(
            self._urls[parcel.signal],
            data=parcel.payload,
            headers=self._headers[parcel.signal],
            auth=self._authorize if self._token is not None else None,
            timeout=self._timeout_s,
            verify=found.ca_file or True,
            cert=own,  # type: ignore[arg-type]  # the first of the two is given when the second is
            allow_redirects=False,
            stream=True,
        ) as response:
            return _answer(parcel.signal, response, self._answering)

    def close(self) -> None:
        """Close the connection."""
        self._session.close()

    def _authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        # As `auth`, so that no entry in .netrc takes its place.
        assert self._token is not None
        request.headers["Authorization"] = self._token.authorization()
        return request


def _answer(signal: Signal, response: requests.Response, proxy: Proxy | None) -> Answer:
    """Return what an answer means; ``proxy``: it may be this one's own."""
    status = response.status_code
    body = response.raw.read(_MOST_ANSWER_BYTES, decode_content=True) or b""
    if status in _TAKEN:
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        told = None if kind.startswith(_NO_PROTOBUF) else partial_success(signal, body)
        if told is not None:
            return Answer(Outcome.DELIVERED, *told, sure=kind == _PROTOBUF)
        if not _is_page(kind, body):
            return Answer(Outcome.DELIVERED, sure=kind == _PROTOBUF or _is_json_answer(kind, body))
        # A Collector without a pipeline for metrics may have a web server behind it: as with 404.
        outcome = Outcome.REFUSED if signal is Signal.METRICS else Outcome.RETRY
        return Answer(outcome, NO_OTLP.what, advice=NO_OTLP.advice)
    if proxy is not None and status == ASKS_FOR_USER:
        what, advice = proxy.refusal(status)
        return Answer(Outcome.RETRY, what, advice=advice)
    reason = f"HTTP status {status}" + (", of the proxy or from behind it" if proxy else "")
    if status == BAD_REQUEST and is_plain_to_tls(body):  # not of the message, which would be dropped
        return Answer(Outcome.RETRY, TLS.what, advice=TLS.advice)
    if status == _CONTENT_TOO_LARGE or (status == BAD_REQUEST and _BODY_TOO_LARGE in body):
        return Answer(Outcome.REFUSED, reason, too_large=True)
    if signal is Signal.METRICS and status == NO_METRICS:
        return Answer(Outcome.REFUSED, reason)
    if status in RETRYABLE or not 400 <= status < 500:
        # A redirect is not followed, it would take the token elsewhere: of a proxy before login, it passes.
        return Answer(
            Outcome.RETRY,
            reason,
            wait_s=retry_after_s(response.headers.get("Retry-After"), time.time()),
            advice=_ADVICE.get(status, proxy.advice if proxy else _NO_SUCCESS if 200 <= status < 300 else ""),
        )
    return Answer(Outcome.REFUSED, reason)


def _is_json_answer(kind: str, body: bytes) -> bool:
    """Tell whether an answer is OTLP's in JSON, with which some receivers answer protobuf."""
    if kind != _JSON:
        return False
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(told, dict) and told.keys() <= {"partialSuccess"}


def _is_page(kind: str, body: bytes) -> bool:
    """Tell whether an answer is a web page, or one without end; receivers answer with JSON or a short word too."""
    endless = len(body) == _MOST_ANSWER_BYTES and kind != _PROTOBUF
    return endless or body.lstrip().startswith(b"<") or (kind == "text/html" and body != b"")


def retry_after_s(value: str | None, now_unix_s: float) -> float | None:
    """Read a Retry-After header: seconds, or a date; None when it is absent or neither."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - now_unix_s
        except (ValueError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _is_no_proxy_url(error: BaseException) -> bool:
    """Tell whether the proxy is named by what is no URL; the endpoint's URL was looked at before."""
    if isinstance(error, requests.exceptions.InvalidProxyURL):
        return True
    wrapped = error.args[0] if isinstance(error, requests.exceptions.InvalidURL) else None
    return isinstance(wrapped, urllib3.exceptions.LocationParseError)


def _said(error: BaseException) -> str:
    """Return the innermost reason of a failed request in few words."""
    *_, seen = causes(error)
    if isinstance(seen, requests.exceptions.InvalidSchema):  # which says what package it takes
        return str(seen).rstrip(".")
    return getattr(seen, "strerror", None) or type(seen).__name__
