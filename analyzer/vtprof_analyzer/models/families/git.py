"""GIT: a CLIP tower, one matrix with a norm, and a BERT that reads image and text in one sequence."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vtprof_analyzer.models.families import parts
from vtprof_analyzer.models.fields import Fields, divide
from vtprof_analyzer.models.spec import AdapterStage, Attention, LanguageModel, LayerGroup, ModelSpec
from vtprof_analyzer.models.vision.vit import Style, build


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """Turn a config of GIT into a spec; raise `DataError` that names the field which is missing or wrong."""
    top, vision = Fields(config), parts.vision_section(config)
    hidden, inner = top.integer("hidden_size"), top.integer("intermediate_size")
    heads = top.integer("num_attention_heads")
    group = LayerGroup(
        layers=top.integer("num_hidden_layers"),
        attention=Attention(heads, heads, divide(top, "num_attention_heads", hidden, heads)),
        linear_params=4 * hidden**2 + 2 * hidden * inner,
        other_params=4 * hidden + inner + hidden + 4 * hidden,
        activation_values=12 * hidden + 2 * inner,
    )
    language = LanguageModel(
        hidden_size=hidden,
        vocab_size=top.integer("vocab_size"),
        groups=(group,),
        # The norm stands behind the embedding.
        final_params=2 * hidden,
        tied_embeddings=parts.tied(top, top),
        table_params=top.integer("max_position_embeddings") * hidden,
        head_bias=True,
        context_tokens=top.integer("max_position_embeddings"),
        prefix_bidirectional="visual",
    )
    plain = build(vision, Style(class_token=True, patch_bias=False, pre_norm=True), None)
    # Frames of a video have a learned vector each.
    frames = top.integer("num_image_with_embedding", default=0, minimum=0)
    stage = AdapterStage(
        plain.hidden_size * hidden, 3 * hidden, plain.hidden_size + 3 * hidden, per_token=True
    )
    tower = replace(plain, adapter=(stage,), other_params=plain.other_params + frames * plain.hidden_size)
    return ModelSpec(
        model_type="git",
        vision=tower,
        language=language,
        dtype=parts.dtype(top),
    )
