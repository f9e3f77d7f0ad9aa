"""Fields of the original LLaVA projects' configs that both the spec and the token rule read: tower, projector, scales."""

import re
from collections.abc import Mapping
from typing import Any

from vtprof_analyzer.models.config_defaults import complete
from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.vision.named import Convolutional, named_tower

MOST_TOWERS = 16
MOBILE_SIDE = 12
"""Tokens on a side after MobileVLM V2's downsampling, whatever the tower's grid: 144 in all."""


def is_original(config: Mapping[str, Any]) -> bool:
    """Tell whether a config is of the original projects' form, whatever its model type."""
    return any(
        config.get(key) is not None
        for key in ("mm_vision_tower", "mm_vision_tower_aux_list", "vision_tower_cfg")
    )


def tower_names(top: Fields) -> list[str]:
    """Return the names of the towers; several of them where each image runs through several (Cambrian-1)."""
    several = top.first("mm_vision_tower_aux_list")
    if several is not None:
        if not isinstance(several, list) or not 0 < len(several) <= MOST_TOWERS:
            raise top.fault("mm_vision_tower_aux_list", "is no list of towers")
        return [str(name) for name in several]
    if top.first("vision_tower_cfg") is not None:
        return [""]
    name = top.first("mm_vision_tower", "vision_tower")
    if name is None:
        raise top.missing("mm_vision_tower")
    if isinstance(name, list) and name:
        name = name[0]
    if not isinstance(name, str):
        raise top.fault("mm_vision_tower", "is no name of a tower")
    return [name]


def vision_section(top: Fields, name: str) -> Fields | Convolutional:
    """Return the section of a tower by its name, or the nested one; raise `DataError` for a name that is not known."""
    nested = top.section("vision_tower_cfg")
    if nested is not None:
        return Fields(complete(nested.values, "siglip_vision_model"), "vision_tower_cfg")
    known = named_tower(name)
    if known is None:
        raise top.fault("mm_vision_tower", f"is {name[:80]!r}, a tower whose sizes are not known")
    return known if isinstance(known, Convolutional) else Fields(complete(known), "mm_vision_tower")


def projector_type(top: Fields) -> str:
    """Return the kind of the projector, nested or not."""
    nested = top.section("mm_projector_cfg")
    return (nested or top).text("mm_projector_type", default="linear") or "linear"


def downsampling(kind: str) -> int:
    """Return the side of the square of patches that VILA's projectors join; 1 for others."""
    match = re.match(r"mlp_downsample(?:_(\d)x\1)?", kind)
    return 1 if match is None else int(match.group(1) or 2)


def scales(top: Fields) -> list[int]:
    """Return the sides [pixels] of S2's scales, whose features stand side by side; empty without S2."""
    if not (
        top.flag("s2", False)
        or top.flag("dynamic_s2", False)
        or top.first("image_aspect_ratio") == "dynamic_s2"
    ):
        return []
    value = top.first("s2_scales")
    parted = value.split(",") if isinstance(value, str) else value
    if not isinstance(parted, list) or not 0 < len(parted) <= MOST_TOWERS:
        raise top.fault("s2_scales", "is no list of scales")
    sides = [int(side) if str(side).strip().isdecimal() and len(str(side)) < 7 else 0 for side in parted]
    if min(sides) < 1:
        raise top.fault("s2_scales", "has a side that is no whole number")
    return sides
