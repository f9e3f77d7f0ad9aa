"""Audio towers complete with their adapter, as the composite models hang them before the language model.

`audio_tower` is what families call: ``audio_tower(top.section("audio_config"), language.hidden_size)``.
"""

from dataclasses import replace

from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.spec import AdapterStage, Tower
from vtprof_analyzer.models.vision.registry import encoder


def matrix(
    width: int, out: int, bias: bool = True, other: int = 0, **where: float | bool | int | None
) -> AdapterStage:
    """Return one matrix with its bias; ``where`` says how its units come about, as in `AdapterStage`."""
    return AdapterStage(width * out, out * bias + other, width + out, **where)  # type: ignore[arg-type]


def audio_tower(fields: Fields, text_width: int) -> Tower:
    """Return the tower and adapter of an audio section, by its ``model_type``.

    For Qwen2.5-Omni, Qwen3-Omni, Qwen3-ASR and Phi-4-multimodal (``*_audio_encoder``, ``qwen3_asr_encoder``,
    ``phi4_multimodal_audio``); ``text_width`` is the language model's. Other kinds come back without adapter. Raises
    `DataError` that names the field at fault.
    """
    tower = encoder(fields)
    kind = fields.text("model_type")
    width = tower.hidden_size
    if kind == "qwen2_5_omni_audio_encoder":
        stage = matrix(width, fields.integer("output_dim", default=text_width), patches_per_unit=4.0)
        return replace(tower, adapter=(stage,), patches_per_token=4.0)
    if kind in ("qwen3_omni_moe_audio_encoder", "qwen3_asr_encoder", "qwen3_asr_audio_encoder"):
        rate = tower.patches_per_token
        out = fields.integer("output_dim", default=text_width)
        stages = (matrix(width, width, patches_per_unit=rate), matrix(width, out, patches_per_unit=rate))
        return replace(tower, adapter=stages)
    if kind == "phi4_multimodal_audio":
        stacked = fields.integer("downsample_rate", default=1)
        rate = tower.patches_per_token * stacked
        up = matrix(width * stacked, text_width, patches_per_unit=rate)
        down = matrix(text_width, text_width, patches_per_unit=rate)
        # Of two pairs of projections, for speech alone and for speech with images, a request uses one.
        idle = sum(stage.linear_params + stage.other_params for stage in (up, down))
        return replace(
            tower, adapter=(up, down), patches_per_token=rate, idle_params=tower.idle_params + idle
        )
    return tower


def first_qwen_audio_tower(fields: Fields, text_width: int) -> Tower:
    """Return the tower of the first Qwen-Audio from its section ``audio``, whose fields have Whisper's original names.

    It is built as Qwen2.5-Omni's: fixed positions, pooling by 2, one matrix, learned vectors for begin and end.
    """
    width = fields.integer("n_state")
    values = {
        "model_type": "qwen2_5_omni_audio_encoder",
        "d_model": width,
        "encoder_attention_heads": fields.integer("n_head"),
        "encoder_layers": fields.integer("n_layer"),
        "encoder_ffn_dim": 4 * width,
        "num_mel_bins": fields.integer("n_mels", default=80),
        "output_dim": fields.integer("output_dim", default=text_width),
    }
    return audio_tower(Fields(values, fields.path, fields.file, fields.assumed), text_width)
