"""Describes the model, its engine and its device as resource attributes."""

import json
import os
import platform
import sys
from typing import Any, Dict

from vtprof_probe.engines.process_info import process_info
from vtprof_schemas import names, records

MAX_CONFIG_BYTES = records.INFO_MAX_BYTES - 8192
"""What the model's configuration may take of the info block."""

_LEFT_OUT = frozenset({"id2label", "label2id", "_name_or_path", "name_or_path", "transformers_version"})
"""Long label tables, and paths that are nobody's business."""


def describe(model: Any) -> Dict[str, Any]:
    """Return the resource attributes of a process that runs ``model``; keys of ``names``."""
    config = model.config
    info: Dict[str, Any] = {
        **process_info("transformers", str(getattr(sys.modules.get("transformers"), "__version__", ""))),
        names.ROLE: "all",
        names.RANK: 0,
        names.PARALLEL_TP: 1,
        names.PARALLEL_PP: 1,
        names.PARALLEL_DP: 1,
        names.PARALLEL_EP: 1,
        names.REQUEST_MODEL: model_name(model),
        names.MODEL_CONFIG: config_text(config, type(model).__name__),
        names.WEIGHTS_DTYPE: dtype_name(model.dtype),
        names.ENGINE_CONFIG: json.dumps(
            {"attn_implementation": str(getattr(config, "_attn_implementation", None) or "eager")}
        ),
    }
    info.update(device_info(model.device))
    return info


def model_name(model: Any) -> str:
    """Return the name the model was loaded by, without a local path, or its class."""
    name = str(getattr(model.config, "_name_or_path", "") or "").rstrip("/\\")
    if os.path.isabs(name) or name.startswith("."):
        name = os.path.basename(name)
    return name or type(model).__name__


def dtype_name(dtype: Any) -> str:
    """Return a torch dtype's short name."""
    return str(dtype).replace("torch.", "")


def config_text(config: Any, class_name: str) -> str:
    """Return the configuration as JSON text: every value if that fits, else those that are no defaults."""
    text = ""
    for as_dict in (config.to_dict, config.to_diff_dict):
        tree = _without_paths(as_dict())
        tree["architectures"] = tree.get("architectures") or [class_name]
        tree.setdefault("model_type", getattr(config, "model_type", ""))
        text = json.dumps(tree, default=str, sort_keys=True)
        # Text within text: every quotation mark is escaped once more.
        if len(json.dumps(text)) <= MAX_CONFIG_BYTES:
            return text
    return ""


def _without_paths(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {str(key): _without_paths(value) for key, value in tree.items() if key not in _LEFT_OUT}
    if isinstance(tree, (list, tuple)):
        return [_without_paths(value) for value in tree]
    return tree


def device_info(device: Any) -> Dict[str, Any]:
    """Return the kind, name, cores and, of a GPU, the UUID of a torch device; keys of ``names``."""
    torch = sys.modules.get("torch")
    if device.type != "cuda" or torch is None:
        return {
            names.DEVICE_KIND: str(device.type),
            names.HW_NAME: cpu_name(),
            names.DEVICE_CORES: _threads(torch),
        }
    properties = torch.cuda.get_device_properties(device)
    info: Dict[str, Any] = {names.DEVICE_KIND: "cuda", names.HW_NAME: str(properties.name)}
    uuid = getattr(properties, "uuid", None)
    if uuid is not None:
        text = str(uuid)
        info[names.HW_ID] = text if text.startswith(("GPU-", "MIG-")) else "GPU-" + text
    info[names.DEVICE_CORES] = _threads(torch)
    return info


def _threads(torch: Any) -> int:
    """Return the cores that the process computes on: torch's own threads, at most those it may run on."""
    try:
        open_cores = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        open_cores = os.cpu_count() or 1
    return min(int(torch.get_num_threads()), open_cores) if torch is not None else open_cores


def cpu_name() -> str:
    """Return the CPU's model name as Linux tells it, else the machine's architecture."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith(("model name", "Model")):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.machine()
