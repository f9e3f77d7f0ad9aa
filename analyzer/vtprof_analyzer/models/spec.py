"""What the cost model needs to know of a model: layer groups, widths and parameter counts, free of any family's names.

A family file turns a Hugging Face config into a `ModelSpec`; layers that cost the same stand in one group, so that a
model with several kinds of layers is a tuple with several entries.
"""

from dataclasses import dataclass

from vtprof_analyzer.models.weights import Quantization


@dataclass(frozen=True)
class Attention:
    """Attention of one layer of the language model: softmax attention by default, see the fields for the other kinds."""

    query_heads: int
    kv_heads: int
    head_dim: int
    """Values of one head's query and key."""
    window_tokens: int | None = None
    """Cached tokens that a query can see; None is all of them."""
    chunked: bool = False
    """The window is a block of the sequence (position // window), not one that slides with the query."""
    value_dim: int | None = None
    """Values of one head's value, where they differ from ``head_dim`` (latent attention)."""
    latent_values: int | None = None
    """Latent attention (MLA): values that a token leaves in the cache, latent and rotary part, for all heads together."""
    latent_rank: int | None = None
    """The latent part of ``latent_values``, without the rotary one: what the output of a head is summed from."""
    shares_cache: bool = False
    """The layer reads another layer's cache and keeps none of its own."""
    cross: bool = False
    """Cross-attention: queries of text see the visual (or encoder) positions; only these leave keys and values."""
    state_values: int = 0
    """Linear attention: values of the constant state of one sequence, its convolution included."""
    state_bytes_per_value: float | None = None
    """Bytes of a state's value where it has a data type of its own (float32 recurrences); None: that of the cache."""
    token_flops: float = 0.0
    """FLOPs of one token that are neither linear layers nor query-key pairs: recurrences, short convolutions."""
    softmax: bool = True
    """Whether the layer has query-key pairs and a growing cache at all; False for linear attention and convolutions."""

    @property
    def query_width(self) -> int:
        """Return values of one token's queries: ``n_q * d_h``, which need not equal the hidden size (C6)."""
        return self.query_heads * self.head_dim

    @property
    def pair_flops(self) -> float:
        """Return FLOPs of one query-key pair over all heads, QK^T and PV (C4); 4 n_q d_h in the ordinary case."""
        if not self.softmax:
            return 0.0
        return 2.0 * self.query_heads * (self.head_dim + (self.value_dim or self.head_dim))

    @property
    def kv_values_per_token(self) -> int:
        """Return values that one token leaves in this layer's cache (C6); 0 where the layer keeps none."""
        if not self.softmax or self.shares_cache:
            return 0
        return self.kv_values_read_per_token

    @property
    def kv_values_read_per_token(self) -> int:
        """Return values that a query reads of one cached token, also where they are another layer's."""
        if not self.softmax:
            return 0
        if self.latent_values is not None:
            return self.latent_values
        return self.kv_heads * (self.head_dim + (self.value_dim or self.head_dim))


@dataclass(frozen=True)
class Experts:
    """Routed experts of one layer; shared experts and the router belong to the layer's ``linear_params``."""

    count: int
    active: int
    """Experts that one token is routed to."""
    params: int
    """Weights of one expert that multiply a token routed to it."""
    other_params: int = 0
    """Biases of one expert."""


@dataclass(frozen=True)
class LayerGroup:
    """Like layers of the language model."""

    layers: int
    attention: Attention
    linear_params: int
    """Weights of one layer that multiply every token; routed experts are apart."""
    other_params: int
    """Norms and biases of one layer: read, but no GEMM."""
    activation_values: int
    """Values that one token reads and writes in one layer when every GEMM passes over its in- and output once."""
    experts: Experts | None = None
    cross_linear_params: int = 0
    """Weights of a cross-attention layer that multiply the visual positions and not the text: keys and values."""
    visual_linear_params: int = 0
    """Weights that visual tokens use in place of ``linear_params`` (a visual expert as in CogVLM): read with a visual
    prefill; a visual token's FLOPs do not change."""
    visual_experts: Experts | None = None
    """Experts that visual tokens are routed to, those of ``experts`` being for text alone (ERNIE 4.5 VL)."""

    @property
    def params(self) -> int:
        """Return all parameters of one layer."""
        routed = sum(
            of.count * (of.params + of.other_params) for of in (self.experts, self.visual_experts) if of
        )
        return (
            self.linear_params
            + self.other_params
            + self.cross_linear_params
            + self.visual_linear_params
            + routed
        )

    @property
    def active_params(self) -> int:
        """Return the parameters of one layer without the experts that a token is not routed to."""
        # A token of text is routed to none of the visual experts.
        routed = ((self.experts, self.experts.active if self.experts else 0), (self.visual_experts, 0))
        return self.params - sum(
            (of.count - active) * (of.params + of.other_params) for of, active in routed if of
        )

    @property
    def token_params(self) -> int:
        """Return weights of one layer that multiply one token: dense, shared and routed to (C3)."""
        routed = self.experts.active * self.experts.params if self.experts else 0
        return self.linear_params + routed

    @property
    def visual_token_params(self) -> int:
        """Return weights of one layer that multiply one visual token; other ones than of text where experts are apart."""
        if self.visual_experts is None:
            return self.token_params
        return self.linear_params + self.visual_experts.active * self.visual_experts.params


@dataclass(frozen=True)
class LanguageModel:
    """Decoder, embedding and output head."""

    hidden_size: int
    vocab_size: int
    groups: tuple[LayerGroup, ...]
    final_params: int
    """Parameters after the last layer and before the head: the final norm, projections included."""
    tied_embeddings: bool
    embedding_size: int | None = None
    """Width of the embedding table where it is not the hidden size."""
    table_params: int = 0
    """Further tables of which rows are looked up and never multiplied: learned positions, per-layer embeddings."""
    head_vocab_size: int | None = None
    """Rows of the output head where they differ from the embedding's."""
    head_bias: bool = False
    context_tokens: int | None = None
    """Positions that the model was made for; None where the config does not say."""
    prefix_bidirectional: str | None = None
    """``visual``: image tokens of one item see one another both ways; ``prompt``: the whole prompt does (PaliGemma)."""
    notes: tuple[str, ...] = ()
    """What is left out of this decoder, a line each; `load_spec` adds them to the model's."""

    @property
    def layers(self) -> int:
        """Return the number of layers."""
        return sum(group.layers for group in self.groups)

    @property
    def linear_params(self) -> int:
        """Return weights that multiply one token, head excluded: the parameters of C3, routed experts only."""
        return sum(group.layers * group.token_params for group in self.groups)

    @property
    def visual_linear_params(self) -> int:
        """Return weights that multiply one visual token; other ones than of text where experts are apart."""
        return sum(group.layers * group.visual_token_params for group in self.groups)

    @property
    def embedding_params(self) -> int:
        """Return the parameters of the token embedding."""
        return (self.embedding_size or self.hidden_size) * self.vocab_size

    @property
    def head_params(self) -> int:
        """Return weights of the output head, whether or not they are the embedding's."""
        return (self.embedding_size or self.hidden_size) * (self.head_vocab_size or self.vocab_size)

    @property
    def params(self) -> int:
        """Return all parameters; a tied matrix counts once."""
        layers = sum(group.layers * group.params for group in self.groups)
        head = 0 if self.tied_embeddings else self.head_params
        bias = (self.head_vocab_size or self.vocab_size) if self.head_bias else 0
        return layers + self.final_params + self.embedding_params + self.table_params + head + bias

    @property
    def active_params(self) -> int:
        """Return the parameters without the experts that a token is not routed to."""
        return self.params - sum(group.layers * (group.params - group.active_params) for group in self.groups)


@dataclass(frozen=True)
class TowerGroup:
    """Like layers of a tower."""

    layers: int
    attention_width: int
    """Query heads x head size; 0 for layers without attention."""
    linear_params: int
    other_params: int
    activation_values: int
    """Values that one position reads and writes in one layer."""
    window_patches: int | None = None
    """Patches of a full attention window; None is the whole sequence."""
    window_sides: tuple[int, int] | None = None
    """Height and width of a window in patches, where windows tile a grid: smaller ones lie at its right and lower edge."""
    positions_per_patch: float = 1.0
    """Positions that the layers work on for each patch: below 1 after a merge or a strided convolution."""


@dataclass(frozen=True)
class AdapterStage:
    """A stack of matrices behind the tower: projector, merger, resampler or Q-Former layers."""

    linear_params: int
    """Weights that multiply every unit once."""
    other_params: int
    activation_values: int
    """Values that one unit reads and writes."""
    patches_per_unit: float | None = 1.0
    """Patches that become one unit; None where there are ``queries`` instead."""
    queries: int = 0
    """Units of one encoder sequence, whatever its patches (resampler, Q-Former)."""
    query_attention_width: int = 0
    """Heads x head size of attention among the queries, over all layers of the stage."""
    cross_attention_width: int = 0
    """Likewise of attention from the queries to the sequence's patches."""
    per_token: bool = False
    """A unit is a visual token of the language model: its count comes from the tokens, not from patches."""
    runs: int = 1
    """Times that the same weights run on a unit."""


@dataclass(frozen=True)
class Tower:
    """Vision or audio encoder with its adapter."""

    hidden_size: int
    patch_params: int
    """Weights that multiply every patch before the first layer: the patch embedding, a GEMM."""
    patch_values: int
    """Input values of one patch: channels x frames x side squared (F4)."""
    groups: tuple[TowerGroup, ...]
    """Layers that run: those up to the one whose output the language model gets."""
    adapter: tuple[AdapterStage, ...]
    patches_per_token: float
    """Patches that become one token of the language model: F2's 1/r. Approximate where separators are added."""
    class_tokens: int = 0
    """Positions of each sequence beside the patches: class and register tokens."""
    other_params: int = 0
    """Position embeddings, norms and biases outside the layers."""
    idle_params: int = 0
    """Loaded, but of no part in a request: layers past the selected one, pooling heads, text towers."""
    flops_known: bool = True
    """False where layers are convolutions whose FLOPs the formula of a transformer does not give."""

    @property
    def layers(self) -> int:
        """Return the number of layers that run."""
        return sum(group.layers for group in self.groups)

    @property
    def adapter_params(self) -> int:
        """Return the parameters of the adapter."""
        return sum(stage.linear_params + stage.other_params for stage in self.adapter)

    @property
    def read_params(self) -> int:
        """Return the parameters that a run of the tower reads."""
        layers = sum(group.layers * (group.linear_params + group.other_params) for group in self.groups)
        return self.patch_params + layers + self.other_params + self.adapter_params

    @property
    def params(self) -> int:
        """Return all parameters, adapter included."""
        return self.read_params + self.idle_params


@dataclass(frozen=True)
class Params:
    """Parameter counts as `vtprof estimate` prints them; ``vision`` includes the adapter."""

    total: int
    vision: int
    language: int
    active: int
    """Total less the experts that a token is not routed to."""
    audio: int = 0


@dataclass(frozen=True)
class ModelSpec:
    """One model."""

    model_type: str
    vision: Tower | None
    language: LanguageModel
    dtype: str | None
    """Data type that the config names, in our spelling; None where it names none we know."""
    audio: Tower | None = None
    quantization: Quantization | None = None
    notes: tuple[str, ...] = ()
    """What had to be assumed or is left out, a line each."""
    extra_towers: tuple[Tower, ...] = ()
    """Further vision towers that each image runs through (several encoders per image); their adapter included."""

    @property
    def encoder_flops_known(self) -> bool:
        """Tell whether the FLOPs of every tower can be counted: not where layers are convolutions without a formula."""
        return all(tower.flops_known for tower in (self.vision, self.audio, *self.extra_towers) if tower)

    @property
    def params(self) -> Params:
        """Return the parameter counts."""
        towers = (self.vision, *self.extra_towers)
        vision = sum(tower.params for tower in towers if tower)
        audio = self.audio.params if self.audio else 0
        total = vision + audio + self.language.params
        idle = self.language.params - self.language.active_params
        return Params(total, vision, self.language.params, total - idle, audio)
