"""The objectives in detail: what each group of requests reached and cost, and what more nodes brought.

Rows of the stages ``slo`` and ``scaling``. Sampled requests count as often as they stand for others.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class SloRow:
    """One group of requests and one objective. Goodput, price and energy are of all objectives together."""

    scope: str  # all, model, visual_stratum or node
    name: str | None  # which model, stratum or node; None for all
    objective: str  # ttft, tpot, or completed (ended well, however long it took)
    requests: float  # weighted
    attainment: float | None  # share that met it, 0..1; failed requests missed it
    goodput_share: float | None  # share that met every objective given; None where none was
    goodput_per_s: float | None  # of them, by the second of the whole run
    usd_per_ok_request: float | None  # price of the nodes over those that met every objective (or completed)
    j_per_ok_request: float | None  # energy of all requests, failed ones too, over the same


@dataclass(frozen=True)
class ScalingRow:
    """The time in which so many nodes served. Efficiency is null where the run had one node count only."""

    nodes: int
    seconds: float
    rate_per_s: float  # requests that arrived
    attainment: float | None  # share of them that met every objective (or completed, without any)
    goodput_per_s: float | None
    efficiency: float | None  # goodput of a node / that of a node at the smallest count; 1 is linear
