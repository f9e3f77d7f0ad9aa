"""The tower of Llama 3.2 Vision: all tiles of an image in one sequence, local layers, then gated global ones.

Each tile has a class token and is padded to a multiple of 8 positions; an image with fewer tiles than the model takes is
filled up with empty ones, which are computed and masked.
"""

from vtprof_analyzer.models.fields import Fields, divide
from vtprof_analyzer.models.spec import Tower, TowerGroup

PADDED_TO = 8
"""Positions of a tile are a multiple of it."""
INTERMEDIATE_LAYERS = (3, 7, 15, 23, 30)
"""Layers whose output goes to the language model beside the last one's."""
ASPECT_RATIOS = ((1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (3, 1), (4, 1))


def tile_patches(vision: Fields) -> int:
    """Return the patches of one tile, without class token and padding."""
    return (vision.integer("image_size") // vision.integer("patch_size")) ** 2


def output_width(vision: Fields) -> int:
    """Return the width of what leaves the tower: the last layer's output and that of the chosen ones side by side."""
    taps = len(vision.integers("intermediate_layers_indices", INTERMEDIATE_LAYERS))
    return vision.integer("hidden_size") * (1 + taps)


def tower(fields: Fields, layers_run: int | None) -> Tower:  # noqa: ARG001
    """Turn a vision section into a tower; all layers run, whatever ``layers_run`` says: the last are the global ones.

    Raises `DataError` that names the field at fault.
    """
    width = fields.integer("hidden_size")
    inner = fields.integer("intermediate_size")
    divide(fields, "attention_heads", width, fields.integer("attention_heads"))
    side, tiles = fields.integer("patch_size"), fields.integer("max_num_tiles")
    patches = tile_patches(fields)
    if patches < 1:
        raise fields.fault("patch_size", f"is {side}, more than the image_size")
    patch_values = fields.integer("num_channels") * side**2
    ratios = fields.first("supported_aspect_ratios")
    if ratios is not None and not isinstance(ratios, (list, tuple)):
        raise fields.fault("supported_aspect_ratios", "is no list of ratios")
    embeddings = 1 + len(ASPECT_RATIOS if ratios is None else ratios)
    linear = 4 * width**2 + 2 * width * inner
    other = inner + width + 4 * width  # biases of the MLP, two layer norms
    activation = 2 * (width + inner) + (width + 3 * width) + 2 * width + 4 * width
    padded = -(-(patches + 1) // PADDED_TO) * PADDED_TO
    return Tower(
        hidden_size=width,
        patch_params=patch_values * width,
        patch_values=patch_values,
        groups=(
            TowerGroup(fields.integer("num_hidden_layers"), width, linear, other, activation),
            # A gate of attention and one of the MLP.
            TowerGroup(fields.integer("num_global_layers"), width, linear, other + 2, activation),
        ),
        adapter=(),
        patches_per_token=1.0,
        class_tokens=tiles * (padded - patches),
        # Class token; positions of a tile and of all tiles for each aspect ratio, with a gate; two embeddings of tiles
        # for each ratio, with a gate each; norms before and behind the local layers.
        other_params=width
        + (patches + 1) * width * (1 + embeddings * tiles)
        + 1
        + 2 * (embeddings * tiles * width + 1)
        + 4 * width,
    )
