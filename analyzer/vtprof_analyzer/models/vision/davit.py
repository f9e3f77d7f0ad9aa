"""DaViT, the tower of Florence-2: four stages that halve the grid, attention in windows and among channels by turns.

A patch is a square of the first stage, 4 x 4 pixels; later stages have a quarter of the positions each.
"""

from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.spec import Tower, TowerGroup

MOST_STAGES = 16


def tower(fields: Fields, layers_run: int | None) -> Tower:
    """Turn a section of type ``florence_vision`` into a tower; all stages run.

    Raises `DataError` that names the field at fault.
    """
    del layers_run
    widths = _list(fields, "embed_dim", 0)
    stages = len(widths)
    depths, sides = _list(fields, "depths", stages), _list(fields, "patch_size", stages)
    strides, groups_of = _list(fields, "patch_stride", stages), _list(fields, "num_groups", stages)
    window = fields.integer("window_size", default=12)
    ratio = fields.number("mlp_ratio", default=4.0)
    bias = 3 if fields.flag("qkv_bias", True) else 0
    prenorm = fields.first("patch_prenorm")
    before = fields.integer("in_channels", default=3)
    found: list[TowerGroup] = []
    embedding, rate = 0, 1.0
    for stage, width in enumerate(widths):
        normed = isinstance(prenorm, list) and stage < len(prenorm) and prenorm[stage] is True
        norm = 2 * (before if normed else width)
        kernel = sides[stage] ** 2 * before * width
        if stage:
            rate /= strides[stage] ** 2
            found.append(TowerGroup(1, 0, kernel, width + norm, 2 * width, positions_per_patch=rate))
        else:
            embedding, first = kernel, width + norm
        inner = max(1, int(width * ratio))
        # Channels attend to those of their group: as many pairs a position as the group has channels.
        found += [
            TowerGroup(
                layers=depths[stage],
                attention_width=width,
                # Two depthwise convolutions of 3 x 3, four matrices of attention, two of the MLP.
                linear_params=18 * width + 4 * width**2 + 2 * width * inner,
                other_params=2 * width + bias * width + width + inner + width + 4 * width,
                activation_values=16 * width + 2 * inner,
                window_patches=max(1, round(seen / rate)),
                positions_per_patch=rate,
            )
            for seen in (window**2, max(1, width // groups_of[stage]))
        ]
        before = width
    return Tower(
        hidden_size=widths[-1],
        patch_params=embedding,
        patch_values=fields.integer("in_channels", default=3) * strides[0] ** 2,
        groups=tuple(found),
        adapter=(),
        patches_per_token=1 / rate,
        other_params=first,
    )


def _list(fields: Fields, key: str, length: int) -> tuple[int, ...]:
    numbers = fields.integers(key, ())
    if not 0 < len(numbers) <= MOST_STAGES or min(numbers) < 1 or max(numbers) > 2**20:
        raise fields.fault(key, "is no list of sizes, one a stage")
    if length and len(numbers) != length:
        raise fields.fault(key, f"names {len(numbers)} stages, while embed_dim names {length}")
    return numbers
