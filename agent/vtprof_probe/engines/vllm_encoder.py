"""What vLLM's encoder is given: the items of each request in a step, and their patches by the shapes of the inputs.

The inputs are tensors on the host, not yet batched; a grid of three sizes is read, of all else only the shape.
"""

from typing import Any, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from vtprof_probe.engines.transformers_media import Item, encoder_items, grid_items
from vtprof_probe.engines.transformers_prompt import AUDIO, IMAGE, VIDEO
from vtprof_schemas.records import UNKNOWN

PASSED_THROUGH = "prompt_embeds"
"""A modality of vLLM that no encoder sees."""

_PICTURES = (
    "pixel_values", "pixel_values_flat", "pixel_values_images", "images", "images_crop", "patch_pixel_values",
    "input_image_embeds", "pixel_values_videos", "video_pixel_values", "pixel_values_flat_video",
)  # fmt: skip
_SOUNDS = ("input_features", "input_audio_features", "input_features_padded", "audio_features")
_ENCODED_ALREADY = frozenset(("image_embeds", "video_embeds", "audio_embeds"))
"""Names of the encoder's inputs in vLLM's models, and of those that the caller has encoded."""
_ENCODER_INPUTS = frozenset(_PICTURES + _SOUNDS)
_CHANNELS = (1, 3)
_MEL_BINS = (80, 128)


class Work(NamedTuple):
    """The encoder's work for one request in one step; -1 where shapes do not tell."""

    request: str
    """vLLM's internal id."""
    items: int
    patches: int
    attention_pairs: int


def work_of_step(
    scheduled: Mapping[str, Sequence[int]],
    states: Mapping[str, Any],
    batch: Optional[Sequence[Any]],
    config: Any,
) -> List[Work]:
    """Return what the encoder did for each request of a step.

    ``scheduled`` are the numbers of the items by request and ``states`` what the runner knows of each request.
    ``batch`` holds the very inputs that the encoder was given; None: all that were scheduled.
    """
    given = None if batch is None else _identities(batch)
    works = []
    for request, numbers in scheduled.items():
        sizes = []
        for modality, inputs in _inputs(states.get(request), numbers):
            if given is not None and id(inputs) not in given:
                continue
            fields = {name: getattr(field, "data", None) for name, field in inputs.items()}
            if is_encoded(modality, fields):
                sizes.append(item_size(modality, fields, config))
        known = [size for size in sizes if size is not None]
        if sizes and len(known) == len(sizes):
            patches, pairs = sum(size.patches for size in known), sum(size.attention_pairs for size in known)
            works.append(Work(request, len(sizes), patches, pairs))
        elif sizes:
            works.append(Work(request, len(sizes), UNKNOWN, UNKNOWN))
    return works


def _identities(batch: Sequence[Any]) -> Set[int]:
    """Return the identities of the inputs of a batch, which versions since 0.16 pair with their modality."""
    return {id(entry[1] if isinstance(entry, tuple) else entry) for entry in batch}


def _inputs(state: Any, numbers: Sequence[int]) -> Iterator[Tuple[str, Any]]:
    """Yield modality and inputs of the scheduled items of a request; items whose inputs stayed behind are left out.

    Runner V2 keeps a list of the items, V1 a state with that list, before 0.11 one with the inputs themselves.
    """
    items = state if isinstance(state, (list, tuple)) else getattr(state, "mm_features", None)
    described = items is not None
    if items is None:
        items = getattr(state, "mm_kwargs", None) or ()
    for item in (items[number] for number in numbers if number < len(items)):
        inputs = item.data if described else item
        if inputs is not None:
            yield str(getattr(item, "modality", IMAGE)), inputs


def is_encoded(modality: str, fields: Mapping[str, Any]) -> bool:
    """Tell whether the encoder runs for an item; not for one that came encoded."""
    return modality != PASSED_THROUGH and (
        _ENCODED_ALREADY.isdisjoint(fields) or not _ENCODER_INPUTS.isdisjoint(fields)
    )


def item_size(modality: str, fields: Mapping[str, Any], config: Any) -> Optional[Item]:
    """Return the patches and attention pairs of one item, None where its inputs do not tell.

    ``fields`` maps names to tensors or lists of them; ``config`` is the model's Hugging Face configuration.
    """
    for name, grid in fields.items():
        # A tensor on the device is left alone: reading it would wait for the device.
        if "grid_thw" in name and getattr(getattr(grid, "device", None), "type", "") == "cpu":
            return _whole(grid_items(grid.reshape(-1, 3), per_frame=modality == VIDEO))
    sizes: List[Item] = []
    for name in _SOUNDS if modality == AUDIO else _PICTURES:
        media = fields.get(name)
        for part in media if isinstance(media, (list, tuple)) else () if media is None else (media,):
            shape = tuple(getattr(part, "shape", ()))
            found = _sound(shape) if modality == AUDIO else _picture(part, shape, config)
            if not found:
                return None
            sizes += found
    return _whole(sizes) if sizes else None


def _whole(parts: Sequence[Item]) -> Item:
    return Item(sum(part.patches for part in parts), sum(part.attention_pairs for part in parts))


def _picture(tensor: Any, shape: Tuple[int, ...], config: Any) -> List[Item]:
    """Return the tiles or frames of an array of pixels, or the one image of a list of patches."""
    if len(shape) == 2:
        return [Item(int(shape[0]), int(shape[0]) ** 2)]
    return encoder_items(IMAGE, (tensor,), {}, config) if len(shape) > 2 and shape[-3] in _CHANNELS else []


def _sound(shape: Tuple[int, ...]) -> List[Item]:
    """Return the clips of an array of mel bins by frames, or frames by mel bins; a frame counts as a patch."""
    if len(shape) < 2 or (shape[-1] in _MEL_BINS) == (shape[-2] in _MEL_BINS):
        return []
    frames = int(shape[-1] if shape[-2] in _MEL_BINS else shape[-2])
    clips = int(shape[0]) if len(shape) > 2 else 1
    return [Item(frames, frames * frames)] * clips
