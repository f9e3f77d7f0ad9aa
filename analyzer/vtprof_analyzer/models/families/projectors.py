"""Projectors of the original LLaVA projects by ``mm_projector_type``: what stands between tower and language model."""

import re
from collections.abc import Callable
from dataclasses import replace

from vtprof_analyzer.models.families.llava import mlp
from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.original_llava import downsampling, projector_type
from vtprof_analyzer.models.spec import AdapterStage, Tower

Stages = tuple[AdapterStage, ...]
_DEPTH = 32
ASKED = "visual tokens may depend on the prompt (QueCC): a cache of them needs the prompt in its key beside the image"
"""What a compressor that reads the question means for reuse."""


def projector(top: Fields, tower: Tower, out: int) -> tuple[Stages, tuple[str, ...]]:
    """Return the stages of a projector from the tower to width ``out`` and notes on what is not counted."""
    kind = projector_type(top)
    width = top.integer("mm_hidden_size", default=tower.hidden_size)
    compressed = top.text("mm_vision_token_compression_type")
    if compressed is not None:
        notes = [f"mm_vision_token_compression_type {compressed[:40]}: its own weights are not counted"]
        if "prumerge" not in compressed.lower():
            notes.append(ASKED)
        return _plain("mlp2x_gelu" if kind == "linear" else kind, width, out), tuple(notes)
    for word, build in _KINDS:
        if word in kind:
            return build(top, width, out), ()
    plain = _plain(kind, width, out)
    if plain or kind == "identity":
        return plain, ()
    return _plain("mlp2x_gelu", width, out), (
        f"mm_projector_type {kind[:40]} is not known: an MLP of two matrices assumed",
    )


def _plain(kind: str, width: int, out: int) -> Stages:
    """Return ``linear`` and ``mlp2x_gelu`` (S102); with ``_Norm`` a layer norm behind each matrix (Yi-VL)."""
    if kind == "linear":
        return (mlp(width, out, depth=1),)
    match = re.fullmatch(r"mlp(\d{1,2})x_(?:gelu|relu|silu)(_Norm)?(?:_\w*)?", kind)
    if match is None or not 0 < int(match.group(1)) <= _DEPTH:
        return ()
    depth = int(match.group(1))
    stage = mlp(width, out, depth)
    norms = depth * 2 * out if match.group(2) else 0
    return (replace(stage, other_params=stage.other_params + norms),)


def _downsampled(top: Fields, width: int, out: int) -> Stages:
    """Return VILA's: squares of patches side by side, a norm, two matrices, or three of them for squares of 3 x 3."""
    if downsampling(projector_type(top)) == 2:
        joined = 4 * width
        return (mlp(joined, out, norm=2 * joined, patches_per_unit=4.0, per_token=True),)
    joined, middle = 9 * width, 3 * width
    return (
        AdapterStage(
            linear_params=joined * middle + middle * out + out * out,
            other_params=2 * joined + middle + 2 * middle + 2 * out,
            activation_values=3 * joined + 4 * middle + 4 * out,
            patches_per_unit=9.0,
            per_token=True,
        ),
    )


def _mobile(_: Fields, width: int, out: int) -> Stages:
    """Return MobileVLM V2's: an MLP on every patch, pooling to 144, a depthwise convolution of 3 x 3 for positions."""
    position = AdapterStage(0, 10 * out, 2 * out, patches_per_unit=4.0, per_token=True)
    return (mlp(width, out), position)


def _packed(top: Fields, width: int, out: int) -> Stages:
    """Return TokenPacker's: keys and values of every patch of four layers, a query for each region (S107)."""
    scale = top.integer("scale_factor", default=2)
    keys = AdapterStage(
        linear_params=2 * (4 * width * width + width * width) + 2 * width * width,
        other_params=2 * 2 * width + 2 * 2 * width + 2 * width,
        activation_values=2 * (4 * width + 3 * width) + 4 * width,
    )
    regions = AdapterStage(
        linear_params=3 * width * width + width * out + out * out,
        other_params=2 * width + 2 * width + 2 * out,
        activation_values=6 * width + width + 3 * out,
        patches_per_unit=float(scale**2),
        per_token=True,
    )
    return keys, regions


def _abstracted(top: Fields, width: int, out: int) -> Stages:
    """Return Cambrian-1's spatial vision aggregator without its attention to the towers: projections only."""
    inner = top.integer("vision_hidden_size", default=1024)
    return (mlp(width, inner, 2, norm=2 * inner), mlp(inner, out, 2, per_token=True))


def _merged(_: Fields, width: int, out: int) -> Stages:
    """Return VideoChat-Flash's: similar tokens merged without weights, 64 of four frames left, and an MLP on these."""
    return (mlp(width, out, per_token=True, patches_per_unit=4 * 14**2 / 64),)


_KINDS: tuple[tuple[str, Callable[[Fields, int, int], Stages]], ...] = (
    ("mlp_downsample", _downsampled),
    ("ldpnetv2", _mobile),
    ("tokenpacker", _packed),
    ("sva", _abstracted),
    ("tome", _merged),
)
