"""Parallel sizes of a deployment, what they replicate, and the bytes they send (C9)."""

from dataclasses import dataclass
from typing import Literal

from vtprof_analyzer.models.spec import Attention, ModelSpec
from vtprof_schemas.errors import ConfigError

MOST_RANKS = 65_536
_MOST_OFFERED = 1024
"""Ranks up to which the fitting sizes are looked for: a config may name any number of heads."""


@dataclass(frozen=True)
class Parallel:
    """Sizes of tensor, pipeline, data and expert parallelism of one deployment.

    A step runs on ``tensor`` ranks at once: pipeline stages follow one another, and each data-parallel replica has steps
    of its own. Experts spread over ``expert`` ranks out of tensor x data; 1 keeps each rank's share of every expert.
    """

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    expert: int = 1
    encoder: Literal["tensor", "data"] = "tensor"
    """Whether the ranks of tensor parallelism split the encoder's weights, or hold a replica each and split the images."""

    @property
    def devices(self) -> int:
        """Return the devices of the deployment."""
        return self.tensor * self.pipeline * self.data

    @property
    def replica_devices(self) -> int:
        """Return the devices that hold one copy of the language model."""
        return self.tensor * self.pipeline


def check_parallel(parallel: Parallel, spec: ModelSpec) -> None:
    """Raise `ConfigError` for sizes that contradict one another or the model."""
    for flag, size in (
        ("--tp", parallel.tensor),
        ("--pp", parallel.pipeline),
        ("--dp", parallel.data),
        ("--ep", parallel.expert),
    ):
        if not 1 <= size <= MOST_RANKS:
            raise ConfigError(f"{flag} {size}: must be from 1 to {MOST_RANKS:,}")
    layers = spec.language.layers
    if parallel.pipeline > layers:
        raise ConfigError(
            f"--pp {parallel.pipeline}: the model has only {layers} layers to spread over stages"
        )
    for group in spec.language.groups:
        _check_heads(parallel.tensor, group.attention)
    if parallel.expert == 1:
        return
    experts = max((group.experts.count for group in spec.language.groups if group.experts), default=0)
    if not experts:
        raise ConfigError(f"--ep {parallel.expert}: the model has no experts to spread; leave it out")
    ranks = parallel.tensor * parallel.data
    if ranks % parallel.expert:
        raise ConfigError(
            f"--ep {parallel.expert}: experts spread over the tensor x data ranks, and {parallel.expert} does not divide"
            f" {parallel.tensor} x {parallel.data} = {ranks}"
        )
    if experts % parallel.expert:
        raise ConfigError(f"--ep {parallel.expert}: does not divide the model's {experts} experts")


def is_possible(parallel: Parallel, spec: ModelSpec) -> bool:
    """Tell whether the sizes contradict neither one another nor the model."""
    try:
        check_parallel(parallel, spec)
    except ConfigError:
        return False
    return True


def _check_heads(tensor: int, kind: Attention) -> None:
    """Raise `ConfigError` for ranks that heads cannot be dealt to: KV heads are split evenly, or copied evenly."""
    heads, shared = kind.query_heads, kind.kv_heads if kind.latent_values is None else 1
    if not heads or not shared or _fits(tensor, heads, shared):
        return
    fitting = [str(size) for size in range(1, min(heads, _MOST_OFFERED) + 1) if _fits(size, heads, shared)]
    raise ConfigError(
        f"--tp {tensor}: the model's {heads} attention heads and {shared} KV heads do not spread evenly over so many"
        f" ranks; by its heads {', '.join(fitting[:12])} would do"
    )


def _fits(tensor: int, heads: int, shared: int) -> bool:
    return heads % tensor == 0 and (shared % tensor == 0 or tensor % shared == 0)


def kv_replication(attention: Attention, tensor: int) -> float:
    """Return how often each cached value is stored: more ranks than KV heads hold copies, a latent is on every rank."""
    heads = 1 if attention.latent_values is not None else max(1, attention.kv_heads)
    return max(1.0, tensor / heads)
