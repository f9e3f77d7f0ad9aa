"""What takes the place of softmax attention: recurrences over a state of constant size, and short convolutions.

FLOPs of a recurrence are those of the recurrence itself, a multiplication and an addition each: for a state matrix of
``d_k x d_v`` values, one matrix-vector product or outer product is ``2 d_k d_v``. Decays, gates and norms, element by
element, are none, as elsewhere. Kernels that work on chunks of a prompt do more: chunks of C tokens add query-key
products of about ``C (4 d_k + 2 d_v)`` FLOPs a token and head to the delta rule. A convolution's weights are no GEMM;
they count with `Block.other`, its FLOPs with the recurrence's. The state holds what the next token needs: of a
convolution of K taps the last K - 1 inputs.
"""

from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.spec import Attention
from vtprof_analyzer.models.text.blocks import Block, Flag, says
from vtprof_analyzer.models.text.layers import heads
from vtprof_analyzer.models.weights import dtype_bytes

_CONVOLUTION_BYTES = 2.0
"""Of a convolution's cached input: the model's data type, also where the recurrence has one of its own."""


def recurrence(
    recurrent: int, convolution: int, flops: float, bytes_per_value: float | None, query_heads: int = 0
) -> Attention:
    """Return the attention field of a layer with a state: its sizes, and no query-key pairs."""
    total = recurrent + convolution
    mean = None
    if bytes_per_value is not None and total:
        mean = (recurrent * bytes_per_value + convolution * _CONVOLUTION_BYTES) / total
    return Attention(
        query_heads=query_heads,
        kv_heads=0,
        head_dim=0,
        state_values=total,
        state_bytes_per_value=mean,
        token_flops=flops,
        softmax=False,
    )


def state_bytes(fields: Fields) -> float | None:
    """Return bytes of a recurrent state's value where the config names its data type; None: that of the cache."""
    return dtype_bytes(fields.text("mamba_ssm_dtype", "mamba_ssm_cache_dtype"))


def gated_delta(fields: Fields, hidden: int) -> Block:
    """Return a gated delta net (arXiv 2412.06464) as in Qwen3-Next.

    Per token and value head: read ``S^T k`` (2 d_k d_v), write ``S += k (beta (v - S^T k))^T`` (2 d_k d_v), read
    ``S^T q`` (2 d_k d_v).
    """
    key_heads, value_heads = fields.integer("linear_num_key_heads"), fields.integer("linear_num_value_heads")
    if value_heads % key_heads:
        raise fields.fault(
            "linear_num_value_heads", f"is {value_heads}, no multiple of {key_heads} key heads"
        )
    key_dim, value_dim = fields.integer("linear_key_head_dim"), fields.integer("linear_value_head_dim")
    taps = fields.integer("linear_conv_kernel_dim")
    width = value_heads * value_dim
    mixed = 2 * key_heads * key_dim + width
    # Query, key and value, an output gate as wide as the value, and decay and step size of each head.
    projected = mixed + width + 2 * value_heads
    state = value_heads * key_dim * value_dim
    return Block(
        linear=hidden * projected + width * hidden,
        other=mixed * taps + 2 * value_heads + value_dim,
        values=hidden + projected + width + hidden,
        attention=recurrence(
            state, (taps - 1) * mixed, 6.0 * state + 2.0 * taps * mixed, state_bytes(fields)
        ),
    )


def kimi_delta(fields: Fields, hidden: int) -> Block:
    """Return Kimi Delta Attention (arXiv 2510.26692): a gated delta net with a decay for every value of a key.

    Decay and output gate come through projections as narrow as one head. The state is kept in float32.
    """
    count, size = fields.integer("linear_num_heads"), fields.integer("linear_head_dim")
    taps = fields.integer("linear_conv_kernel_dim")
    width = count * size
    gates = 2 * (hidden * size + size * width)
    state = count * size**2
    return Block(
        linear=hidden * 3 * width + gates + hidden * count + width * hidden,
        other=3 * width * taps + width + count + size,
        values=2 * hidden + 3 * width + 2 * (2 * size + width) + count + width,
        attention=recurrence(state, (taps - 1) * 3 * width, 6.0 * state + 2.0 * taps * 3 * width, 4.0),
    )


def lightning(fields: Fields, hidden: int) -> Block:
    """Return lightning attention (arXiv 2405.17381) as in MiniMax: write ``S += k v^T`` and read ``S^T q``."""
    of = heads(fields, hidden)
    width = of.query_width
    state = width * of.dim
    return Block(
        linear=5 * hidden * width,
        other=width,
        values=2 * hidden + 5 * width,
        attention=recurrence(state, 0, 4.0 * state, None, of.query),
    )


def short_convolution(fields: Fields, hidden: int) -> Block:
    """Return a gated short convolution as in LFM2: two gates and the input from one projection, K taps, an output."""
    taps = fields.integer("conv_L_cache")
    bias = 5 * hidden if fields.flag("conv_bias", False) else 0
    return Block(
        linear=4 * hidden**2,
        other=taps * hidden + bias,
        values=(hidden + 3 * hidden) + 2 * hidden,
        attention=recurrence(0, (taps - 1) * hidden, 2.0 * taps * hidden, None),
    )


def mamba2(
    fields: Fields,
    hidden: int,
    *,
    inner: int,
    count: int,
    groups: int,
    state: int,
    taps: int,
    bias: Flag = False,
    output_bias: Flag = False,
    convolution_bias: Flag = True,
    norm: bool = True,
) -> Block:
    """Return Mamba-2 (arXiv 2405.21060) of so many heads over ``inner`` channels, ``groups`` sharing B and C.

    Per token and channel with a state of N values: write ``h = a h + (dt x) B`` (2 N) and read ``h C`` (2 N).
    """
    mixed = inner + 2 * groups * state
    projected = inner + mixed + count
    other = mixed * taps + 3 * count
    other += mixed if says(fields, convolution_bias) else 0
    other += projected if says(fields, bias) else 0
    other += hidden if says(fields, output_bias) else 0
    return Block(
        linear=hidden * projected + inner * hidden,
        other=other + (inner if norm else 0),
        values=hidden + projected + inner + hidden,
        attention=recurrence(
            inner * state, (taps - 1) * mixed, 4.0 * inner * state + 2.0 * taps * mixed, state_bytes(fields)
        ),
    )


def mamba1(fields: Fields, hidden: int) -> Block:
    """Return Mamba (arXiv 2312.00752) as in Jamba, with norms of B, C and the step size; FLOPs as of Mamba-2."""
    inner = fields.integer("mamba_expand", default=2) * hidden
    state, taps = fields.integer("mamba_d_state"), fields.integer("mamba_d_conv")
    auto = fields.first("mamba_dt_rank") in (None, "auto")
    rank = -(-hidden // 16) if auto else fields.integer("mamba_dt_rank")
    biases = 2 * inner + hidden if fields.flag("mamba_proj_bias", False) else 0
    biases += inner if fields.flag("mamba_conv_bias", True) else 0
    return Block(
        linear=2 * hidden * inner + inner * (rank + 2 * state) + rank * inner + inner * hidden,
        other=inner * state + inner * taps + 2 * inner + rank + 2 * state + biases,
        values=2 * hidden + 2 * inner + 2 * (rank + inner) + 2 * state + inner,
        attention=recurrence(
            inner * state, (taps - 1) * inner, 4.0 * inner * state + 2.0 * taps * inner, state_bytes(fields)
        ),
    )
