"""Every model type that transformers has: the config it saves, read back from its file, counts the model's parameters.

Each type is built twice on the meta device: with its class's defaults, and with layers, key-value heads, experts, biases
and tied embeddings other than these.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from oracle_models import params

from vtprof_analyzer.models.find import find_model
from vtprof_analyzer.models.known import FAMILIES
from vtprof_analyzer.models.registry import load_spec
from vtprof_analyzer.models.spec import ModelSpec

pytestmark = pytest.mark.torch
transformers = pytest.importorskip("transformers")

UNBUILT = {"fast_vlm", "gemma3n", "perception_lm"}
"""Their towers need the package timm; the other tests check them part by part."""
KINDS = sorted(set(FAMILIES) & set(transformers.CONFIG_MAPPING) - UNBUILT)
FLIPPED = (
    "attention_bias", "mlp_bias", "qkv_bias", "use_bias", "use_qk_norm", "use_mask_token", "multimodal_projector_bias",
    "use_absolute_position_embeddings", "projector_bias", "projector_use_layernorm",
)  # fmt: skip
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
BY_LAYER = (
    "layer_types",
    "mlp_layer_types",
    "no_rope_layers",
    "moe_layers",
    "full_attn_idxs",
    "rope_scaling_layers",
)
LAYERS = 8
QWEN_OMNI = {
    "text_config.num_attention_heads": 16, "text_config.head_dim": 128, "vision_config.out_hidden_size": 2048,
    "audio_config.output_dim": 2048,
}  # fmt: skip
REPAIRED: dict[str, dict[str, Any]] = {
    "aya_vision": {"vision_config.num_attention_heads": 16},
    "chameleon": {"vocabulary_map": {"<image>": 9}},
    "deepseek_ocr2": {"text_config.num_experts_per_tok": 6,
                      "text_config.mlp_layer_types": ["dense"] + 31 * ["sparse"]},
    "emu3": {"vocabulary_map": {"<image>": 9, "<|extra_200|>": 10}},
    "exaone4_5": {"vision_config.out_hidden_size": 4096},
    "gemma3": {"vision_config.image_size": 896},
    "glm4v_moe": {"text_config.head_dim": 128},
    "glm_ocr": {"vision_config.out_hidden_size": 1024},
    "granite_speech": {"projector_config.encoder_hidden_size": 1024},
    "hunyuan_vl": {"text_config.head_dim": 128},
    "internvl": {"text_config.tie_word_embeddings": True},
    "lighton_ocr": {"text_config.tie_word_embeddings": True},
    "mistral3": {"text_config.tie_word_embeddings": True},
    "ovis2": {"hidden_size": 4096},
    "qwen2_5_vl": {"vision_config.out_hidden_size": 8192},
    "qwen2_vl": {"vision_config.hidden_size": 8192},
    "qwen3_5": {"vision_config.out_hidden_size": 4096},
    "qwen3_5_moe": {"vision_config.out_hidden_size": 2048},
    "qwen3_omni_moe_thinker": QWEN_OMNI,
    "qwen3_vl": {"vision_config.out_hidden_size": 4096},
    "qwen3_vl_moe": {"vision_config.out_hidden_size": 2048},
    "shieldgemma2": {"vision_config.image_size": 896},
}  # fmt: skip
"""What a class's defaults leave out or contradict: sections that were made for one another have the same width."""


def architecture(kind: str) -> str:
    """Return the name of the class that generates, or retrieves."""
    from transformers.models.auto import modeling_auto as auto

    tables = (
        auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
        auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
        auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES,
        auto.MODEL_FOR_PRETRAINING_MAPPING_NAMES,
    )
    return str(next(table[kind] for table in tables if kind in table))


def repaired(kind: str) -> dict[str, Any]:
    """Return the defaults of a model type, put right where its sections do not fit one another."""
    values: dict[str, Any] = transformers.CONFIG_MAPPING[kind]().to_dict()
    for path, value in REPAIRED.get(kind, {}).items():
        *sections, key = path.split(".")
        section = values
        for name in sections:
            section = section[name]
        section[key] = value
    if kind in ("qwen2_5_omni", "qwen3_omni_moe"):
        values = {"thinker_config": repaired(f"{kind}_thinker"), "enable_audio_output": False}
    return values


def other(values: dict[str, Any]) -> dict[str, Any]:
    """Return other values than the defaults', in all sections."""
    tied = not values.get("tie_word_embeddings", False)
    return {**_other(values), "tie_word_embeddings": tied} | {
        key: {**_other(values[key]), "tie_word_embeddings": tied}
        for key in ("text_config", "thinker_config", "vlm_config")
        if isinstance(values.get(key), dict)
    }


def _other(values: dict[str, Any]) -> dict[str, Any]:
    done = {key: _other(value) if isinstance(value, dict) else value for key, value in values.items()}
    for key in FLIPPED:
        if isinstance(done.get(key), bool):
            done[key] = not done[key]
    for key in EXPERTS:
        if done.get(key):
            done[key] = 16
    if done.get("attn_resolutions"):
        done["attn_resolutions"] = []
    if done.get("vocab_size") and done.get("num_key_value_heads") and "kv_lora_rank" not in done:
        done.update(num_key_value_heads=1, num_hidden_layers=LAYERS)
        done.update({key: done[key][:LAYERS] for key in BY_LAYER if done.get(key)})
        done.pop("per_layer_config", None)
    return done


def read(folder: Path, config: Any) -> ModelSpec:
    """Save a config as a checkpoint has it, and read it from its file."""
    config.save_pretrained(folder)
    found = find_model(str(folder)).config
    assert found is not None
    return load_spec(found)


def built(kind: str, config: Any) -> Any:
    """Build a model without memory for its weights."""
    import torch

    with torch.device("meta"):
        model = getattr(transformers, architecture(kind))(config)
    model.tie_weights()
    return model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", [dict, other], ids=["defaults", "others"])
def test_a_saved_config_has_the_parameters_of_its_model(
    kind: str, change: Callable[[dict[str, Any]], dict[str, Any]], tmp_path: Path
) -> None:
    values = change(repaired(kind))
    config = transformers.CONFIG_MAPPING[kind](**values)
    spec, model = read(tmp_path, config), built(kind, config)
    assert spec.params.total == params(model)
    assert spec.params.active == params(model) - _unrouted(model)
    language = _language(model)
    assert language is None or spec.params.language == language


def _language(model: Any) -> int | None:
    """Count the decoder and its head, where the model keeps them apart from the rest."""
    inside = getattr(model, "model", model)
    decoder = getattr(inside, "language_model", None) or getattr(inside, "text_model", None)
    if decoder is None:
        return None
    head = getattr(model, "lm_head", None)
    own = {id(parameter): parameter for part in (decoder, head) if part for parameter in part.parameters()}
    return sum(parameter.numel() for parameter in own.values())


def _unrouted(model: Any) -> int:
    """Count the experts that one token of text is not routed to; the first dimension of their weights is the expert."""
    idle = 0
    for name, module in model.named_modules():
        if not name.endswith(".experts"):
            continue
        text = getattr(model.config, "thinker_config", model.config).text_config
        asked = ("num_experts_per_tok", "moe_topk", "moe_k", "top_k_experts")
        active = next(int(getattr(text, key)) for key in asked if getattr(text, key, None))
        for parameter in module.parameters():
            count = len(parameter)
            idle += parameter.numel() // count * (count if ".vision_moe." in name else count - active)
    return idle
