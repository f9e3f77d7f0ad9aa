"""A dcgm-exporter's page as values of our vocabulary, by GPU or MIG instance; field names before DCGM 4.6 and after."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from vtprof_schemas import names

_PREFIX: Final = "DCGM_FI_"
MAX_LINE: Final = 1 << 13
"""Characters; with labels of pods and jobs a line has some hundreds."""
MAX_WANTED: Final = 1 << 19
"""Characters of all lines that are parsed, which takes half a second; 16 GPUs in 7 instances each have 250,000."""
_MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Field:
    """What a DCGM field is for us."""

    key: str
    scale: float = 1.0
    most: float = 1.0
    """Of the value as it stands on the page: blank marks, such as 2**47, and nonsense are beyond it."""
    whole: bool = False
    """Told of the whole GPU, on the lines of its instances too."""


FIELDS: Final[Mapping[str, Field]] = {
    "DCGM_FI_PROF_DRAM_UTIL_RATIO": Field(names.GPU_DRAM_BANDWIDTH_RATIO),
    "DCGM_FI_PROF_DRAM_ACTIVE": Field(names.GPU_DRAM_BANDWIDTH_RATIO),
    "DCGM_FI_PROF_TENSOR_UTIL_RATIO": Field(names.GPU_TENSOR_ACTIVE_RATIO),
    "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE": Field(names.GPU_TENSOR_ACTIVE_RATIO),
    "DCGM_FI_PROF_SM_UTIL_RATIO": Field(names.GPU_SM_ACTIVE_RATIO),
    "DCGM_FI_PROF_SM_ACTIVE": Field(names.GPU_SM_ACTIVE_RATIO),
    "DCGM_FI_PROF_SM_OCCUPANCY_RATIO": Field(names.GPU_SM_OCCUPANCY_RATIO),
    "DCGM_FI_PROF_SM_OCCUPANCY": Field(names.GPU_SM_OCCUPANCY_RATIO),
    "DCGM_FI_PROF_GR_ENGINE_UTIL_RATIO": Field(names.GPU_BUSY_RATIO),
    "DCGM_FI_PROF_GR_ENGINE_ACTIVE": Field(names.GPU_BUSY_RATIO),
    "DCGM_FI_DEV_BOARD_POWER_WATTS": Field(names.GPU_POWER_MW, 1000.0, 1e5, whole=True),
    "DCGM_FI_DEV_POWER_USAGE": Field(names.GPU_POWER_MW, 1000.0, 1e5, whole=True),
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": Field(names.GPU_ENERGY_MJ, 1.0, 1e14, whole=True),
    "DCGM_FI_DEV_SM_CLOCK": Field(names.GPU_SM_CLOCK_MHZ, 1.0, 1e5, whole=True),
    "DCGM_FI_DEV_MEM_CLOCK": Field(names.GPU_MEMORY_CLOCK_MHZ, 1.0, 1e5, whole=True),
    "DCGM_FI_DEV_MEM_COPY_UTIL": Field(names.GPU_MEMORY_BUSY_RATIO, 0.01, 100.0, whole=True),
    "DCGM_FI_DEV_FB_USED": Field(names.GPU_MEMORY_USED_BYTES, _MIB, 1e8),
}
"""By name on the page. ``MEM_COPY_UTIL`` is NVML's share of time in which memory was used at all, no bandwidth."""


@dataclass(frozen=True, slots=True)
class Line:
    """One value of the page."""

    uuid: str
    """Of the whole GPU."""
    instance: int | None
    """Id of the GPU instance."""
    key: str
    value: float


def wanted(text: str) -> tuple[str, int]:
    """Return the lines of a page that are read, which change only when the values do, and how many are too long or many."""
    lines: list[str] = []
    size = left_out = 0
    for line in text.splitlines():
        name = line[:64].partition("{")[0].partition(" ")[0]
        if not name.startswith(_PREFIX) or name not in FIELDS:
            continue
        if len(line) > MAX_LINE or size + len(line) >= MAX_WANTED:
            left_out += 1
            continue
        size += len(line) + 1
        lines.append(line)
    return "\n".join(lines) + "\n", left_out


def read(lines: str) -> list[Line]:
    """Parse what ``wanted`` returned; raises ValueError when it is not in Prometheus' text form."""
    found: dict[tuple[str, int | None, str], float] = {}
    for family in text_string_to_metric_families(lines):
        for sample in family.samples:
            field = FIELDS.get(sample.name)
            uuid = sample.labels.get("UUID") or sample.labels.get("uuid")
            if field is None or not uuid or not 0 <= sample.value <= field.most:
                continue
            number = sample.labels.get("GPU_I_ID", "")
            instance = int(number) if number.isascii() and number.isdecimal() and len(number) < 6 else None
            place = (uuid, None if field.whole else instance, field.key)
            found.setdefault(place, sample.value * field.scale)
    return [Line(uuid, instance, key, value) for (uuid, instance, key), value in found.items()]


def hw_id(line: Line, instance_uuid: Callable[[str, int], str | None]) -> str:
    """Return whose value it is: the GPU's UUID, or of its MIG device; where that is not known the GPU's and the id."""
    if line.instance is None:
        return line.uuid
    return instance_uuid(line.uuid, line.instance) or f"{line.uuid}/{line.instance}"


def uuids(lines: Iterable[Line]) -> list[str]:
    """Return the whole GPUs on a page."""
    return list(dict.fromkeys(line.uuid for line in lines))
