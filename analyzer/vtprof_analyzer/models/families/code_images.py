"""Janus, Chameleon and Emu3: images as codes of a convolutional tokenizer.

Chameleon and Emu3 read images as such codes, which are words of their vocabulary. Janus reads them through a SigLIP
tower; its tokenizer and head for making images are loaded and take no part in reading.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vtprof_analyzer.models.families import parts
from vtprof_analyzer.models.families.llava import mlp
from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.spec import LanguageModel, ModelSpec, Tower
from vtprof_analyzer.models.text.dense import Traits
from vtprof_analyzer.models.text.dense import build as build_decoder
from vtprof_analyzer.models.vision.vit import Style, build
from vtprof_analyzer.models.vision.vqvae import pyramid

CONVOLUTIONS = "the tokenizer of images is convolutional: its weights are counted, its FLOPs are not"


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """Turn a config of one of these models into a spec; raise `DataError` that names the field at fault."""
    kind, top = str(config["model_type"]), Fields(config)
    codes = top.section("vq_config") or Fields({}, "vq_config")
    if kind == "chameleon":
        text = top
        language, tower = _chameleon(top), _codes(codes)
    elif kind == "emu3":
        text = parts.text_section(config)
        language, tower = parts.language_model(top, text), _emu(codes)
    else:
        text = parts.text_section(config, "llama")
        language = parts.language_model(top, text)
        tower = _janus(parts.vision_section(config), codes, language)
    return ModelSpec(
        model_type=kind,
        vision=tower,
        language=language,
        dtype=parts.dtype(top, text),
        notes=() if kind == "janus" else (CONVOLUTIONS,),
    )


def _chameleon(top: Fields) -> LanguageModel:
    """Return Llama with norms of queries and keys: a weight and a bias for every value of every head."""
    traits = Traits(qkv_bias="attention_bias", output_bias="attention_bias", mlp_bias="mlp_bias")
    model = build_decoder(top, traits, parts.tied(top, top))
    groups = []
    for group in model.groups:
        values = group.attention.query_width + group.attention.kv_heads * group.attention.head_dim
        groups.append(replace(group, other_params=group.other_params + 2 * values))
    return replace(model, groups=tuple(groups))


def _codes(codes: Fields) -> Tower:
    """Return the encoder of a tokenizer as a tower without layers that transformers have."""
    sizes = pyramid(codes, attention_levels=())
    width = codes.integer("embed_dim", default=256)
    table = codes.integer("num_embeddings", default=8192) * width
    halvings = len(sizes.multipliers) - 1
    matrices = sizes.latent * width + width + width * sizes.latent + sizes.latent
    return Tower(
        hidden_size=width,
        patch_params=0,
        patch_values=sizes.channels * 4**halvings,
        groups=(),
        adapter=(),
        patches_per_token=1.0,
        other_params=sizes.encoder() + table + matrices,
        flops_known=False,
    )


def _emu(codes: Fields) -> Tower:
    """Return Emu3's tokenizer: convolutions over time on the codes; its decoder is loaded and waits."""
    named = {"base_channels": 256, "channel_multiplier": [1, 2, 2, 4], "latent_channels": 4, "embed_dim": 4}
    given = Fields({**named, "codebook_size": 32768, "attn_resolutions": [3], **codes.values}, codes.path)
    sizes = pyramid(given, attention_levels=given.integers("attn_resolutions", ()))
    width, latent = given.integer("embed_dim"), given.integer("latent_channels")
    frames = given.integer("temporal_downsample_factor", default=4)
    halvings = frames.bit_length() - 1
    blocks = sizes.blocks * 2 * (2 * latent + 27 * latent**2 + latent)
    # A halving of time has a kernel of 4 x 3 x 3, a doubling one of 3 x 3 x 3; three frames make a code.
    down = blocks + halvings * (36 * latent**2 + latent)
    up = blocks + halvings * (27 * latent**2 + latent)
    table = given.integer("codebook_size") * width
    matrices = (3 * latent * width + width) + (3 * width * latent + latent)
    return Tower(
        hidden_size=width,
        patch_params=0,
        patch_values=sizes.channels * 4 ** (len(sizes.multipliers) - 1),
        groups=(),
        adapter=(),
        patches_per_token=1.0,
        other_params=sizes.encoder() + down + table + matrices,
        idle_params=sizes.decoder(given.integer("out_channels", default=3), codes=width) + up,
        flops_known=False,
    )


def _janus(vision: Fields, codes: Fields, language: LanguageModel) -> Tower:
    bias = vision.flag("attention_bias", True)
    named = {**vision.values, "intermediate_size": None}
    style = Style(query_bias=bias, key_bias=bias, value_bias=bias)
    plain = build(Fields(named, vision.path), style, None)
    if vision.flag("use_qk_norm", False):  # over all heads together, with biases
        norms = 4 * plain.hidden_size
        groups = tuple(replace(group, other_params=group.other_params + norms) for group in plain.groups)
        plain = replace(plain, groups=groups)
    out = vision.integer("projection_dim", default=language.hidden_size)
    stage = mlp(plain.hidden_size, out, depth=vision.integer("depth", default=2))
    return replace(plain, adapter=(stage,), idle_params=plain.idle_params + _generator(codes))


def _generator(codes: Fields) -> int:
    """Return the parameters of what Janus makes images with: tokenizer, embedding, MLP and head."""
    sizes = pyramid(codes, attention_levels=(-1,))
    width = codes.integer("embed_dim", default=8)
    rows = codes.integer("num_embeddings", default=16384)
    out = codes.integer("projection_dim", default=2048)
    embedded = codes.integer("image_token_embed_dim", default=2048)
    depth = codes.integer("num_hidden_layers", default=2)
    tokenizer = sizes.encoder() + sizes.decoder(codes.integer("out_channels", default=3))
    tokenizer += rows * width + sizes.latent * width + width + width * sizes.latent + sizes.latent
    aligner = width * out + out + (depth - 1) * (out * out + out)
    head = embedded * out + out + out * rows + rows
    return tokenizer + rows * width + aligner + head
