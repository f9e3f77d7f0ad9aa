"""Vision towers that the original LLaVA projects name and do not describe: from ``mm_vision_tower`` to a vision section.

Sizes are those of the checkpoints' own configs: CLIP, SigLIP, DINOv2 and EVA-CLIP as published; of the convolutional
ones only the parameters, for their FLOPs are not known: OpenCLIP's ConvNeXts as published, FastViTHD's 125.1 M of the
FastVLM paper, and ConvLLaVA's by arithmetic: ConvNeXt-L and six blocks of 8 x 3072^2 weights behind a 2 x 2 convolution.
"""

import re
from dataclasses import dataclass
from typing import Any

_CLIP_LARGE = {
    "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
    "num_attention_heads": 16, "image_size": 224, "patch_size": 14, "projection_dim": 768,
}  # fmt: skip
_CLIP_BASE = {
    "model_type": "clip_vision_model", "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "image_size": 224, "patch_size": 32, "projection_dim": 512,
}  # fmt: skip
_CLIP_HUGE = {
    "model_type": "clip_vision_model", "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32,
    "num_attention_heads": 16, "image_size": 224, "patch_size": 14, "projection_dim": 1024,
}  # fmt: skip
_CLIP_BIG_G = {
    "model_type": "clip_vision_model", "hidden_size": 1664, "intermediate_size": 8192, "num_hidden_layers": 48,
    "num_attention_heads": 16, "image_size": 224, "patch_size": 14, "projection_dim": 1280,
}  # fmt: skip
_SO400M = {
    "model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27,
    "num_attention_heads": 16, "image_size": 384, "patch_size": 14,
}  # fmt: skip
_SIGLIP_BASE = {
    "model_type": "siglip_vision_model", "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "image_size": 224, "patch_size": 16,
}  # fmt: skip
_SIGLIP_LARGE = {
    "model_type": "siglip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
    "num_attention_heads": 16, "image_size": 256, "patch_size": 16,
}  # fmt: skip
_EVA_LARGE = {
    "model_type": "eva_clip_vision_model", "hidden_size": 1024, "intermediate_size": 2730, "num_hidden_layers": 24,
    "num_attention_heads": 16, "image_size": 336, "patch_size": 14, "projection_dim": 768,
}  # fmt: skip
_EVA_8B = {
    "model_type": "clip_vision_model", "hidden_size": 4096, "intermediate_size": 20480, "num_hidden_layers": 32,
    "num_attention_heads": 32, "image_size": 448, "patch_size": 14, "projection_dim": 1280,
}  # fmt: skip
_DINO_LARGE = {
    "model_type": "dinov2", "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "mlp_ratio": 4,
    "image_size": 518, "patch_size": 14,
}  # fmt: skip
_DINO_GIANT = {
    "model_type": "dinov2", "hidden_size": 1536, "num_hidden_layers": 40, "num_attention_heads": 24, "mlp_ratio": 4,
    "use_swiglu_ffn": True, "image_size": 518, "patch_size": 14,
}  # fmt: skip


_UMT_LARGE = {
    "model_type": "ijepa", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
    "num_attention_heads": 16, "image_size": 224, "patch_size": 16,
}  # fmt: skip
"""UMT's plain transformer without class token has I-JEPA's parts."""


@dataclass(frozen=True)
class Convolutional:
    """A tower of which only the parameters, the output's width and its stride [pixels] are known."""

    params: int
    width: int
    stride: int
    side: int
    """Pixels of the square image."""


_NAMES: tuple[tuple[str, dict[str, Any] | Convolutional], ...] = (
    (r"convllava", Convolutional(672_000_000, 3072, 64, 768)),
    (r"mobileclip_l|fastvit", Convolutional(125_100_000, 3072, 64, 1024)),
    (r"convnext.*xxl", Convolutional(846_540_000, 3072, 32, 1024)),
    (r"convnext.*large|convnext-l", Convolutional(199_770_000, 1536, 32, 320)),
    (r"umt", _UMT_LARGE),
    (r"dinov2.*giant", _DINO_GIANT),
    (r"dinov2.*large", _DINO_LARGE),
    (r"eva.*clip.*8b", _EVA_8B),
    (r"eva.*clip.*l", _EVA_LARGE),
    (r"siglip.*so400m|so400m", _SO400M),
    (r"siglip.*large", _SIGLIP_LARGE),
    (r"siglip.*base", _SIGLIP_BASE),
    (r"clip.*big-?g", _CLIP_BIG_G),
    (r"clip.*(huge|-h-)", _CLIP_HUGE),
    (r"clip.*(large|-l-|l/14)|metaclip-l", _CLIP_LARGE),
    (r"clip.*base", _CLIP_BASE),
)
"""Pattern in a tower's name, in lower case, to what it is; the first that fits decides."""


def named_tower(name: str) -> dict[str, Any] | Convolutional | None:
    """Return the vision section of a tower's name, or None; sides and patches in the name go before the tower's own.

    ``openai/clip-vit-large-patch14-336`` and ``google/siglip-so400m-patch14-384`` end in the side [pixels].
    """
    short = name.lower()[:200]
    known = next((tower for pattern, tower in _NAMES if re.search(pattern, short)), None)
    if known is None:
        return None
    pixels = re.search(r"(?:^|[-_/]|res)(\d{3,4})(?:px)?(?:$|[-_/])", short)
    side = int(pixels.group(1)) if pixels else None
    if isinstance(known, Convolutional):
        return known if side is None else Convolutional(known.params, known.width, known.stride, side)
    patch = re.search(r"patch(\d{2})(?!\d)", short)
    changed: dict[str, Any] = {}
    if side is not None and 112 <= side <= 2048:
        changed["image_size"] = side
    if patch is not None:
        changed["patch_size"] = int(patch.group(1))
    return {**known, **changed}
