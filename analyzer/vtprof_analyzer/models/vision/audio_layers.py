"""Pieces of audio encoders: transformer layers of Whisper's kind and convolutions over frames, as tower groups.

A patch of an audio tower is a spectrogram frame; ``positions`` says how many positions a layer works on for each.
"""

from dataclasses import replace

from vtprof_analyzer.models.spec import Tower, TowerGroup


def attention_layers(
    layers: int, width: int, inner: int, positions: float, key_bias: bool = False, extra: int = 0
) -> TowerGroup:
    """Return layers of full attention and a two-matrix MLP with biases and layer norms; keys mostly without bias.

    ``extra`` counts other parameters of a layer.
    """
    biases = (4 if key_bias else 3) * width + inner + width
    return TowerGroup(
        layers=layers,
        attention_width=width,
        linear_params=4 * width**2 + 2 * width * inner,
        other_params=biases + 4 * width + extra,
        # In and out of the fused qkv, the output, both matrices of the MLP; twice a norm in and out.
        activation_values=(width + 3 * width) + 2 * width + 2 * (width + inner) + 4 * width,
        positions_per_patch=positions,
    )


def convolution(weights: int, other: int, positions: float, values_in: int, values_out: int) -> TowerGroup:
    """Return one convolution or matrix as a group without attention; its weights multiply every output position."""
    return TowerGroup(
        layers=1,
        attention_width=0,
        linear_params=weights,
        other_params=other,
        activation_values=values_in + values_out,
        positions_per_patch=positions,
    )


def cut(tower: Tower, layers_run: int | None) -> Tower:
    """Return the tower with so many of its attention layers, all for None; the rest is idle."""
    if layers_run is None:
        return tower
    groups, idle, left = [], tower.idle_params, max(0, layers_run)
    for group in tower.groups:
        run = group.layers if not group.attention_width else min(group.layers, left)
        left -= run if group.attention_width else 0
        idle += (group.layers - run) * (group.linear_params + group.other_params)
        groups.append(replace(group, layers=run))
    return replace(tower, groups=tuple(groups), idle_params=idle)
