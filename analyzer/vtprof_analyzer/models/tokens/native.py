"""Tokens of the families of native resolution: cells of patch x merge pixels, frames in temporal patches, tags between.

The same arithmetic as transformers' processors of these families, which agree to the token (F8).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.known import PROCESSORS
from vtprof_analyzer.models.registry import counted_type
from vtprof_analyzer.models.tokens.audio import rule as audio_rule
from vtprof_analyzer.models.tokens.cells import pixel_limits
from vtprof_analyzer.models.tokens.item import ItemTokens, PatchGrid, Unsupported, check_image, check_video
from vtprof_analyzer.models.tokens.native_rules import RULES, STAMPED, Geometry, Rule


@dataclass(frozen=True, kw_only=True)
class Native(Unsupported):
    """Counter of one model."""

    model: str
    rule: Rule
    image_geometry: Geometry
    video_geometry: Geometry
    end_vectors: int
    hears: Callable[[float], ItemTokens] | None = None
    """Count of an audio clip of so many seconds."""

    def image(self, height: int, width: int, images: int = 1) -> ItemTokens:
        """Count one image."""
        check_image(height, width)
        geometry = self.image_geometry
        among = max(1, images) if self.rule.images_share else geometry.temporal
        sides = self.rule.image_resize(geometry, among, height, width)
        grid = PatchGrid(1, sides[0] // geometry.patch, sides[1] // geometry.patch)
        rows = grid.height // geometry.merge
        tokens = rows * (grid.width // geometry.merge + self.rule.row_vectors) + self.end_vectors
        return ItemTokens(tokens, self.rule.image_tags, (grid,))

    def video(self, frames: int, height: int, width: int) -> ItemTokens:
        """Count a video; an incomplete temporal patch is padded (F6)."""
        if self.rule.video_resize is None:
            return super().video(frames, height, width)
        check_video(frames, height, width)
        geometry = self.video_geometry
        sides = self.rule.video_resize(geometry, frames, height, width)
        temporal = math.ceil(frames / geometry.temporal)
        passes = temporal * geometry.temporal if self.rule.merges_frames else temporal
        grid = PatchGrid(passes, sides[0] // geometry.patch, sides[1] // geometry.patch)
        tokens = temporal * (grid.height // geometry.merge) * (grid.width // geometry.merge)
        return ItemTokens(tokens, self.rule.video_tags + _frame_text(self.rule, temporal), (grid,))

    def audio(self, seconds: float) -> ItemTokens:
        """Count an audio clip."""
        return super().audio(seconds) if self.hears is None else self.hears(seconds)


def _frame_text(rule: Rule, temporal: int) -> int:
    """Return tags and time stamps of all temporal patches at the processors' own rate, a second each.

    Counted by decades, for a clip may have millions.
    """
    total, first = temporal * rule.frame_tags, 0
    while first < temporal:
        end = min(temporal, max(10, first * 10))
        if rule.digits:
            total += (end - first) * math.ceil(len(str(first)) / rule.digits)
        first = end
    return total


def counter(files: ModelFiles) -> Native:
    """Read the processor configs; raise `DataError` that names the field at fault."""
    kind = counted_type(files)
    processor = files.processor_fields()
    later = STAMPED.get(kind)
    if later is not None and PROCESSORS.get(processor.text("processor_class") or "") == later:
        rule = RULES[later]
    else:
        rule = RULES[kind]
    vision = _vision(files.config or {})
    extra = rule.end_vectors
    if extra and processor.first("cat_extra_token") is not None:
        extra *= processor.flag("cat_extra_token", True)
    return Native(
        model=kind,
        rule=rule,
        image_geometry=_geometry(files.image_fields(), vision, rule, rule.image_limits, rule.merge),
        video_geometry=_geometry(
            files.video_fields(),
            vision,
            rule,
            rule.video_limits,
            rule.video_merge or rule.merge,
            rule.fixed_video,
        ),
        end_vectors=extra,
        hears=None if rule.hears is None else audio_rule(files, rule.hears),
    )


def _vision(config: Mapping[str, Any]) -> Fields | None:
    """Return the tower's section, in which patch and merge stand too; None where the config has none."""
    top = Fields(config)
    return (top.section("thinker_config") or top).section("vision_config")


def _geometry(
    fields: Fields,
    vision: Fields | None,
    rule: Rule,
    limits: tuple[int, int],
    merge: int,
    limits_fixed: bool = False,
) -> Geometry:
    """Return the geometry of one kind of media: as the processor's config says, else as the tower's."""

    def size(key: str, in_vision: str, default: int) -> int:
        if fields.first(key) is None and vision is not None and vision.first(in_vision) is not None:
            return vision.integer(in_vision)
        return fields.integer(key, default=default)

    capped = fields.first("cap_pixels_per_frame") is not None and fields.flag("cap_pixels_per_frame", False)
    return Geometry(
        size("patch_size", "patch_size", rule.patch),
        size("merge_size", "spatial_merge_size", merge),
        size("temporal_patch_size", "temporal_patch_size", rule.temporal),
        limits if limits_fixed else pixel_limits(fields, *limits),
        fields.integer("max_video_tokens", default=rule.video_tokens) if capped else None,
    )
