"""What the loop takes from beside the rings: spans that engines send by themselves, points read from their pages."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final, Protocol

from opentelemetry.sdk.trace import ReadableSpan

from vtprof_agent.faults import Faults
from vtprof_agent.metric_points import Point

FEED_COUNTS: Final[Mapping[str, str]] = {
    "vtprof_agent_otlp_spans_received_total": "Spans that engines sent and the agent took.",
    "vtprof_agent_otlp_spans_refused_total": "Spans that engines sent and the agent refused: too many wait, or no valid id.",
    "vtprof_agent_otlp_requests_malformed_total": "OTLP requests refused: malformed, too large, another signal, no token.",
    "vtprof_agent_otlp_requests_turned_away_total": (
        "OTLP requests and connections turned away: too many, too slow, over budget."
    ),
    "vtprof_agent_otlp_contents_dropped_total": "Attributes and events of engines' spans left out: prompts, answers, media.",
    "vtprof_agent_engine_scrapes_total": "Readings of engines' metrics pages.",
    "vtprof_agent_engine_scrapes_failed_total": "Attempts to read an engine's metrics page that failed.",
    "vtprof_agent_engine_values_left_out_total": "Of engines' metrics pages: lines too long, values that cannot be.",
}
"""Counters of the agent's metrics page that feeds advance, and what each means."""


class Feed(Protocol):
    """A source that fills by itself, from threads of its own; the loop empties it at each flush."""

    def take(self) -> tuple[list[ReadableSpan], list[Point]]:
        """Return what came since the last call; does not wait."""

    def counts(self) -> Mapping[str, int]:
        """Return running totals, by names of ``FEED_COUNTS``."""

    def close(self) -> None:
        """Take nothing more in; what came until then can still be taken. May be called again."""


class Feeds:
    """All feeds of an agent; a fault of one costs neither the others nor the rings."""

    def __init__(self, feeds: Sequence[Feed] = ()) -> None:
        """Join open feeds."""
        self._feeds = feeds
        self._faults = Faults()

    def take(self, spans: list[ReadableSpan], points: list[Point]) -> None:
        """Add what came since the last call."""
        for feed in self._feeds:
            self._faults.guard("taking from a receiver", partial(_move, feed, spans, points))

    def counts(self) -> Counter[str]:
        """Return the running totals over all feeds."""
        totals: Counter[str] = Counter()
        for feed in self._feeds:
            totals.update(feed.counts())
        return totals

    def close(self) -> None:
        """Close all."""
        for feed in self._feeds:
            self._faults.guard("closing a receiver", feed.close)


def _move(feed: Feed, spans: list[ReadableSpan], points: list[Point]) -> None:
    more_spans, more_points = feed.take()
    spans += more_spans
    points += more_points
