"""The books of a soak: what came out of an agent's destinations, beside what the records that went in imply."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ring_load import PHASES
from soak_receiver import COUNTER_PREFIX

from vtprof_schemas import names

STEPS = {names.SPAN_STEP: "prefill steps", names.SPAN_WINDOW: "decode steps"}
"""Spans that fold iterations, which are what is counted of them."""
COUNTED = (names.SPAN_REQUEST, *(f"vtprof.{phase}" for phase in PHASES))


@dataclass
class Account:
    """Distinct spans of one destination, and repeats that were not identical."""

    spans: Counter[str] = field(default_factory=Counter)
    """Distinct ones by name, of steps the iterations folded in them."""
    repeats: int = 0
    conflicts: list[str] = field(default_factory=list)
    _digests: dict[str, str] = field(default_factory=dict)

    def add(self, span_id: str, name: str, steps: int, digest: str) -> None:
        """Take a span; one that is known must be the same."""
        known = self._digests.setdefault(span_id, digest)
        if known is not digest:
            self.repeats += 1
            if known != digest:
                self.conflicts.append(f"{name} {span_id}")
            return
        if name in STEPS:
            self.spans[STEPS[name]] += steps
        elif name in COUNTED:
            self.spans[name] += 1
        else:
            self.spans[f"unforeseen {name}"] += 1


def received(log: Path, pids: Iterable[int]) -> Account:
    """Return the account of what a ``soak_receiver`` took, of the processes of these PIDs."""
    account, chosen = Account(), {str(pid) for pid in pids}
    with log.open() as lines:
        for line in lines:
            pid, span_id, name, steps, digest = line.split()
            if pid in chosen:
                account.add(span_id, name, int(steps), digest)
    return account


def written(folder: Path, pids: Iterable[int]) -> Account:
    """Return the account of the JSON lines in an output folder; lines that were cut by a kill are no spans."""
    account, chosen = Account(), {str(pid) for pid in pids}
    for path in sorted(folder.glob("*.traces.jsonl")):
        with path.open("rb") as lines:
            for line in lines:
                for resource in _document(line).get("resourceSpans", ()):
                    if _values(resource["resource"]).get(names.PROCESS_PID, {}).get("intValue") in chosen:
                        for scope in resource["scopeSpans"]:
                            for span in scope["spans"]:
                                _add(account, span)
    return account


def _document(line: bytes) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(line)
    except ValueError:
        return {}
    return document


def _values(holder: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["key"]: one["value"] for one in holder.get("attributes", ())}


def _add(account: Account, span: dict[str, Any]) -> None:
    values = _values(span)
    steps = int(values.get(names.STEP_COUNT, {}).get("intValue", 0))
    same = sorted((key, repr(value)) for key, value in values.items() if not key.startswith(COUNTER_PREFIX))
    length_ns = int(span["endTimeUnixNano"]) - int(span["startTimeUnixNano"])
    whole = repr((span["name"], span.get("parentSpanId", ""), length_ns, same))
    digest = hashlib.blake2b(whole.encode(), digest_size=8).hexdigest()
    account.add(span["spanId"], span["name"], steps, digest)
