"""What Alertmanager is told (API v2, POST /api/v2/alerts): all that fires, again and again, and what is over.

As with Prometheus each alert says until when it holds, so that it ends there if the watcher is gone; it is sent again
before that. Its labels identify it; Alertmanager itself drops repeats, groups, silences and notifies.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final

from vtprof_analyzer.watch.alerts import Entry

API: Final = "/api/v2/alerts"
RESEND_S: Final = 60.0
HOLDS: Final = 4
"""An alert holds so many times as long as it takes until it is sent again: three posts may fail."""
_EARLIEST_S: Final = 1.0
"""Alertmanager refuses an alert that ends when it starts."""


def url_of(base: str) -> str:
    """Return the address of the API below that of Alertmanager."""
    return base if base.endswith(API) else base.rstrip("/") + API


def alerts_json(entries: Iterable[Entry], now_s: float, link: str | None = None) -> list[dict[str, Any]]:
    """Return alerts as Alertmanager takes them. ``link``: where its notifications point to."""
    return [_alert_json(entry, now_s, link) for entry in entries]


def _alert_json(entry: Entry, now_s: float, link: str | None) -> dict[str, Any]:
    alert = entry.alert
    # Hosts' clocks differ: what starts in the future would not be taken as firing.
    starts = min(alert.began_unix_nano / 1e9, now_s)
    ends = now_s + HOLDS * RESEND_S if entry.ended_s is None else max(entry.ended_s, starts + _EARLIEST_S)
    annotations = {"summary": alert.summary, "description": alert.description}
    if entry.why is not None:
        annotations["resolved_reason"] = entry.why
    if entry.because:
        annotations["description"] = f"{entry.because} {alert.description}"
    told = {
        "labels": dict(alert.labels),
        "annotations": annotations,
        "startsAt": _rfc3339(starts),
        "endsAt": _rfc3339(ends),
    }
    return {**told, "generatorURL": link} if link else told


def _rfc3339(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
