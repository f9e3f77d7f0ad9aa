"""Published configs of the Qwen2-VL family, reduced to the fields that set sizes, and tiny ones for torch."""

from typing import Any

QWEN2_5_VL_7B: dict[str, Any] = {
    "model_type": "qwen2_5_vl",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_sliding_window": False,
    "sliding_window": 32768,
    "max_window_layers": 28,
    "vision_config": {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "in_chans": 3,
        "out_hidden_size": 3584,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "spatial_patch_size": 14,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
        "temporal_patch_size": 2,
    },
}

QWEN2_5_VL_72B: dict[str, Any] = {
    **QWEN2_5_VL_7B,
    "hidden_size": 8192,
    "intermediate_size": 29568,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "max_window_layers": 80,
    "vision_config": {
        **QWEN2_5_VL_7B["vision_config"],
        "intermediate_size": 3456,
        "out_hidden_size": 8192,
    },
}

QWEN2_VL_7B: dict[str, Any] = {
    **QWEN2_5_VL_7B,
    "model_type": "qwen2_vl",
    "vision_config": {
        "depth": 32,
        "embed_dim": 1280,
        "mlp_ratio": 4,
        "num_heads": 16,
        "in_chans": 3,
        "hidden_size": 3584,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    },
}

_TEXT: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
    "bos_token_id": 1,
    "eos_token_id": 2,
}

TINY_2_5: dict[str, Any] = {
    "model_type": "qwen2_5_vl",
    "text_config": _TEXT,
    "tie_word_embeddings": False,
    "vision_config": {
        "depth": 4,
        "hidden_size": 32,
        "intermediate_size": 72,
        "num_heads": 2,
        "in_channels": 3,
        "out_hidden_size": 64,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "window_size": 112,
        "fullatt_block_indexes": [1, 3],
        "temporal_patch_size": 2,
    },
}

TINY_2: dict[str, Any] = {
    **TINY_2_5,
    "model_type": "qwen2_vl",
    "vision_config": {
        "depth": 3,
        "embed_dim": 32,
        "mlp_ratio": 4,
        "num_heads": 2,
        "in_channels": 3,
        "hidden_size": 64,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    },
}
