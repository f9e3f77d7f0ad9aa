"""FLOPs and bytes of the encoders (C3, C4): patch embedding, layers with full or windowed attention, adapter.

Work comes exact, from the grids of items, or as the sums that a trace records; of windowed layers the sums give an upper
bound: full windows everywhere, and never more than a sequence's own pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vtprof_analyzer.cost.work import Floats
from vtprof_analyzer.models.spec import AdapterStage, Tower, TowerGroup
from vtprof_analyzer.models.tokens.item import ItemTokens


@dataclass(frozen=True)
class TowerWork:
    """What a tower runs on, one entry per step."""

    patches: Floats
    pairs: Floats
    """Sum of patches squared over the sequences."""
    sequences: Floats
    tokens: Floats
    """Tokens that leave the adapter."""
    items: tuple[ItemTokens, ...] | None = None
    """The items themselves, of a single step: windows are then exact."""
    repeats: float = 1.0
    """Times that the items run, as in a batch of like requests."""


def work_of_sums(tower: Tower, patches: Floats, pairs: Floats, items: Floats, tokens: Floats) -> TowerWork:
    """Return the work that the sums of a trace tell; ``tokens`` 0 is derived from the patches.

    Sequences of one length have patches^2 / pairs of them; sums over unlike ones are taken as alike, one an item at least.
    """
    sequences = np.divide(patches**2, pairs, out=np.zeros_like(patches), where=pairs > 0)
    sequences = np.where(patches > 0, np.maximum(sequences, np.minimum(items, 1.0)), 0.0)
    derived = patches / tower.patches_per_token
    return TowerWork(patches, pairs, sequences, np.where(tokens > 0, tokens, derived))


def work_of_items(items: Sequence[ItemTokens], repeats: float = 1.0) -> TowerWork:
    """Return the work of one step that encodes these items, ``repeats`` times each."""
    grids = [grid for item in items for grid in item.grids]
    sums = (
        sum(grid.patches for grid in grids),
        sum(grid.attention_pairs for grid in grids),
        sum(grid.count for grid in grids),
        sum(item.tokens for item in items),
    )
    patches, pairs, sequences, tokens = (np.array([total * repeats], np.float64) for total in sums)
    return TowerWork(patches, pairs, sequences, tokens, tuple(items), repeats)


@dataclass(frozen=True)
class TowerCost:
    """FLOPs and bytes of one tower with its adapter."""

    flops: Floats
    flops_attention: Floats
    bytes_weights: Floats
    activation_values: Floats


def tower_cost(tower: Tower, work: TowerWork, weight_bytes: float) -> TowerCost:
    """Return what a tower costs in every step. FLOPs of convolutional layers are not known (``flops_known``)."""
    patches = work.patches
    linear = 2.0 * patches * tower.patch_params
    attention = np.zeros_like(patches)
    values = patches * (tower.patch_values + tower.hidden_size)
    for group in tower.groups:
        positions = patches * group.positions_per_patch + tower.class_tokens * work.sequences
        linear = linear + 2.0 * group.layers * group.linear_params * positions
        attention = attention + 4.0 * group.layers * group.attention_width * _pairs(tower, group, work)
        values = values + group.layers * group.activation_values * positions
    for stage in tower.adapter:
        units = _units(stage, work)
        linear = linear + 2.0 * stage.linear_params * stage.runs * units
        among = stage.query_attention_width * stage.queries**2 * work.sequences
        across = stage.cross_attention_width * stage.queries * patches
        attention = attention + 4.0 * (among + across)
        values = values + stage.activation_values * stage.runs * units
    return TowerCost(
        linear + attention,
        attention,
        np.where(patches > 0, tower.read_params * weight_bytes, 0.0),
        values,
    )


def _units(stage: AdapterStage, work: TowerWork) -> Floats:
    if stage.per_token:
        return work.tokens
    if stage.patches_per_unit is None:
        return stage.queries * work.sequences
    return work.patches / stage.patches_per_unit


def _pairs(tower: Tower, group: TowerGroup, work: TowerWork) -> Floats:
    """Return the query-key pairs of one layer, class tokens included (C4)."""
    factor = group.positions_per_patch
    if group.window_patches is None and group.window_sides is None:
        classes = tower.class_tokens
        return work.pairs * factor**2 + 2.0 * classes * factor * work.patches + classes**2 * work.sequences
    if group.window_sides is not None and work.items is not None:
        high, wide = group.window_sides
        exact = sum(
            grid.count * _squares(grid.height, high) * _squares(grid.width, wide)
            for item in work.items
            for grid in item.grids
        )
        return np.array([exact * work.repeats * factor**2], np.float64)
    window = group.window_patches or (group.window_sides or (0, 0))[0] * (group.window_sides or (0, 0))[1]
    return np.minimum(work.pairs, work.patches * window) * factor**2


def _squares(side: int, window: int) -> int:
    """Return the sum of squares of the lengths that windows cut a side into."""
    whole, rest = divmod(side, window)
    return whole * window**2 + rest**2
