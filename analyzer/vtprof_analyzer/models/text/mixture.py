"""Mixtures of experts: how large one is, and which layers have one in place of a dense MLP."""

from dataclasses import dataclass
from typing import Literal

from vtprof_analyzer.models.fields import Fields, shown
from vtprof_analyzer.models.spec import Experts
from vtprof_analyzer.models.text.blocks import Block, Flag, known, mlp_block, says
from vtprof_analyzer.models.text.layers import layer_kinds, mlp_activations, mlp_params

SparseRule = Literal["all", "step", "first", "types", "interleaved", "span"]


@dataclass(frozen=True)
class Mixture:
    """Under which names a config gives the sizes of a mixture, and what it has beside gated experts and a router."""

    experts: str = "num_experts"
    active: str = "num_experts_per_tok"
    inner: str = "moe_intermediate_size"
    shared: str | int = 0
    """Shared experts: the field with their number, or the number."""
    shared_inner: str | None = None
    """Width of one shared expert; None: as of a routed one."""
    shared_gate: bool = False
    """The shared expert's output is scaled by a gate of one value."""
    shared_bias: Flag = False
    router_bias: Flag = False
    """One parameter for each expert beside the router's weights; buffers, which are not trained, do not count."""
    expert_bias: bool = False
    gated: bool = True


SHARED = Mixture(experts="n_routed_experts", shared="n_shared_experts")
"""As in DeepSeek and GLM: shared experts of the width of a routed one."""


def mixture_block(fields: Fields, hidden: int, of: Mixture) -> Block:
    """Return a mixture of experts; raise `DataError` for a router that picks more experts than there are."""
    experts = routed(fields, hidden, of, fields.integer(of.experts), fields.integer(of.inner))
    shared = fields.integer(of.shared, default=0, minimum=0) if isinstance(of.shared, str) else of.shared
    inner = shared * fields.integer(of.shared_inner or of.inner) if shared else 0
    return with_router(fields, hidden, of, experts, inner)


def routed(fields: Fields, hidden: int, of: Mixture, count: int, inner: int) -> Experts:
    """Return ``count`` routed experts of width ``inner``; raise `DataError` where a token goes to more than there are."""
    active = fields.integer(of.active)
    if active > count:
        raise fields.fault(of.active, f"is {active}, more than the {count} experts")
    biases = (2 if of.gated else 1) * inner + hidden if of.expert_bias else 0
    return Experts(count, active, mlp_params(hidden, inner, of.gated), biases)


def with_router(fields: Fields, hidden: int, of: Mixture, experts: Experts, shared_inner: int) -> Block:
    """Return routed experts with their router and with shared experts of a width in total, 0 for none."""
    linear = hidden * experts.count
    other = experts.count if says(fields, of.router_bias) else 0
    inner = experts.params // ((3 if of.gated else 2) * hidden)
    values = hidden + experts.count + experts.active * mlp_activations(hidden, inner, of.gated)
    if shared_inner:
        shared = mlp_block(hidden, shared_inner, of.gated, says(fields, of.shared_bias))
        gate = hidden if of.shared_gate else 0
        linear, other, values = (
            linear + shared.linear + gate,
            other + shared.other,
            values + shared.values + gate,
        )
    return Block(linear, other, values, experts=experts)


def sparse_layers(fields: Fields, layers: int, rule: SparseRule) -> list[bool]:
    """Return of every layer whether it has a mixture.

    ``step``: every ``decoder_sparse_step``-th but those of ``mlp_only_layers``; ``first``: all from
    ``first_k_dense_replace`` on; ``types``: as ``mlp_layer_types`` lists, else as ``first``; ``interleaved``: those of
    ``moe_layers``, else every ``interleave_moe_layer_step``-th; ``span``: every ``moe_layer_interval``-th from
    ``moe_layer_start_index`` to ``moe_layer_end_index``. Raises `DataError` for a list that does not fit.
    """
    if rule == "all":
        return [True] * layers
    if rule == "step":
        dense = set(fields.integers("mlp_only_layers", ()))
        step = fields.integer("decoder_sparse_step", default=1)
        return [(index + 1) % step == 0 and index not in dense for index in range(layers)]
    if rule == "interleaved":
        if fields.first("moe_layers") is not None:
            sparse = set(fields.integers("moe_layers", ()))
            return [index in sparse for index in range(layers)]
        step = fields.integer("interleave_moe_layer_step", default=1)
        return [(index + 1) % step == 0 for index in range(layers)]
    kinds = layer_kinds(fields, "mlp_layer_types", layers) if rule in ("types", "span") else None
    if kinds is not None:
        known(fields, "mlp_layer_types", kinds, ("dense", "sparse"))
        return [kind == "sparse" for kind in kinds]
    if rule == "span":
        first, last = _span(fields, layers)
        step = fields.integer("moe_layer_interval", default=1)
        return [(index + 1) % step == 0 and first <= index <= last for index in range(layers)]
    first = fields.integer("first_k_dense_replace", default=1 if rule == "types" else 0, minimum=0)
    step = fields.integer("moe_layer_freq", default=1)
    return [index >= first and index % step == 0 for index in range(layers)]


def _span(fields: Fields, layers: int) -> tuple[int, int]:
    """Return the first and last layer with a mixture: numbers, or one for each modality of which both must be alike."""
    found = []
    for key, default in (("moe_layer_start_index", 1), ("moe_layer_end_index", layers - 1)):
        value = fields.first(key)
        if value == -1:
            value = layers - 1
        several = value if isinstance(value, (list, tuple)) else [default if value is None else value]
        # An end past the last layer is the last layer.
        ends = {
            min(item, layers - 1) for item in several if isinstance(item, int) and not isinstance(item, bool)
        }
        if len(ends) != 1 or min(ends) < 0:
            raise fields.fault(key, f"is {shown(value)} instead of a layer's index")
        found.append(ends.pop())
    return found[0], found[1]
