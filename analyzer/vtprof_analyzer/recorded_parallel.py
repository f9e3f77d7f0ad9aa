"""The parallel sizes of a deployment, as its processes recorded them."""

import json
from collections.abc import Mapping
from typing import Any

from vtprof_analyzer.cost.parallel import Parallel, check_parallel
from vtprof_analyzer.models.spec import ModelSpec
from vtprof_schemas.errors import ConfigError


def recorded_parallel(resource: Mapping[str, Any], spec: ModelSpec) -> tuple[Parallel, list[str]]:
    """Return the sizes on a row of `resources`, and what is wrong with them.

    Where they contradict the model or one another it is the tensor size alone, whatever it is: so many devices ran.
    """
    tensor, pipeline, data, expert = (
        max(1, resource.get(column) or 1)
        for column in ("parallel_tp", "parallel_pp", "parallel_dp", "parallel_ep")
    )
    if not any(group.experts for group in spec.language.groups):
        # Engines take the flag for models without experts too, where it does nothing.
        expert = 1
    apart = tensor > 1 and _encodes_in_replicas(resource.get("engine_config"))
    told = Parallel(tensor, pipeline, data, expert, "data" if apart else "tensor")
    try:
        check_parallel(told, spec)
    except ConfigError as error:
        fault = str(error).removeprefix("--")
        return Parallel(tensor), [f"recorded {fault}; roof and costs are of tp {tensor} all the same"]
    return told, []


def _encodes_in_replicas(engine_config: str | None) -> bool:
    try:
        settings = json.loads(engine_config or "{}")
    except (ValueError, RecursionError):
        return False
    if not isinstance(settings, dict):
        return False
    # vLLM's setting, and SGLang's.
    return settings.get("mm_encoder_tp_mode") == "data" or settings.get("mm_enable_dp_encoder") is True
