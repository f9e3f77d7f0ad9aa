"""Published configs of audio models, reduced to the fields that set sizes."""

from typing import Any

QWEN2_AUDIO_7B: dict[str, Any] = {
    "model_type": "qwen2_audio",
    "torch_dtype": "bfloat16",
    "audio_token_index": 151646,
    "audio_config": {
        "model_type": "qwen2_audio_encoder",
        "d_model": 1280,
        "encoder_attention_heads": 20,
        "encoder_ffn_dim": 5120,
        "encoder_layers": 32,
        "num_mel_bins": 128,
        "max_source_positions": 1500,
        "scale_embedding": False,
    },
    "text_config": {
        "model_type": "qwen2",
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": 156032,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_sliding_window": False,
    },
}
