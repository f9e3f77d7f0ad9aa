"""What the processes of a server say of themselves, put together: resources, KV costs, model, whether GPU times come."""

from collections.abc import Iterable, Mapping

from vtprof_agent.assembly import Assembly
from vtprof_agent.facts import Value
from vtprof_agent.identifiers import Origin
from vtprof_agent.member import ROLE_API, ROLE_WORKER, Member
from vtprof_agent.request_state import KvCosts
from vtprof_agent.resource import ring_resource
from vtprof_schemas import names

DEVICE_CPU = "cpu"
_OWN = frozenset((names.ROLE, names.RANK, names.PROBE_HOOKS, names.INFO_TRUNCATED, names.DEVICE_CORES))
"""Keys that speak of one process and stand for no other."""
_ENGINES_CACHE = frozenset(
    (
        names.KV_DTYPE,
        names.KV_BLOCK_TOKENS,
        names.KV_CAPACITY_TOKENS,
        names.KV_BYTES_PER_TOKEN,
        names.KV_FIXED_BYTES,
    )
)
"""What an API server does not have: told of it too, the cache would count twice."""


class FamilyInfo:
    """The common knowledge of a family."""

    def __init__(self, host_peaks: Mapping[str, Value]) -> None:
        """Start with nothing told; ``host_peaks`` are the agent's own measurements, for models on the CPU."""
        self.origins: dict[int, Origin] = {}
        """By ring: who writes it, from which ids derive."""
        self._host_peaks = host_peaks

    def refresh(self, members: Iterable[Member], assembly: Assembly) -> None:
        """Bring resources and assembly up to date with what the processes say now."""
        members = list(members)
        kinds = set()
        for member in members:
            info = self._merged(member, members, assembly.steps.groups)
            on_cpu = info.get(names.DEVICE_KIND) == DEVICE_CPU
            extra = self._host_peaks if on_cpu else {}
            assembly.requests.kv[member.index] = _costs(info)
            assembly.steps.gpus[member.index] = () if on_cpu else _gpus(info)
            if member.role == ROLE_API:
                info = {key: value for key, value in info.items() if key not in _ENGINES_CACHE}
            member.resource = ring_resource(info, member.identity, extra)
            member.builder.resource = member.resource
            if member.role != ROLE_API:
                kinds.add(member.info.get(names.DEVICE_KIND))
        # Attached again, an engine has a second ring.
        engines = {
            (m.identity.instance_id, m.rank): m.index
            for m in members
            if m.role not in (ROLE_API, ROLE_WORKER)
        }
        assembly.requests.only_engine = next(iter(engines.values())) if len(engines) == 1 else None
        models = [
            member.info.get(names.REQUEST_MODEL) for member in sorted(members, key=_weight, reverse=True)
        ]
        assembly.requests.model = next((model for model in models if isinstance(model, str)), None)
        # Without CUDA no GPU time will come, and nothing need be held for it. A process that does not say leaves it open.
        told = kinds - {None}
        assembly.expects_gpu_time = told != {DEVICE_CPU}

    def _merged(
        self, member: Member, members: list[Member], groups: Mapping[int, int]
    ) -> Mapping[str, Value]:
        """Return what the family says for a ring: its own word first, then the engine's, the workers', the API's."""
        if len(members) == 1:
            return member.info
        mine = groups.get(member.index)
        near = [
            other
            for other in sorted(members, key=_weight)
            if other is member or mine is None or groups.get(other.index, mine) == mine
        ]
        merged: dict[str, Value] = {}
        for other in near:
            merged.update((key, value) for key, value in other.info.items() if key not in _OWN)
        devices = [str(other.info[names.HW_ID]) for other in reversed(near) if names.HW_ID in other.info]
        if devices:
            each = [one for text in devices for one in text.split(",")]
            merged[names.HW_ID] = ",".join(dict.fromkeys(each))
        services = [
            o.info[names.SERVICE_NAME] for o in near if o.role == ROLE_API and names.SERVICE_NAME in o.info
        ]
        merged.update((key, value) for key, value in member.info.items() if key != names.HW_ID)
        if services:
            merged[names.SERVICE_NAME] = services[0]
        return merged


def _weight(member: Member) -> tuple[int, int]:
    """Order processes by how much their word counts: the API's least, then high ranks to low, the engine's most."""
    return {ROLE_API: 0, ROLE_WORKER: 1}.get(member.role, 2), -member.rank


def _gpus(info: Mapping[str, Value]) -> tuple[str, ...]:
    """Return the GPUs of a process, by UUID."""
    told = str(info.get(names.HW_ID, "")).split(",")
    return tuple(dict.fromkeys(uuid.strip() for uuid in told if uuid.strip()))


def _costs(info: Mapping[str, Value]) -> KvCosts:
    per_token, fixed = info.get(names.KV_BYTES_PER_TOKEN), info.get(names.KV_FIXED_BYTES)
    return KvCosts(
        per_token if isinstance(per_token, int) and per_token >= 0 else None,
        fixed if isinstance(fixed, int) and fixed >= 0 else 0,
    )
