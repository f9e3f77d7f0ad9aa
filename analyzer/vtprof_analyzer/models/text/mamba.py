"""Decoders with Mamba layers beside attention: Granite 4, Bamba, Falcon-H1, Jamba and Nemotron-H."""

from collections.abc import Callable
from dataclasses import replace

from vtprof_analyzer.models.fields import Fields, divide
from vtprof_analyzer.models.spec import Experts, LanguageModel, LayerGroup
from vtprof_analyzer.models.text import recurrent
from vtprof_analyzer.models.text.blocks import (
    MOST_LAYERS,
    Block,
    decoder,
    grouped,
    heads_block,
    known,
    layer,
    layer_count,
    mlp_block,
    says,
)
from vtprof_analyzer.models.text.layers import HIDDEN, layer_kinds, mlp_activations
from vtprof_analyzer.models.text.mixture import Mixture, mixture_block

ATTENTION, MAMBA = "full_attention", "linear_attention"
_OLDER = {"attention": ATTENTION, "mamba": MAMBA, "mamba2": MAMBA}
"""Kinds of layers as older files call them."""
_LETTERS = {"M": MAMBA, "E": "moe", "*": ATTENTION, "-": "mlp"}


def language_model(fields: Fields, tied: bool) -> LanguageModel:
    """Turn a text section into a language model; raise `DataError` that names the field at fault."""
    groups = _BUILDERS[str(fields.text("model_type"))](fields, fields.integer(*HIDDEN))
    return decoder(fields, tied, groups)


def _attention(fields: Fields, hidden: int) -> Block:
    return heads_block(fields, hidden, bias="attention_bias", output_bias="attention_bias")


def _mamba(fields: Fields, hidden: int, output_bias: str = "mamba_proj_bias", norm: bool = True) -> Block:
    """Return Mamba-2 under the names that Granite, Bamba and Falcon give its sizes."""
    given = fields.first("mamba_d_ssm")
    inner = fields.integer("mamba_d_ssm") if given is not None else fields.integer("mamba_expand") * hidden
    count = fields.integer("mamba_n_heads")
    size = divide(fields, "mamba_n_heads", inner, count)
    if fields.first("mamba_d_head") not in (None, "auto") and fields.integer("mamba_d_head") != size:
        raise fields.fault("mamba_d_head", f"is not {inner} channels over {count} heads")
    return recurrent.mamba2(
        fields,
        hidden,
        inner=inner,
        count=count,
        groups=fields.integer("mamba_n_groups"),
        state=fields.integer("mamba_d_state"),
        taps=fields.integer("mamba_d_conv"),
        bias="mamba_proj_bias",
        output_bias=output_bias,
        convolution_bias="mamba_conv_bias",
        norm=norm,
    )


def _kinds(
    fields: Fields, key: str, kinds: list[str], allowed: tuple[str, ...] = (ATTENTION, MAMBA)
) -> list[str]:
    newer = [_OLDER.get(kind, kind) for kind in kinds]
    known(fields, key, newer, allowed)
    return newer


def _granite(fields: Fields, hidden: int) -> tuple[LayerGroup, ...]:
    """Granite 4: each layer has a dense MLP, and a mixture beside it unless there are no experts."""
    layers = layer_count(fields)
    key = "layer_types" if fields.first("layer_types") is not None else "layers_block_type"
    kinds = _kinds(fields, key, layer_kinds(fields, key, layers) or [MAMBA] * layers)
    passed = mlp_block(hidden, fields.integer("shared_intermediate_size"))
    if fields.integer("num_local_experts", default=0, minimum=0):
        of = Mixture(
            "num_local_experts", inner="intermediate_size", shared=1, shared_inner="shared_intermediate_size"
        )
        passed = mixture_block(fields, hidden, of)
    make = {ATTENTION: _attention, MAMBA: _mamba}
    return grouped(kinds, lambda kind: layer(hidden, make[kind](fields, hidden), passed))


def _bamba(fields: Fields, hidden: int) -> tuple[LayerGroup, ...]:
    """Bamba: attention in the layers of ``attn_layer_indices``."""
    layers = layer_count(fields)
    full = set(fields.integers("attn_layer_indices", ()))
    passed = mlp_block(hidden, fields.integer("intermediate_size"), bias=fields.flag("mlp_bias", False))
    make = {True: _attention, False: _mamba}
    return grouped(
        (index in full for index in range(layers)),
        lambda is_full: layer(hidden, make[is_full](fields, hidden), passed),
    )


def _falcon(fields: Fields, hidden: int) -> tuple[LayerGroup, ...]:
    """Falcon-H1: attention and Mamba-2 side by side in each layer."""
    attention = _attention(fields, hidden)
    mamba = _mamba(fields, hidden, "projectors_bias", fields.flag("mamba_rms_norm", False))
    passed = mlp_block(hidden, fields.integer("intermediate_size"), bias=fields.flag("mlp_bias", False))
    made = layer(hidden, attention, mamba, passed)
    if attention.attention and mamba.attention:
        state = mamba.attention
        both = replace(
            attention.attention,
            state_values=state.state_values,
            state_bytes_per_value=state.state_bytes_per_value,
            token_flops=state.token_flops,
        )
        made = replace(made, attention=both)
    return (replace(made, layers=layer_count(fields)),)


def _jamba(fields: Fields, hidden: int) -> tuple[LayerGroup, ...]:
    """Jamba: attention and mixtures of experts in layers of a period each."""
    layers = layer_count(fields)

    def every(name: str) -> tuple[int, int]:
        return fields.integer(f"{name}_layer_period"), fields.integer(f"{name}_layer_offset", minimum=0)

    (full, full_at), (sparse, sparse_at) = every("attn"), every("expert")
    several = fields.integer("num_experts") > 1

    def make(kind: tuple[bool, bool]) -> LayerGroup:
        mixer = heads_block(fields, hidden) if kind[0] else recurrent.mamba1(fields, hidden)
        of = Mixture(inner="intermediate_size")
        inner = fields.integer("intermediate_size")
        return layer(
            hidden, mixer, mixture_block(fields, hidden, of) if kind[1] else mlp_block(hidden, inner)
        )

    return grouped(
        ((index % full == full_at, several and index % sparse == sparse_at) for index in range(layers)), make
    )


def _nemotron(fields: Fields, hidden: int) -> tuple[LayerGroup, ...]:
    """Nemotron-H: a layer is one norm and one block, be it Mamba-2, attention, an MLP or a mixture; MLPs have no gate."""
    make: dict[str, Callable[[], Block]] = {
        ATTENTION: lambda: _attention(fields, hidden),
        MAMBA: lambda: _nemotron_mamba(fields, hidden),
        "mlp": lambda: mlp_block(
            hidden, fields.integer("intermediate_size"), False, fields.flag("mlp_bias", False)
        ),
        "moe": lambda: _nemotron_mixture(fields, hidden),
    }
    return grouped(_nemotron_kinds(fields, tuple(make)), lambda kind: layer(hidden, make[kind](), norms=1))


def _nemotron_kinds(fields: Fields, allowed: tuple[str, ...]) -> list[str]:
    """Return the kind of every layer, from a list or from a text with a letter for each (``M-M*-``)."""
    for key in ("layers_block_type", "layer_types"):
        given = fields.first(key)
        if given is not None:
            if (
                not isinstance(given, (list, tuple))
                or not given
                or not all(isinstance(kind, str) for kind in given)
            ):
                raise fields.fault(key, "is no list of kinds of layers")
            return _kinds(fields, key, list(given), allowed)
    pattern = fields.text("hybrid_override_pattern")
    if not pattern:
        raise fields.missing("hybrid_override_pattern", "layers_block_type")
    if len(pattern) > MOST_LAYERS:
        raise fields.fault("hybrid_override_pattern", "has more layers than any model")
    known(fields, "hybrid_override_pattern", pattern, _LETTERS)
    return [_LETTERS[letter] for letter in pattern]


def _nemotron_mamba(fields: Fields, hidden: int) -> Block:
    count = fields.integer("mamba_num_heads")
    return recurrent.mamba2(
        fields,
        hidden,
        inner=count * fields.integer("mamba_head_dim"),
        count=count,
        groups=fields.integer("mamba_n_groups", "n_groups"),
        state=fields.integer("ssm_state_size"),
        taps=fields.integer("mamba_d_conv", "conv_kernel"),
        bias="use_bias",
        output_bias="use_bias",
        convolution_bias="use_conv_bias",
    )


def _nemotron_mixture(fields: Fields, hidden: int) -> Block:
    """Return a mixture whose experts may work on a narrower latent vector, with one shared expert at full width."""
    of = Mixture(
        experts="n_routed_experts",
        shared=1,
        shared_inner="moe_shared_expert_intermediate_size",
        shared_bias="mlp_bias",
        gated=False,
    )
    block = mixture_block(fields, hidden, of)
    if fields.first("moe_latent_size") is None or block.experts is None:
        return block
    narrow, inner = fields.integer("moe_latent_size"), fields.integer(of.inner)
    experts = Experts(block.experts.count, block.experts.active, 2 * narrow * inner)
    at_full_width = experts.active * mlp_activations(hidden, inner, False)
    at_narrow = experts.active * mlp_activations(narrow, inner, False) + 2 * (hidden + narrow)
    return replace(
        block,
        linear=block.linear + 2 * hidden * narrow,
        other=block.other + (narrow + hidden if says(fields, "mlp_bias") else 0),
        values=block.values - at_full_width + at_narrow,
        experts=experts,
    )


_BUILDERS: dict[str, Callable[[Fields, int], tuple[LayerGroup, ...]]] = {
    "granitemoehybrid": _granite,
    "bamba": _bamba,
    "falcon_h1": _falcon,
    "jamba": _jamba,
    "nemotron_h": _nemotron,
}
"""Model type to builder of its layer groups."""
