"""Aria: Idefics3's SigLIP, learned queries that attend to its patches, an MLP, a mixture-of-experts decoder."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vtprof_analyzer.models.families import parts
from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.spec import AdapterStage, ModelSpec, Tower
from vtprof_analyzer.models.vision.registry import encoder, layers_run

_QUERIES = {1225: 128, 4900: 256}


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """Turn a config into a spec; raise `DataError` that names the field which is missing or wrong."""
    top, vision = Fields(config), parts.vision_section(config)
    text = parts.text_section(config)
    language = parts.language_model(top, text)
    selected = top.first("vision_feature_layer")
    if isinstance(selected, bool) or not isinstance(selected, (int, type(None))):
        raise top.fault("vision_feature_layer", "is no layer")
    run = layers_run(-1 if selected is None else selected, vision.integer("num_hidden_layers"))
    return ModelSpec(
        model_type=str(config["model_type"]),
        vision=_with_projector(encoder(vision, run), _queries(top), language.hidden_size),
        language=language,
        dtype=parts.dtype(top, text),
    )


def _queries(top: Fields) -> tuple[int, int]:
    """Return the largest number of patches of an image and the queries that it gets."""
    section = top.section("projector_patch_to_query_dict")
    if section is None:
        return max(_QUERIES.items())
    if not section.values or not all(
        isinstance(key, str) and key.isdecimal() and int(key) for key in section.values
    ):
        raise top.fault(
            "projector_patch_to_query_dict", "is no map from numbers of patches to numbers of queries"
        )
    most = max(section.values, key=int)
    return int(most), section.integer(most)


def _with_projector(tower: Tower, largest: tuple[int, int], out: int) -> Tower:
    patches, queries = largest
    width = tower.hidden_size
    # Queries, keys and values are projected twice: by the layer's own matrices and by those of its attention.
    keys = AdapterStage(4 * width**2, 4 * width, 2 * width + 8 * width)
    query = AdapterStage(
        linear_params=4 * width**2 + width * out + out * out,
        other_params=(width + 2 * width) + 4 * width + queries * width,
        activation_values=4 * 2 * width + 4 * width + width + 3 * out,
        patches_per_unit=None,
        queries=queries,
        cross_attention_width=width,
    )
    return replace(tower, adapter=(keys, query), patches_per_token=patches / queries)
