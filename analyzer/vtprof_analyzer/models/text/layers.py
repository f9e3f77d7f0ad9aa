"""What decoders have in common: heads, sliding windows, and how many weights and activations attention and MLP take."""

from dataclasses import dataclass
from typing import Literal

from vtprof_analyzer.models.fields import Fields, divide

HIDDEN = ("n_embed", "hidden_size", "n_embd", "d_model", "embed_dim")
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "layers")
HEADS = ("num_attention_heads", "n_head", "n_heads", "attention_heads")
VOCAB = ("padded_vocab_size", "vocab_size")
CONTEXT = ("max_position_embeddings", "n_positions", "max_seq_len", "model_max_length", "seq_length")
"""One size under the names that configs give it; the first that is present counts."""

WindowRule = Literal["none", "every", "flagged", "pattern"]


@dataclass(frozen=True)
class Heads:
    """Heads of one attention layer."""

    query: int
    kv: int
    dim: int

    @property
    def query_width(self) -> int:
        """Return the values of one token's queries."""
        return self.query * self.dim

    @property
    def kv_width(self) -> int:
        """Return the values of one token's keys; its values are as many."""
        return self.kv * self.dim


def heads(fields: Fields, hidden: int) -> Heads:
    """Read query heads, key-value heads (as many where the config is silent) and the head size (``hidden / heads``).

    Raises `DataError` where the one is no divisor of the other.
    """
    query = fields.integer(*HEADS)
    kv = fields.integer("num_key_value_heads", default=query)
    if query % kv:
        raise fields.fault("num_key_value_heads", f"is {kv}, no divisor of {query} attention heads")
    key = next(key for key in HEADS if fields.values.get(key) is not None)
    given = fields.first("head_dim") is not None
    return Heads(query, kv, fields.integer("head_dim") if given else divide(fields, key, hidden, query))


def layer_kinds(fields: Fields, key: str, layers: int) -> list[str] | None:
    """Return a list that names the kind of every layer, or None where there is none; `DataError` for another length."""
    kinds = fields.first(key)
    if kinds is None:
        return None
    if (
        not isinstance(kinds, (list, tuple))
        or len(kinds) != layers
        or not all(isinstance(kind, str) for kind in kinds)
    ):
        raise fields.fault(key, f"is no list of {layers} layers")
    return list(kinds)


def windows(fields: Fields, layers: int, rule: WindowRule, pattern: int = 1) -> list[tuple[int, int | None]]:
    """Return how many layers see everything (None) and how many a sliding window of so many tokens.

    ``every``: all layers have the window, ``flagged``: those from ``max_window_layers`` on where ``use_sliding_window``
    says so, ``pattern``: all but every ``pattern``-th. A list ``layer_types`` overrides each of them.
    """
    off = rule == "none" or fields.first("sliding_window") is None
    if off or (rule == "flagged" and not fields.flag("use_sliding_window", False)):
        return [(layers, None)]
    window = fields.integer("sliding_window")
    kinds = layer_kinds(fields, "layer_types", layers)
    if kinds is not None:
        sliding = kinds.count("sliding_attention")
    elif rule == "flagged":
        sliding = max(0, layers - fields.integer("max_window_layers", default=layers, minimum=0))
    elif rule == "pattern":
        sliding = layers - layers // _pattern(fields, pattern)
    else:
        sliding = layers
    return [(count, seen) for count, seen in ((layers - sliding, None), (sliding, window)) if count]


def _pattern(fields: Fields, default: int) -> int:
    """Return every how manieth layer sees everything: a number, or a text like ``LLLG``."""
    for key in ("sliding_window_pattern", "_sliding_window_pattern"):
        value = fields.first(key)
        if isinstance(value, str) and value:
            return len(value)
        if value is not None:
            return fields.integer(key)
    return default


def attention_params(hidden: int, of: Heads) -> int:
    """Return the weights of query, key, value and output projection."""
    return hidden * (2 * of.query_width + 2 * of.kv_width)


def mlp_params(hidden: int, inner: int, gated: bool = True) -> int:
    """Return the weights of an MLP: gate, up and down, or up and down."""
    return (3 if gated else 2) * hidden * inner


def attention_activations(hidden: int, of: Heads) -> int:
    """Return values in and out of the fused query-key-value GEMM and of the output GEMM."""
    return 2 * (hidden + of.query_width) + 2 * of.kv_width


def mlp_activations(hidden: int, inner: int, gated: bool = True) -> int:
    """Return values in and out of the (fused gate and) up GEMM and of the down GEMM."""
    return 2 * hidden + (3 if gated else 2) * inner


def context_tokens(fields: Fields) -> int | None:
    """Return the positions that the model was made for; None where the config does not say."""
    return fields.integer(*CONTEXT) if fields.first(*CONTEXT) is not None else None
