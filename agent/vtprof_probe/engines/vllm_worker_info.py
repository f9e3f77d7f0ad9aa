"""Describes a vLLM worker as resource attributes: its device, its rank and the data type of its weights."""

from typing import Any, Dict

from vtprof_probe.engines.transformers_info import device_info, dtype_name
from vtprof_schemas import names


def worker_info(runner: Any) -> Dict[str, Any]:
    """Return the resource attributes that a model runner tells; keys of ``names``."""
    info: Dict[str, Any] = device_info(runner.device)
    dtype = getattr(getattr(runner, "model_config", None), "dtype", None)
    if dtype is not None:
        info[names.WEIGHTS_DTYPE] = dtype_name(dtype)
    return info


def worker_rank(runner: Any) -> int:
    """Return the worker's rank among all workers of the server; 0 where the runner does not tell.

    vLLM counts ranks anew in each data-parallel replica (`worker_base.py: WorkerBase.__init__`). The replica's number
    is ``data_parallel_index`` since 0.14, where replicas of dense models all hold rank 0; ``data_parallel_rank`` before.
    """
    parallel = getattr(runner, "parallel_config", None)
    replica = getattr(parallel, "data_parallel_index", None)
    if replica is None:
        replica = getattr(parallel, "data_parallel_rank", None)
    return int(replica or 0) * int(getattr(parallel, "world_size", None) or 1) + int(
        getattr(parallel, "rank", None) or 0
    )
