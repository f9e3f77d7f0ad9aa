"""Decoders with layers of several kinds: a part of a layer with its weights, and like layers counted into groups."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, replace
from typing import TypeVar

from vtprof_analyzer.models.fields import Fields, shown
from vtprof_analyzer.models.spec import Attention, Experts, LanguageModel, LayerGroup
from vtprof_analyzer.models.text.layers import (
    HIDDEN,
    LAYERS,
    VOCAB,
    attention_activations,
    attention_params,
    context_tokens,
    heads,
    mlp_activations,
    mlp_params,
)

Kind = TypeVar("Kind", bound=Hashable)
Flag = bool | str
"""Yes, no, or the config's field that says so."""
MOST_LAYERS = 10_000
"""Ten times the deepest decoder: kinds of layers are listed one by one."""
NO_ATTENTION = Attention(query_heads=0, kv_heads=0, head_dim=0, softmax=False)


@dataclass(frozen=True)
class Block:
    """One part of a layer: what mixes tokens, or what each passes through by itself."""

    linear: int
    other: int
    values: int
    """Values of one token in and out of the block's GEMMs."""
    attention: Attention | None = None
    experts: Experts | None = None
    visual_experts: Experts | None = None


def says(fields: Fields, flag: Flag) -> bool:
    """Tell what a flag says; one that the config leaves out is off."""
    return flag if isinstance(flag, bool) else fields.flag(flag, False)


def layer_count(fields: Fields) -> int:
    """Return the number of layers, small enough to list their kinds; `DataError` where it is not."""
    layers = fields.integer(*LAYERS)
    if layers > MOST_LAYERS:
        key = next(key for key in LAYERS if fields.values.get(key) is not None)
        raise fields.fault(key, f"is {layers}, more than any model's")
    return layers


def known(fields: Fields, key: str, kinds: Iterable[str], allowed: Iterable[str]) -> None:
    """Raise `DataError` where a list of kinds names one that is not allowed."""
    strange = sorted(set(kinds) - set(allowed))
    if strange:
        raise fields.fault(key, f"names {shown(strange[0])}; known are {', '.join(sorted(allowed))}")


def heads_block(
    fields: Fields,
    hidden: int,
    *,
    bias: Flag = False,
    output_bias: Flag = False,
    qk_norm: Flag = False,
    norm_over_width: bool = False,
    output_gate: bool = False,
    sinks: bool = False,
) -> Block:
    """Return softmax attention with grouped heads.

    ``norm_over_width``: query and key norm have a weight for every value of all heads instead of one head's.
    ``output_gate``: the query projection makes a gate as wide as the queries, too. ``sinks``: a parameter for each head.
    """
    of = heads(fields, hidden)
    gate = of.query_width if output_gate else 0
    other = of.query if sinks else 0
    if says(fields, bias):
        other += of.query_width + gate + 2 * of.kv_width
    if says(fields, output_bias):
        other += hidden
    if says(fields, qk_norm):
        other += of.query_width + of.kv_width if norm_over_width else 2 * of.dim
    return Block(
        linear=attention_params(hidden, of) + hidden * gate,
        other=other,
        values=attention_activations(hidden, of) + gate,
        attention=Attention(of.query, of.kv, of.dim),
    )


def mlp_block(hidden: int, inner: int, gated: bool = True, bias: bool = False) -> Block:
    """Return a dense MLP."""
    other = (2 if gated else 1) * inner + hidden if bias else 0
    return Block(mlp_params(hidden, inner, gated), other, mlp_activations(hidden, inner, gated))


def layer(hidden: int, *blocks: Block, norms: int = 2, norm_values: int = 1) -> LayerGroup:
    """Return one layer made of blocks, with so many norms over the hidden width of so many parameters a value."""
    attention = next((block.attention for block in blocks if block.attention), NO_ATTENTION)
    return LayerGroup(
        layers=1,
        attention=attention,
        linear_params=sum(block.linear for block in blocks),
        other_params=sum(block.other for block in blocks) + norms * norm_values * hidden,
        # A norm reads and writes the hidden state.
        activation_values=sum(block.values for block in blocks) + 2 * norms * hidden,
        experts=next((block.experts for block in blocks if block.experts), None),
        visual_experts=next((block.visual_experts for block in blocks if block.visual_experts), None),
    )


def grouped(kinds: Iterable[Kind], make: Callable[[Kind], LayerGroup]) -> tuple[LayerGroup, ...]:
    """Return one group for each kind, in the order of their first layers; ``make`` gives a layer of a kind."""
    return tuple(replace(make(kind), layers=count) for kind, count in Counter(kinds).items())


def decoder(
    fields: Fields, tied: bool, groups: tuple[LayerGroup, ...], norm_values: int = 1, head_bias: bool = False
) -> LanguageModel:
    """Put a language model together whose last norm is as large as those of its layers."""
    hidden = fields.integer(*HIDDEN)
    return LanguageModel(
        hidden_size=hidden,
        vocab_size=fields.integer(*VOCAB),
        groups=groups,
        final_params=norm_values * hidden,
        tied_embeddings=tied,
        head_bias=head_bias,
        context_tokens=context_tokens(fields),
    )
