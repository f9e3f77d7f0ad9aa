"""One ring's part in its family: who wrote it, what it says of itself, its steps folded, and the spans made of it."""

from collections import deque
from collections.abc import Mapping

from vtprof_agent.align import Alignment
from vtprof_agent.facts import Value
from vtprof_agent.identifiers import Origin
from vtprof_agent.inbox.decoder import Record
from vtprof_agent.inbox.ring_header import RingIdentity
from vtprof_agent.resource import RingResource, ring_resource
from vtprof_agent.spans import SpanBuilder
from vtprof_agent.windows import Folding
from vtprof_schemas import names
from vtprof_schemas.records import DETAIL_DEFAULT

ROLE_API = "api"
ROLE_WORKER = "worker"
SERVERS = frozenset(("vllm", "sglang"))
"""Engines whose processes share the numbers of requests and steps. Any other process numbers its own from 1, so that two
below one command, which inherit one family, must not be joined."""


class Member:
    """A ring as its family sees it."""

    builder: SpanBuilder

    def __init__(self, identity: RingIdentity, exported_before: int, read_before: int) -> None:
        """Begin; ``exported_before`` and ``read_before`` are ring sequences up to which an earlier agent came."""
        self.identity = identity
        self.origin = Origin(identity.boot_id, identity.pid, identity.start_ticks, identity.created_ns)
        self.exported_before, self.read_before = exported_before, read_before
        self.index = 0
        self.info: Mapping[str, Value] = {}
        self.resource: RingResource = ring_resource({}, identity)
        self.detail = DETAIL_DEFAULT
        self.folding = Folding(exported_before)
        self.levels: dict[str, int] = {}
        """KV and batch after its last step."""
        self.next_sequence = 1
        """Of the next record to be read."""
        self.at_end = False
        self.ended = False
        self.held: deque[Record] = deque()
        """Read and not fed yet."""
        self.held_round = 0
        self.stepped = False
        """True once a step was read."""
        self.awaits_scan = False
        """True from then until the folder was looked at again: a worker made its ring before that step ended."""
        self.met = 0
        """How many rings the family had then."""
        self.waits_for: set[int] = set()
        """Rings that must be read to their end before the held records are fed."""

    def build(self, origins: Mapping[int, Origin]) -> None:
        """Prepare to make spans, in a family of these origins."""
        self.builder = SpanBuilder(self.origin, self.resource, Alignment(0), origins)

    @property
    def role(self) -> str:
        """Return what the process does: api, engine, worker or all."""
        role = self.info.get(names.ROLE)
        return role if isinstance(role, str) else self.identity.role or "all"

    @property
    def rank(self) -> int:
        """Return the rank of the process."""
        rank = self.info.get(names.RANK)
        return rank if isinstance(rank, int) else self.identity.rank

    @property
    def server(self) -> str | None:
        """Return the family's name if the process belongs to a server whose rings share their numbers."""
        family = self.info.get(names.FAMILY)
        joined = self.info.get(names.ENGINE_NAME) in SERVERS
        return (str(family) if family else f"alone-{self.identity.ring_id}") if joined else None
