"""What the watcher can tell of itself after a poll, as one immutable value."""

from dataclasses import dataclass, field

from vtprof_analyzer.watch.events import Level


@dataclass(frozen=True)
class Figures:
    """What is known after a poll."""

    seen: int = 0
    judged: int = 0
    late: int = 0
    not_comparable: int = 0
    skipped: int = 0
    blocks: int = 0
    poll_errors: int = 0
    refused_alerts: int = 0
    last_poll_s: float = 0.0
    newest_request_s: float | None = None
    firing: dict[tuple[str, str], int] = field(default_factory=dict)
    """By alert kind and phase."""
    fired: dict[str, int] = field(default_factory=dict)
    levels: tuple[Level, ...] = ()
    notifications: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    """By sink: sent, failed, dropped."""
    burn_rates: dict[tuple[str, str], float] = field(default_factory=dict)
    """By objective and window."""
    budget_left: dict[str, float] = field(default_factory=dict)
    kv_used: dict[str, float] = field(default_factory=dict)
    kv_seconds: dict[str, float] = field(default_factory=dict)
