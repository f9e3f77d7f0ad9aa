"""Towers that configs name by a timm architecture: the Perception Encoder, and FastViT whose FLOPs are not known."""

from typing import Any

from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.spec import Tower
from vtprof_analyzer.models.vision import vit

_PERCEPTION: dict[str, dict[str, Any]] = {
    "vit_pe_core_base": {"embed_dim": 768, "depth": 12, "num_heads": 12, "inner": 3072, "class_token": True},
    "vit_pe_core_large": {
        "embed_dim": 1024,
        "depth": 24,
        "num_heads": 16,
        "inner": 4096,
        "class_token": True,
    },
    "vit_pe_core_gigantic": {
        "embed_dim": 1536,
        "depth": 50,
        "num_heads": 16,
        "inner": 8960,
        "class_token": False,
    },
}
"""Sizes of the Perception Encoder as its paper has them (table of PE core models); ``model_args`` change them."""
_FASTVIT_PARAMS = {"fastvit_mci3": 125_100_000}
"""FastViTHD as the FastVLM paper gives it: 125.1 M; architecture to parameters."""


def tower(fields: Fields, layers_run: int | None) -> Tower:
    """Turn a section of type ``timm_wrapper`` into a tower; raise `DataError` for an architecture that is not known."""
    name = fields.text("architecture", default="") or ""
    if name in _FASTVIT_PARAMS:
        return convolutional(
            fields.integer("hidden_size", "num_features", default=3072), 64, _FASTVIT_PARAMS[name]
        )
    known = next((sizes for prefix, sizes in _PERCEPTION.items() if name.startswith(prefix)), None)
    if known is None:
        raise fields.fault("architecture", f"is {name!r}, a timm model without a cost model yet")
    arguments = fields.section("model_args") or Fields({})
    return _perception(
        Fields(
            {**known, "img_size": _pixels(name), "patch_size": _number(name, "patch", 14), **arguments.values}
        ),
        layers_run,
    )


def convolutional(width: int, stride: int, params: int) -> Tower:
    """Return a tower of convolutions: its parameters are read, its FLOPs are not known (S098 to S100).

    ``stride`` is the side [pixels] of what becomes one position of the output.
    """
    return Tower(
        hidden_size=width,
        patch_params=0,
        patch_values=3 * stride**2,
        groups=(),
        adapter=(),
        patches_per_token=1.0,
        other_params=params,
        flops_known=False,
    )


def _perception(sizes: Fields, layers_run: int | None) -> Tower:
    """Return the Perception Encoder: rotary and learned positions, a norm before the layers, layer scale where it is set."""
    plain = {
        "hidden_size": sizes.integer("embed_dim"),
        "num_hidden_layers": sizes.integer("depth"),
        "num_attention_heads": sizes.integer("num_heads"),
        "intermediate_size": sizes.integer("inner"),
        "image_size": sizes.first("img_size"),
        "patch_size": sizes.integer("patch_size"),
    }
    style = vit.Style(
        class_token=sizes.flag("class_token", True),
        patch_bias=False,
        pre_norm=True,
        post_norm=sizes.flag("use_post_transformer_norm", True),
        layer_scale=sizes.first("init_values") is not None,
    )
    return vit.build(Fields(plain, "vision_config.model_args"), style, layers_run)


def _pixels(name: str) -> int:
    tail = name.rsplit("_", 1)[-1].split(".")[0]
    return int(tail) if tail.isdecimal() and 0 < len(tail) < 6 else 336


def _number(name: str, word: str, default: int) -> int:
    for part in name.split("_"):
        digits = part.removeprefix(word)
        if part.startswith(word) and digits.isdecimal() and 0 < len(digits) < 6:
            return max(1, int(digits))
    return default
