"""Q-Former and resampler stages: queries that attend to one another and to the patches of one encoder sequence."""

from vtprof_analyzer.models.fields import Fields, divide
from vtprof_analyzer.models.spec import AdapterStage


def qformer(fields: Fields, queries: int, source: int, sees_text: bool) -> tuple[AdapterStage, ...]:
    """Return a Q-Former (BERT with cross-attention every few layers) as two stages: keys and values of patches, queries.

    ``source`` is the width of what its queries attend to, ``sees_text`` whether it embeds an instruction and has an MLP
    for its words beside that for queries. Raises `DataError` that names the field at fault.
    """
    width = fields.integer("hidden_size", default=768)
    layers = fields.integer("num_hidden_layers", default=12)
    inner = fields.integer("intermediate_size", default=3072)
    divide(fields, "num_attention_heads", width, fields.integer("num_attention_heads", default=12))
    crossed = -(-layers // fields.integer("cross_attention_frequency", default=2))
    attention = 4 * width**2
    mlp = 2 * width * inner
    biases = layers * (4 * width + 2 * width + inner + width + 2 * width)
    biases += crossed * (4 * width + 2 * width)
    words = 0
    if sees_text:
        words = layers * (mlp + inner + width + 2 * width)
        words += width * (
            fields.integer("vocab_size", default=30522)
            + fields.integer("max_position_embeddings", default=512)
        )
    keys = AdapterStage(
        linear_params=crossed * 2 * source * width,
        other_params=0,
        activation_values=crossed * (source + 2 * width),
    )
    rest = AdapterStage(
        linear_params=layers * (attention + mlp) + crossed * 2 * width**2,
        other_params=biases + 2 * width + queries * width + words,
        activation_values=layers * (10 * width + 2 * inner) + crossed * 6 * width,
        patches_per_unit=None,
        queries=queries,
        query_attention_width=layers * width,
        cross_attention_width=crossed * width,
    )
    return keys, rest


def projection(width: int, out: int, queries: int, bias: bool = True) -> AdapterStage:
    """Return one matrix on each query."""
    return AdapterStage(
        linear_params=width * out,
        other_params=out * int(bias),
        activation_values=width + out,
        patches_per_unit=None,
        queries=queries,
    )
