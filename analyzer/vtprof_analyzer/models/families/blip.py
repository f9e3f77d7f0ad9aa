"""BLIP-2, InstructBLIP and what is built of their parts: MiniGPT-4, MiniGPT-v2, Video-LLaMA and VideoChat.

An EVA ViT-g, a Q-Former of a few queries, one matrix, a decoder (or T5). MiniGPT-v2 has no Q-Former and joins patches
instead; the video models have queries over all frames. The last four have no config.json: theirs is written in the
form of BLIP-2's.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vtprof_analyzer.models.families import parts
from vtprof_analyzer.models.families.llava import mlp
from vtprof_analyzer.models.families.qformer import projection, qformer
from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.spec import AdapterStage, ModelSpec, Tower
from vtprof_analyzer.models.vision.vit import Style, build

_READS_TEXT = ("instructblip", "instructblipvideo")
SEES_INSTRUCTION = (
    "the Q-Former reads the instruction too: an image's embedding holds for one prompt"
    " and cannot be shared by its hash alone"
)


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """Turn a config of the BLIP-2 line into a spec; raise `DataError` that names the field which is missing or wrong."""
    kind = str(config["model_type"])
    top, vision = Fields(config), parts.vision_section(config)
    text = parts.text_section(config)
    language = parts.language_model(top, text)
    bias = vision.flag("qkv_bias", True)
    tower = build(vision, Style(class_token=True, query_bias=bias, key_bias=bias, value_bias=bias), None)
    if kind == "minigpt_v2":
        tower = _joined(tower, top.integer("joined_tokens", default=4), language.hidden_size)
    else:
        tower = _queried(tower, top, vision, language.hidden_size, kind)
    return ModelSpec(
        model_type=kind,
        vision=tower,
        language=language,
        dtype=parts.dtype(top, text),
        notes=(SEES_INSTRUCTION,) if kind in _READS_TEXT else (),
    )


def _queried(tower: Tower, top: Fields, vision: Fields, out: int, kind: str) -> Tower:
    """Return the tower with its Q-Former, a second one over the frames for videos, and the projection."""
    section = top.section("qformer_config") or Fields({}, "qformer_config")
    queries = top.integer("num_query_tokens", default=32)
    stages = qformer(section, queries, tower.hidden_size, sees_text=kind in _READS_TEXT)
    width = section.integer("hidden_size", default=768)
    visible = queries
    if top.section("video_qformer_config") is not None:
        video = top.section("video_qformer_config") or section
        visible = top.integer("num_video_query_tokens", default=32)
        keys, rest = qformer(video, visible, width, False)
        # Keys and values are those of the frames' queries.
        stages += (replace(keys, patches_per_unit=None, queries=queries), rest)
    stages += (projection(width, out, visible),)
    patch = vision.integer("patch_size")
    patches = max(1, vision.integer("image_size") // patch) ** 2
    return replace(tower, adapter=stages, patches_per_token=patches / visible)


def _joined(tower: Tower, joined: int, out: int) -> Tower:
    """Return the tower with one matrix on patches put side by side (MiniGPT-v2)."""
    stage: AdapterStage = mlp(tower.hidden_size * joined, out, depth=1, patches_per_unit=float(joined))
    return replace(tower, adapter=(stage,), patches_per_token=float(joined))
