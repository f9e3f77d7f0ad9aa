"""Which module knows which model type: the tables behind `registry`.

A row is a module and the model types that it reads, separated by blanks.
"""

from collections.abc import Mapping


def _by_type(table: Mapping[str, str]) -> dict[str, str]:
    """Return model type to module."""
    return {kind: module for module, kinds in table.items() for kind in kinds.split()}


FAMILIES: dict[str, str] = _by_type(
    {
        "abstractors": "flamingo honeybee moondream1 mplug_owl2",
        "aria": "aria",
        "audio_language": (
            "audioflamingo3 glmasr granite_speech musicflamingo qwen2_audio qwen3_asr ultravox voxtral"
        ),
        "blip": "blip-2 instructblip instructblipvideo minigpt4 minigpt_v2 video_llama videochat",
        "code_images": "chameleon emu3 janus",
        "deepseek_vl": "deepseek_ocr deepseek_ocr2 deepseek_vl deepseek_vl_hybrid deepseek_vl_v2",
        "florence2": "florence2",
        "fuyu": "fuyu",
        "gemma": "colpali gemma3 gemma3n gemma4 gemma4_unified paligemma shieldgemma2",
        "git": "git",
        "got_ocr2": "got_ocr2",
        "idefics": "idefics idefics2 idefics3 smolvlm",
        "internvl": "internvl internvl_chat qianfan_ocr",
        "kosmos": "kosmos-2 kosmos-2.5",
        "lfm2_vl": "lfm2_vl",
        "llama4": "llama4",
        "llava": (
            "aya_vision cohere2_vision fast_vlm llava llava_next llava_next_video llava_onevision "
            "perception_lm video_llava vipllava"
        ),
        "llava_original": (
            "cambrian_llama cambrian_phi3 cambrian_qwen dynamic_vlm llava_gemma llava_llama "
            "llava_mistral llava_phi llava_qwen llava_qwen2 llava_stablelm longva longvlm mobilevlm "
            "slowfast_llava video_xl_2 videochat_flash_qwen VideoChatGPT vila"
        ),
        "minicpmv": "minicpm_ocr minicpmv minicpmv4_6",
        "mllama": "mllama",
        "molmo": "molmo molmo2",
        "native": (
            "dots_ocr ernie4_5_moe_vl ernie4_5_vl_moe exaone4_5 glm46v glm4v glm4v_moe glm_ocr "
            "hunyuan_vl keye Keye kimi_k25 kimi_vl paddleocr_vl qwen2_5_vl qwen2_vl qwen3_5 "
            "qwen3_5_moe qwen3_vl qwen3_vl_moe video_llama_3 videollama3_qwen2"
        ),
        "ovis": "ovis ovis2",
        "phi_vision": "phi3_v phi4_multimodal phi4mm",
        "pixtral": "lighton_ocr mistral3",
        "qwen": "qwen",
        "qwen_omni": "qwen2_5_omni qwen2_5_omni_thinker qwen3_omni_moe qwen3_omni_moe_thinker",
        "visual_expert": "chatglm cogvlm internlm_xcomposer2 internlmxcomposer2",
        "whisper": "whisper",
    }
)
"""Model type to module of `models.families`; a module is imported when it is asked for."""
TOKEN_RULES: dict[str, str] = _by_type(
    {
        "aria": "aria",
        "audio": (
            "audioflamingo3 glmasr granite_speech hubert musicflamingo qwen2_audio qwen3_asr ultravox "
            "voxtral wav2vec2 wav2vec2-bert whisper"
        ),
        "aya_vision": "aya_vision cohere2_vision",
        "deepseek_vl2": "deepseek_ocr deepseek_ocr2 deepseek_vl_v2",
        "emu3": "emu3",
        "fixed": (
            "blip-2 chameleon chatglm cogvlm deepseek_vl deepseek_vl_hybrid flamingo florence2 git "
            "honeybee instructblip instructblipvideo janus kosmos-2 kosmos-2.5 minigpt4 minigpt_v2 "
            "moondream1 mplug_owl2 video_llama videochat"
        ),
        "fuyu": "fuyu",
        "gemma3": "colpali gemma3 gemma3n paligemma shieldgemma2",
        "gemma4": "gemma4 gemma4_unified",
        "hd_transform": "internlm_xcomposer2 internlmxcomposer2 phi3_v",
        "idefics2": "idefics idefics2",
        "idefics3": "idefics3 modernvbert smolvlm",
        "internvl": "got_ocr2 internvl internvl_chat qianfan_ocr",
        "lfm2_vl": "lfm2_vl",
        "llama4": "llama4",
        "llava": "fast_vlm llava video_llava vipllava",
        "llava_next": "llava_next llava_next_video",
        "llava_onevision": "llava_onevision",
        "llava_original": (
            "cambrian_llama cambrian_phi3 cambrian_qwen llava_gemma llava_llama llava_mistral "
            "llava_phi llava_qwen llava_qwen2 llava_stablelm mobilevlm vila"
        ),
        "minicpmv": "minicpm_ocr minicpmv minicpmv4_6",
        "mllama": "mllama",
        "molmo": "molmo molmo2",
        "moonvit": "kimi_k25 kimi_vl",
        "native": (
            "dots_ocr ernie4_5_moe_vl ernie4_5_vl_moe exaone4_5 glm46v glm4v glm4v_moe glm_ocr "
            "hunyuan_vl keye Keye paddleocr_vl qwen2_5_omni qwen2_5_omni_thinker qwen2_5_vl qwen2_vl "
            "qwen3_5 qwen3_5_moe qwen3_omni_moe qwen3_omni_moe_thinker qwen3_vl qwen3_vl_moe "
            "video_llama_3 videollama3_qwen2"
        ),
        "ovis": "ovis ovis2",
        "perception_lm": "perception_lm",
        "phi4_multimodal": "phi4_multimodal phi4mm",
        "pixtral": "lighton_ocr mistral3 mistral_large4",
        "qwen": "qwen",
        "video_laws": (
            "dynamic_vlm longva longvlm moviechat slowfast_llava video_xl_2 videochat_flash_qwen VideoChatGPT"
        ),
    }
)
"""Model type to module of `models.tokens`."""
PROCESSORS: dict[str, str] = {
    "AriaProcessor": "aria",
    "AudioFlamingo3Processor": "audioflamingo3",
    "AyaVisionProcessor": "aya_vision",
    "Blip2Processor": "blip-2",
    "ChameleonProcessor": "chameleon",
    "Cohere2VisionProcessor": "cohere2_vision",
    "ColPaliProcessor": "colpali",
    "DeepseekOcr2Processor": "deepseek_ocr2",
    "DeepseekVLHybridProcessor": "deepseek_vl_hybrid",
    "DeepseekVLProcessor": "deepseek_vl",
    "DeepseekVLV2Processor": "deepseek_vl_v2",
    "Emu3Processor": "emu3",
    "Ernie4_5_VLMoeProcessor": "ernie4_5_vl_moe",
    "Exaone4_5_Processor": "exaone4_5",
    "Florence2Processor": "florence2",
    "FuyuProcessor": "fuyu",
    "Gemma3Processor": "gemma3",
    "Gemma3nProcessor": "gemma3n",
    "Gemma4Processor": "gemma4",
    "Gemma4UnifiedProcessor": "gemma4_unified",
    "GitProcessor": "git",
    "Glm46VProcessor": "glm46v",
    "Glm4vProcessor": "glm4v",
    "GlmAsrProcessor": "glmasr",
    "GotOcr2Processor": "got_ocr2",
    "GraniteSpeechProcessor": "granite_speech",
    "HunYuanVLProcessor": "hunyuan_vl",
    "Idefics2Processor": "idefics2",
    "Idefics3Processor": "idefics3",
    "IdeficsProcessor": "idefics",
    "InstructBlipProcessor": "instructblip",
    "InstructBlipVideoProcessor": "instructblipvideo",
    "InternVLProcessor": "internvl",
    "JanusProcessor": "janus",
    "KeyeProcessor": "keye",
    "KimiVLProcessor": "kimi_vl",
    "Kimi_K25Processor": "kimi_k25",
    "Kosmos2Processor": "kosmos-2",
    "Kosmos2_5Processor": "kosmos-2.5",
    "Lfm2VlProcessor": "lfm2_vl",
    "LightOnOcrProcessor": "lighton_ocr",
    "Llama4Processor": "llama4",
    "LlavaNextProcessor": "llava_next",
    "LlavaNextVideoProcessor": "llava_next_video",
    "LlavaOnevisionProcessor": "llava_onevision",
    "LlavaProcessor": "llava",
    "MiniCPMOcrProcessor": "minicpm_ocr",
    "MiniCPMV4_6Processor": "minicpmv4_6",
    "MiniCPMVProcessor": "minicpmv",
    "MllamaProcessor": "mllama",
    "Molmo2Processor": "molmo2",
    "MolmoProcessor": "molmo",
    "MusicFlamingoProcessor": "musicflamingo",
    "Ovis2Processor": "ovis2",
    "PaddleOCRVLProcessor": "paddleocr_vl",
    "PaliGemmaProcessor": "paligemma",
    "PerceptionLMProcessor": "perception_lm",
    "Phi3VProcessor": "phi3_v",
    "Phi4MMProcessor": "phi4mm",
    "Phi4MultimodalProcessor": "phi4_multimodal",
    "PixtralProcessor": "mistral3",
    "QianfanOCRProcessor": "qianfan_ocr",
    "Qwen2AudioProcessor": "qwen2_audio",
    "Qwen2VLProcessor": "qwen2_vl",
    "Qwen2_5OmniProcessor": "qwen2_5_omni",
    "Qwen2_5_VLProcessor": "qwen2_5_vl",
    "Qwen3ASRProcessor": "qwen3_asr",
    "Qwen3OmniMoeProcessor": "qwen3_omni_moe",
    "Qwen3VLProcessor": "qwen3_vl",
    "ShieldGemma2Processor": "shieldgemma2",
    "SmolVLMProcessor": "smolvlm",
    "UltravoxProcessor": "ultravox",
    "VideoLlama3Processor": "video_llama_3",
    "VideoLlavaProcessor": "video_llava",
    "Videollama3Qwen2Processor": "videollama3_qwen2",
    "VoxtralProcessor": "voxtral",
    "Wav2Vec2BertProcessor": "wav2vec2-bert",
    "Wav2Vec2Processor": "wav2vec2",
    "WhisperProcessor": "whisper",
}
"""Processor class (``processor_class`` of a processor config) to model type, for a folder without config.json."""
ARCHITECTURES: dict[str, str] = {
    "CogVLMForCausalLM": "cogvlm",
    "InternLMXComposer2ForCausalLM": "internlmxcomposer2",
}
"""Class under ``architectures`` to model type, for published files that name no type."""
