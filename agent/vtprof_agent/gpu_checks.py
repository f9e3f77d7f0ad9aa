"""Opens each GPU sampler and takes one reading of each device, for `doctor`: what `run` would not be told, and why."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from vtprof_agent.config import Config
from vtprof_agent.endpoint_checks import cleaned
from vtprof_agent.samplers.gpm import NOT_OFFERED
from vtprof_agent.samplers.sampler import ALL, SAMPLERS, Sampler, load
from vtprof_schemas import names
from vtprof_schemas.errors import BackendError, ConfigError

COSTS: Final[Mapping[str, str]] = {
    "host": "no CPU time and memory of the inference processes",
    "gpm": "no DRAM bandwidth, tensor and SM activity from the driver; a dcgm-exporter may tell (--dcgm-url)",
    "nvml": "no energy, power, clocks and memory of NVIDIA GPUs",
    "pcie": "no PCIe traffic",
    "amd": "no counters of AMD GPUs",
    "dcgm": "no DRAM and tensor activity of NVIDIA GPUs before Hopper",
}
"""What goes missing without a sampler."""
NOT_CHOSEN: Final = "not among the samplers chosen"
READINGS: Final = 15
"""At most: GPM, read each 0.1 s, tells nothing before its second, and waits a second for a metric without a value."""
_RIGHTS: Final = (
    "run as root (CAP_SYS_ADMIN), or load the driver with NVreg_RestrictProfilingToAdminUsers=0, or "
)
_EXPORTER: Final = "give the page of a dcgm-exporter with --dcgm-url"
_FIELDS: Final = (
    "have its dcgm-exporter tell DCGM_FI_PROF_DRAM_ACTIVE and DCGM_FI_PROF_PIPE_TENSOR_ACTIVE of it"
)


@dataclass
class Looked:
    """What the samplers told."""

    gpus: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By UUID as `doctor` shows it."""
    reasons: dict[str, str | None] = field(default_factory=dict)
    """By sampler why it is off; None: it is on."""
    amd: set[str] = field(default_factory=set)
    told: set[tuple[str, str]] = field(default_factory=set)
    """UUIDs and quantities."""
    missing: dict[str, dict[str, str]] = field(default_factory=dict)
    """By UUID and quantity why it was not told."""
    lost: dict[str, str] = field(default_factory=dict)

    def samplers(self) -> list[dict[str, Any]]:
        """Return the samplers as `doctor` shows them."""
        return [
            {"name": name, "available": reason is None, "reason": reason, "costs": COSTS.get(name, "")}
            for name, reason in self.reasons.items()
        ]

    def devices(self) -> list[dict[str, Any]]:
        """Return the GPUs as `doctor` shows them."""
        for uuid, gpu in self.gpus.items():
            gpu.setdefault("gpm", False)
            gpu["mig"] = any(other.get("mig_of") == uuid for other in self.gpus.values())
            missing = self.missing.get(uuid, {}).items()
            gpu["missing"] = {key: why for key, why in missing if (uuid, key) not in self.told}
        return list(self.gpus.values())


def look_at_gpus(config: Config) -> Looked:
    """Open the samplers chosen, read each once, and close them."""
    looked = Looked()
    opened: dict[str, Sampler] = {}
    try:
        for name in SAMPLERS:
            if config.samplers and name not in config.samplers:
                looked.reasons[name] = NOT_CHOSEN
                continue
            try:
                sampler = load(name, config.dcgm_url)
                looked.reasons[name] = sampler.why_not()
                if looked.reasons[name] is None:
                    opened[name] = sampler
                    _list(name, sampler, looked)
            except (BackendError, ConfigError) as error:
                looked.reasons[name] = str(error)
        for name, sampler in opened.items():
            if looked.reasons[name] is None and name != "host":  # which reads processes, of which it is told
                looked.reasons[name] = _read(name, sampler, looked)
    finally:
        for sampler in opened.values():
            sampler.close()
    url = config.dcgm_url
    if url is not None:
        looked.reasons = {name: why and cleaned(why, url) for name, why in looked.reasons.items()}
    return looked


def problems(looked: Looked, config: Config) -> Iterator[str]:
    """Return what is not told of GPUs, though others of that kind tell it, what that costs and what to do."""
    for uuid, why in looked.lost.items():
        yield f"GPU {uuid}: not read: {why}; no counters of it"
    for gpu in looked.devices():
        uuid = gpu["uuid"]
        if gpu["mig"] or uuid in looked.amd or uuid in looked.lost:
            continue  # a GPU in MIG mode has its counters by instance; AMD SMI has no DRAM counters
        missing = gpu["missing"]
        chosen = {name for name, why in looked.reasons.items() if why != NOT_CHOSEN}
        exporter = config.dcgm_url is not None and "dcgm" in chosen
        said = exporter and looked.reasons.get("dcgm") is not None  # of the page itself
        if (
            not said
            and (uuid, names.GPU_DRAM_BANDWIDTH_RATIO) not in looked.told
            and chosen & {"gpm", "dcgm"}
        ):
            why = missing.get(names.GPU_DRAM_BANDWIDTH_RATIO)
            why = why or (looked.reasons.get("gpm") if gpu["gpm"] else None) or NOT_OFFERED
            advice = _FIELDS if exporter else _EXPORTER
            rights = _RIGHTS if "ermission" in why else ""
            yield (
                f"GPU {uuid}: {why}; no DRAM bandwidth nor tensor activity of it, and their attribution: {rights}{advice}"
            )
        # A MIG instance has no energy of its own anywhere.
        energy = missing.get(names.GPU_ENERGY_MJ)
        if energy is not None and "mig_of" not in gpu:
            yield f"GPU {uuid}: no energy counter ({energy}); no energy of requests and steps on it"


def _list(name: str, sampler: Sampler, looked: Looked) -> None:
    sampler.open()
    for device in sampler.devices():
        known = looked.gpus.setdefault(device.uuid, {"uuid": device.uuid, "name": device.name})
        known.update(device.details)
        if name == "amd":
            looked.amd.add(device.uuid)


def _read(name: str, sampler: Sampler, looked: Looked) -> str | None:
    """Note what a sampler tells, and why not of what it does not; return why it tells nothing at all, None: it does."""
    awaited = {uuid for uuid, gpu in looked.gpus.items() if gpu.get("gpm")} if name == "gpm" else set()
    told: set[tuple[str, str]] = set()
    try:
        for _ in range(READINGS):
            told |= {(one.hw_id, one.key) for one in sampler.sample(frozenset()) if one.hw_id is not None}
            lost, missing = sampler.lost(), sampler.missing()
            settled = {uuid for uuid, _ in told} | missing.keys() | lost.keys()
            if awaited <= settled or ALL in lost:
                break
            time.sleep(sampler.period_s)
    except Exception as error:  # what a driver's binding raises must not cost the rest of the report
        return f"a reading of it failed: {error!r}"
    looked.told |= told
    for uuid, keys in missing.items():
        known = looked.missing.setdefault(uuid, {})
        known |= {key: why for key, why in keys.items() if key not in known}
    if ALL in lost:
        return lost[ALL]
    looked.lost.update(lost)
    if told:
        return None
    return next(iter((*sampler.refused().values(), *lost.values())), "no device here tells it anything")
