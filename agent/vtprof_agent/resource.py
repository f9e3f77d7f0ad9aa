"""The OpenTelemetry resource of a ring: the attributes its process told, typed by the vocabulary, plus who it is."""

import socket
from collections.abc import Mapping
from functools import cached_property

from opentelemetry.sdk.resources import Resource

from vtprof_agent.facts import Value
from vtprof_agent.inbox.ring_header import RingIdentity
from vtprof_schemas import SCHEMA_VERSION, names

DEFAULT_SERVICE_NAME = "vtprof"
AGENT_SERVICE_NAME = "vtprof-agent"
INT64_MAX = 2**63 - 1


class RingResource(Resource):
    """A resource with its hash kept: exporters group by it for every span, and the model's config is long."""

    @cached_property
    def _hash(self) -> int:
        return super().__hash__()

    def __hash__(self) -> int:
        """Return the resource's hash, computed once."""
        return self._hash

    def __eq__(self, other: object) -> bool:
        """Compare by value; the same object first."""
        return self is other or super().__eq__(other)


def ring_resource(
    info: Mapping[str, Value], identity: RingIdentity, extra: Mapping[str, Value] | None = None
) -> RingResource:
    """Make the resource of a ring from its cleaned info block and its identity.

    ``extra`` are attributes of the agent's own, such as measured peaks; they do not replace what the process says.
    """
    values = {**(extra or {}), **info}
    # The model's name belongs to requests, and how the probe is doing to `status`.
    for key in (names.REQUEST_MODEL, names.FAMILY, names.PROBE_HOOKS):
        values.pop(key, None)
    values.setdefault(names.SERVICE_NAME, DEFAULT_SERVICE_NAME)
    values.setdefault(names.HOST_NAME, socket.gethostname())
    values.setdefault(names.ROLE, identity.role or "all")
    values.setdefault(names.RANK, identity.rank)
    values[names.SERVICE_INSTANCE_ID] = identity.instance_id
    values[names.RING_CREATED_NS] = min(identity.created_ns, INT64_MAX)
    values[names.PROCESS_PID] = identity.pid
    values[names.RESOURCE_SCHEMA_VERSION] = SCHEMA_VERSION
    return RingResource(values)


def agent_resource(instance_id: str) -> RingResource:
    """Make the resource of the agent itself: what belongs to the node and to no ring."""
    return RingResource(
        {
            names.SERVICE_NAME: AGENT_SERVICE_NAME,
            names.SERVICE_INSTANCE_ID: instance_id,
            names.HOST_NAME: socket.gethostname(),
            names.RESOURCE_SCHEMA_VERSION: SCHEMA_VERSION,
        }
    )
