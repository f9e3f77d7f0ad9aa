"""The first Qwen, Qwen-VL and Qwen-Audio: a config form of its own; ``visual`` is OpenCLIP's tower, ``audio`` Whisper's."""

from collections.abc import Mapping
from typing import Any

from vtprof_analyzer.models.families import parts
from vtprof_analyzer.models.fields import Fields, divide
from vtprof_analyzer.models.spec import AdapterStage, LanguageModel, ModelSpec, Tower
from vtprof_analyzer.models.text.registry import language_model
from vtprof_analyzer.models.vision.audio import first_qwen_audio_tower
from vtprof_analyzer.models.vision.native import Layer, build

POSITIONS = 256
"""Rows of the tower's position table, interpolated to any grid."""


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """Turn a config into a spec, of a language model alone without either; raise `DataError` for a field at fault."""
    top = Fields(config)
    language = language_model(top)
    visual, audio = top.section("visual"), top.section("audio")
    return ModelSpec(
        model_type=str(config["model_type"]),
        vision=None if visual is None else _tower(visual, language),
        language=language,
        dtype=parts.dtype(top),
        audio=None if audio is None else first_qwen_audio_tower(audio, language.hidden_size),
    )


def _tower(visual: Fields, language: LanguageModel) -> Tower:
    """Return the tower with its resampler: queries attend to the patches once, a norm and a matrix follow."""
    width = visual.integer("width")
    divide(visual, "heads", width, visual.integer("heads"))
    inner = int(width * visual.number("mlp_ratio"))
    if inner < 1:
        raise visual.fault("mlp_ratio", "leaves nothing inside the MLP")
    out = visual.integer("output_dim")
    if out != language.hidden_size:
        raise visual.fault(
            "output_dim", f"is {out}, while the language model's hidden_size is {language.hidden_size}"
        )
    queries = visual.integer("n_queries", default=256)
    side = visual.integer("patch_size")
    patches = (visual.integer("image_size") // side) ** 2
    # Keys and values of the patches: a projection without bias, a norm, the two input matrices of the attention.
    memory = AdapterStage(width * out + 2 * out**2, 2 * out + 2 * out, width + out + 2 * out + 3 * out)
    asks = AdapterStage(
        linear_params=3 * out**2,
        # Queries and their positions; biases of query and output; norms of the queries and of what comes out.
        other_params=2 * queries * out + 2 * out + 2 * 2 * out,
        activation_values=6 * out + 4 * out,
        patches_per_unit=None,
        queries=queries,
        cross_attention_width=out,
    )
    return build(
        Fields({**visual.values, "num_hidden_layers": visual.integer("layers")}, visual.path),
        Layer(width, inner),
        None,
        3 * side**2,
        # The position table and the norm before the layers.
        other_params=(POSITIONS + 2) * width,
        adapter=(memory, asks),
        patches_per_token=patches / queries,
    )
