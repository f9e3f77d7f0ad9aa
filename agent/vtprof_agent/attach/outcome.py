"""What became of each process of a tree, for people and scripts."""

from dataclasses import asdict, dataclass
from typing import Any

ATTACHED, DETACHED, WOULD_ATTACH, WOULD_DETACH = "attached", "detached", "would attach", "would detach"
SKIPPED, FAILED = "skipped", "failed"


@dataclass(frozen=True)
class Outcome:
    """One process; None is unknown or does not apply."""

    pid: int
    name: str | None
    result: str
    reason: str | None = None
    """Why it was skipped, or failed and what to do."""
    python: str | None = None
    method: str | None = None
    thread: int | None = None
    """The borrowed thread, or the one that could be borrowed now."""
    stopped_ms: float | None = None
    """How long that thread was stopped; no other was."""

    def document(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return asdict(self)

    def line(self) -> str:
        """Return it as one line."""
        parts = [f"PID {self.pid}" + (f" ({self.name})" if self.name else "") + f": {self.result}"]
        if self.reason is not None:
            return f"{parts[0]}: {self.reason}"
        if self.python is not None:
            parts.append(f"Python {self.python}")
        if self.method is not None:
            parts.append(f"by {self.method}" + (f" {self.thread}" if self.thread else ""))
        if self.stopped_ms is not None:
            parts.append(f"stopped {self.stopped_ms:.1f} ms")
        return ", ".join(parts)
