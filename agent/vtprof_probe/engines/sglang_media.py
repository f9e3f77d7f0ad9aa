"""What SGLang says of a request's media: where items stand in the prompt, what the encoder makes of them."""

from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from vtprof_probe.engines.transformers_media import encoder_items
from vtprof_probe.engines.vllm_positions import Positions
from vtprof_schemas.records import UNKNOWN

IMAGE, VIDEO, AUDIO = "image", "video", "audio"
_MODALITIES = {"IMAGE": IMAGE, "MULTI_IMAGES": IMAGE, "VIDEO": VIDEO, "AUDIO": AUDIO}
_GRIDS = {IMAGE: "image_grid_thw", VIDEO: "video_grid_thw"}


class ItemWork(NamedTuple):
    """What the encoder does for one ``MultimodalDataItem``; -1 where the shapes at hand do not tell."""

    items: int
    patches: int
    attention_pairs: int


def media_items(inputs: Any) -> List[Any]:
    """Return the items of a ``multimodal_inputs`` or of the processor's output, which was a dict up to 0.5.9."""
    items = inputs.get("mm_items") if isinstance(inputs, dict) else getattr(inputs, "mm_items", None)
    return [item for item in items or () if item is not None]


def modality(item: Any) -> str:
    """Return image, video or audio; empty for anything else."""
    return _MODALITIES.get(str(getattr(getattr(item, "modality", None), "name", "")), "")


def spans(item: Any) -> Optional[List[Tuple[int, int]]]:
    """Return the prompt positions of an item as [begin, end); None when the engine does not say.

    SGLang's own ``offsets`` name the last position of each run, not the one behind it.
    """
    offsets = getattr(item, "offsets", None)
    if not offsets:
        return None
    return [(int(first), int(last) + 1) for first, last in offsets]


def count_items(item: Any) -> int:
    """Return how many images, videos or clips an item holds: SGLang may bundle all of a request's in one."""
    kind = modality(item)
    rows = tuple(getattr(_grid(item, kind), "shape", ()))
    if len(rows) == 2:
        return int(rows[0])
    return len(getattr(item, "offsets", None) or ()) or 1 if kind == IMAGE else 1


def encoder_work(item: Any, config: Any) -> ItemWork:
    """Work out what encoding an item takes, from its grid and the shape of its feature; never reads a device's memory."""
    kind, feature = modality(item), getattr(item, "feature", None)
    count = count_items(item)
    grid = _grid(item, kind)
    if getattr(grid, "is_cuda", False):
        grid = None
    known = (
        encoder_items(kind, (feature,), {_GRIDS[kind]: grid} if grid is not None else {}, config)
        if kind
        else []
    )
    if known:
        return ItemWork(count, sum(i.patches for i in known), sum(i.attention_pairs for i in known))
    shape = tuple(getattr(feature, "shape", ()))
    # Rows of a flat feature are patches; which image each belongs to only the grid would tell.
    return ItemWork(count, int(shape[0]) if len(shape) == 2 else UNKNOWN, UNKNOWN)


def _grid(item: Any, kind: str) -> Any:
    data = getattr(item, "model_specific_data", None)
    return data.get(_GRIDS.get(kind, "")) if isinstance(data, dict) else None


def read_positions(items: Sequence[Any]) -> Tuple[Positions, bool]:
    """Return where a prompt's media lie, and whether all its images and videos say so."""
    runs = [spans(item) or [] for item in items]
    seen = [modality(item) in (IMAGE, VIDEO) for item in items]
    visual = [run for own, is_visual in zip(runs, seen) if is_visual for run in own]
    return Positions(visual, runs), all(own or not is_visual for own, is_visual in zip(runs, seen))


def count_prompt(items: Sequence[Any]) -> Dict[str, Tuple[int, int]]:
    """Return (tokens, items) by modality; tokens -1 where an item's positions are not known."""
    counts = dict.fromkeys((IMAGE, VIDEO, AUDIO), (0, 0))
    for item in items:
        kind = modality(item)
        if not kind:
            continue
        tokens, number = counts[kind]
        where = spans(item)
        if where is None or tokens < 0:
            tokens = UNKNOWN
        else:
            tokens += sum(end - begin for begin, end in where)
        counts[kind] = (tokens, number + count_items(item))
    return counts
