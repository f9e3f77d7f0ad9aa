"""What the encoder and the processor are given: items, patches, attention pairs, pixels. Shapes and small grids only."""

from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from vtprof_probe.engines.transformers_prompt import AUDIO, IMAGE, VIDEO, Prompt, split_by_weight

_GRIDS = {IMAGE: "image_grid_thw", VIDEO: "video_grid_thw"}
_INPUTS = {
    IMAGE: ("pixel_values", "pixel_values_images", "image_patches"),
    VIDEO: ("pixel_values_videos",),
    AUDIO: ("input_features", "input_values", "audio_features"),
}


class Item(NamedTuple):
    """One image, video or clip in the encoder."""

    patches: int
    attention_pairs: int


class RowMedia(NamedTuple):
    """The encoder's work for one row; -1 where shapes do not tell."""

    items: int
    patches: int
    attention_pairs: int


def grid_items(grid: Any, per_frame: bool) -> List[Item]:
    """Read a (items, 3) grid of frames, rows and columns; attention runs within an image, or a frame of a video."""
    items = []
    for frames, rows, columns in grid.tolist():
        area = int(rows * columns)
        patches = int(frames) * area
        items.append(Item(patches, int(frames) * area * area if per_frame else patches * patches))
    return items


def encoder_items(modality: str, args: Sequence[Any], kwargs: Dict[str, Any], config: Any) -> List[Item]:
    """Work out what a call of ``get_<modality>_features`` encodes; empty if its arguments do not tell."""
    grid = kwargs.get(_GRIDS.get(modality, ""))
    if (
        grid is None
        and modality in _GRIDS
        and len(args) > 1
        and tuple(getattr(args[1], "shape", ()))[-1:] == (3,)
    ):
        grid = args[1]
    if grid is not None:
        return grid_items(grid, per_frame=modality == VIDEO)
    media = next(
        (kwargs[name] for name in _INPUTS[modality] if kwargs.get(name) is not None),
        args[0] if args else None,
    )
    if isinstance(media, (list, tuple)):
        shapes = [tuple(part.shape) for part in media]
    else:
        shapes = [tuple(getattr(media, "shape", ()))]
    items: List[Item] = []
    for shape in shapes:
        items += _audio(shape) if modality == AUDIO else _pixels(shape, config)
    return items


def _pixels(shape: Tuple[int, ...], config: Any) -> List[Item]:
    """Return one item for each (channels, height, width) picture of a shape."""
    size = getattr(getattr(config, "vision_config", None), "patch_size", None)
    high, wide = size if isinstance(size, (list, tuple)) and len(size) == 2 else (size, size)
    if len(shape) < 3 or not isinstance(high, int) or not isinstance(wide, int):
        return []
    count = 1
    for extent in shape[:-3]:
        count *= int(extent)
    patches = (int(shape[-2]) // high) * (int(shape[-1]) // wide)
    return [Item(patches, patches * patches)] * count


def _audio(shape: Tuple[int, ...]) -> List[Item]:
    """Return one item for each clip of a (clips, mel bins, frames) shape; its frames are its patches."""
    if len(shape) < 2:
        return []
    frames = int(shape[-1])
    return [Item(frames, frames * frames)] * int(shape[0])


def items_by_row(prompt: Prompt, modality: str, items: int, known: Optional[Sequence[int]]) -> List[int]:
    """Count the items of each row of the batch.

    ``known`` (images given to the processor for each row) wins. One row has them all. Equal items are told by their
    tokens; else a row has as many images as unbroken runs of placeholders.
    """
    tokens = prompt.by_modality[modality]
    if known is not None and len(known) == prompt.rows:
        return list(known)
    if not any(tokens):
        return [0] * prompt.rows
    if prompt.rows == 1:
        return [items if items > 0 else prompt.image_runs()[0] if modality == IMAGE else 1]
    total = sum(tokens)
    if items > 0 and total % items == 0 and all(count % (total // items) == 0 for count in tokens):
        return [count // (total // items) for count in tokens]
    if modality == IMAGE:
        return prompt.image_runs()
    return split_by_weight(items, tokens)


def media_by_row(prompt: Prompt, modality: str, items: Sequence[Item], rows: Sequence[int]) -> List[RowMedia]:
    """Share the encoder's items among the rows, in order where the counts agree, else by placeholders.

    ``rows`` are the items of each row. With beams an old engine encodes every image once a beam: the counts then
    differ by a whole factor and each row gets all its copies.
    """
    if not items:
        return [RowMedia(count, -1, -1) for count in rows]
    whole = sum(rows)
    copies = len(items) // whole if whole and len(items) % whole == 0 else 0
    if copies:
        shared, position = [], 0
        for count in rows:
            mine = items[position : position + count * copies]
            position += count * copies
            shared.append(
                RowMedia(
                    count, sum(item.patches for item in mine), sum(item.attention_pairs for item in mine)
                )
            )
        return shared
    weights = prompt.by_modality[modality]
    patches = split_by_weight(sum(item.patches for item in items), weights)
    pairs = split_by_weight(sum(item.attention_pairs for item in items), weights)
    return [RowMedia(count, patches[row], pairs[row]) for row, count in enumerate(rows)]


def image_pixels(images: Any) -> Tuple[List[int], Optional[List[int]]]:
    """Return height x width of every image given to a processor, and the images of each row if they were nested so.

    Knows PIL images and anything with a shape; an image it cannot measure (a path, a URL) counts 0 pixels.
    """
    if images is None:
        return [], None
    if not isinstance(images, (list, tuple)):
        return [_area(images)], None
    if images and all(isinstance(group, (list, tuple)) or group is None for group in images):
        nested = [[_area(image) for image in group or ()] for group in images]
        return [area for group in nested for area in group], [len(group) for group in nested]
    return [_area(image) for image in images], None


def _area(image: Any) -> int:
    shape = getattr(image, "shape", None)
    if shape is not None:
        extents = [int(extent) for extent in shape]
        if len(extents) == 2:
            return extents[0] * extents[1]
        if len(extents) < 2:
            return 0
        frames = 1
        for extent in extents[:-3]:
            frames *= extent
        tail = extents[-3:]
        # Channels stand first or last; they are few.
        return frames * (tail[0] * tail[1] if tail[2] <= 4 and tail[0] > 4 else tail[1] * tail[2])
    size = getattr(image, "size", None)
    if isinstance(size, tuple) and len(size) == 2:
        return int(size[0]) * int(size[1])
    return 0
