"""A tiny random-weight Qwen2.5-VL with its processor, built without a download.

The tokenizer has bytes and no merges, so that one byte of text is one token; images go through the family's own
PIL image processor. The shapes here are all that a client needs to know in order to count for itself.
"""

from typing import Any, Final

MODEL_NAME: Final = "tiny-qwen2.5-vl"

LAYERS: Final = 4
HIDDEN_SIZE: Final = 256
ATTENTION_HEADS: Final = 4
KV_HEADS: Final = 2
HEAD_DIM: Final = HIDDEN_SIZE // ATTENTION_HEADS
KV_BYTES_PER_VALUE: Final = 4
"""Weights and cache are float32: the type in which a CPU computes best."""
MAX_POSITIONS: Final = 8192

PATCH_PIXELS: Final = 14
MERGE_PATCHES: Final = 2
TOKEN_PIXELS: Final = PATCH_PIXELS * MERGE_PATCHES
"""Side of the square of pixels that one visual token covers."""
MIN_IMAGE_PIXELS: Final = 4 * TOKEN_PIXELS**2
MAX_IMAGE_PIXELS: Final = 1280 * TOKEN_PIXELS**2

SPECIAL_TOKENS: Final = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
TOKEN_IDS: Final = {token: 256 + index for index, token in enumerate(SPECIAL_TOKENS)}
"""Ids of the special tokens; 0..255 are the bytes."""

CHAT_TEMPLATE: Final = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEMPLATE_TOKENS: Final = 19
"""Tokens around one user message: `<|im_start|>user\\n`, `<|im_end|>\\n` and `<|im_start|>assistant\\n`."""
TAG_TOKENS_PER_IMAGE: Final = 2
"""`<|vision_start|>` and `<|vision_end|>`, which count as text."""

WARM_UP_PATCHES = 4096
WARM_UP_TOKENS = 1024


def build_config() -> Any:
    """Build the model's transformers configuration."""
    from transformers import Qwen2_5_VLConfig

    return Qwen2_5_VLConfig(
        name_or_path=MODEL_NAME,
        text_config={
            "vocab_size": 512,
            "hidden_size": HIDDEN_SIZE,
            "intermediate_size": 768,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": ATTENTION_HEADS,
            "num_key_value_heads": KV_HEADS,
            "max_position_embeddings": MAX_POSITIONS,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]},
            "bos_token_id": TOKEN_IDS["<|endoftext|>"],
            "eos_token_id": TOKEN_IDS["<|im_end|>"],
            "pad_token_id": TOKEN_IDS["<|endoftext|>"],
        },
        vision_config={
            "depth": 4,
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_heads": 2,
            "out_hidden_size": HIDDEN_SIZE,
            "patch_size": PATCH_PIXELS,
            "spatial_patch_size": PATCH_PIXELS,
            "spatial_merge_size": MERGE_PATCHES,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [1, 3],
        },
        image_token_id=TOKEN_IDS["<|image_pad|>"],
        video_token_id=TOKEN_IDS["<|video_pad|>"],
        vision_start_token_id=TOKEN_IDS["<|vision_start|>"],
        vision_end_token_id=TOKEN_IDS["<|vision_end|>"],
        tie_word_embeddings=False,
    )


def build_model(seed: int = 0) -> Any:
    """Build the model with random float32 weights, ready to generate greedily."""
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(build_config()).eval()
    model.generation_config.do_sample = False
    model.generation_config.eos_token_id = TOKEN_IDS["<|im_end|>"]
    model.generation_config.pad_token_id = TOKEN_IDS["<|endoftext|>"]
    return model


def warm_up(model: Any) -> None:
    """Run the tower and the language model once on noise, as servers do before they listen.

    The first run of a shape pays for memory and kernel set-up; the first request should not.
    """
    import torch

    patches = torch.randn(WARM_UP_PATCHES, 3 * 2 * PATCH_PIXELS**2)
    grid = torch.tensor([[1, WARM_UP_PATCHES // 32, 32]])
    tokens = torch.randint(0, 256, (1, WARM_UP_TOKENS))
    with torch.inference_mode():
        for _ in range(2):
            model.model.visual(patches, grid_thw=grid)
            language = model.model.language_model
            language(inputs_embeds=language.embed_tokens(tokens), use_cache=True)


def build_processor(max_image_pixels: int = MAX_IMAGE_PIXELS) -> Any:
    """Build the processor: PIL image processor, byte tokenizer, chat template; it takes images and no videos."""
    from transformers import PreTrainedTokenizerFast, ProcessorMixin, Qwen2_5_VLProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    class TinyProcessor(Qwen2_5_VLProcessor):  # type: ignore[misc]
        """The family's processor without the video part, which would need torchvision."""

        def __init__(self, image_processor: Any, tokenizer: Any, chat_template: str | None = None) -> None:
            self.image_token, self.image_token_id = "<|image_pad|>", TOKEN_IDS["<|image_pad|>"]
            self.video_token, self.video_token_id = "<|video_pad|>", TOKEN_IDS["<|video_pad|>"]
            ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_byte_tokenizer(),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        model_max_length=MAX_POSITIONS,
    )
    image_processor = Qwen2VLImageProcessorPil(
        size={"shortest_edge": MIN_IMAGE_PIXELS, "longest_edge": max_image_pixels},
        patch_size=PATCH_PIXELS,
        temporal_patch_size=2,
        merge_size=MERGE_PATCHES,
    )
    return TinyProcessor(image_processor, tokenizer, chat_template=CHAT_TEMPLATE)


def _byte_tokenizer() -> Any:
    """Build a byte-level tokenizer without merges: one byte is one token."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(
        models.BPE(vocab={symbol: index for index, symbol in enumerate(symbols)}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    )
    return tokenizer
