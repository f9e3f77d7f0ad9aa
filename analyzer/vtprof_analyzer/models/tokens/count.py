"""Count the tokens of a request's media: items in, one count each, with notes on what had to be assumed."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from vtprof_analyzer.models.bundled import published_processor
from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.registry import load_counter
from vtprof_analyzer.models.tokens.item import (
    ItemTokens,
    Kind,
    check_audio,
    check_count,
    check_image,
    check_video,
)
from vtprof_schemas.errors import DataError


@dataclass(frozen=True)
class Item:
    """One image, video or audio clip, as the user describes it."""

    kind: Kind
    height: int | None = None
    width: int | None = None
    frames: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Counts:
    """Counts in the order of the items."""

    items: tuple[tuple[Item, ItemTokens], ...]
    notes: tuple[str, ...]

    @property
    def tokens(self) -> int:
        """Return the positions of all items."""
        return sum(count.tokens for _, count in self.items)

    @property
    def extra_tokens(self) -> int:
        """Return the text tags around all items."""
        return sum(count.extra_tokens for _, count in self.items)

    def of(self, *kinds: Kind) -> tuple[ItemTokens, ...]:
        """Return the counts of the items of these kinds."""
        return tuple(count for item, count in self.items if item.kind in kinds)


def count_items(files: ModelFiles, items: Sequence[Item]) -> Counts:
    """Count every item by the model's own rule, as one request.

    Where no processor config is there at all, that of a bundled model of the type stands in, and a note says so.

    Raises ConfigError for a size that no medium has or that the processor refuses, DataError for files at fault.
    """
    published = None
    if files.config is not None and not files.has_processor and not files.bundled:
        published = published_processor(files.config)
    if published is not None:
        given = published.files
        files = replace(
            files,
            preprocessor=given.preprocessor,
            video_preprocessor=given.video_preprocessor,
            processor=given.processor,
            bundled=True,
        )
    counter = load_counter(files)
    images = sum(item.kind == "image" for item in items)
    counted: list[tuple[Item, ItemTokens]] = []
    for item in items:
        if item.kind == "audio":
            seconds = item.seconds or 0.0
            check_audio(seconds)
            count = counter.audio(seconds)
        else:
            height, width = item.height or 0, item.width or 0
            if item.kind == "video":
                check_video(item.frames or 0, height, width)
                count = counter.video(item.frames or 0, height, width)
            else:
                check_image(height, width)
                count = counter.image(height, width, images)
        try:
            check_count(item.kind, count)
        except DataError as error:
            raise DataError(f"{files.name}: {error}") from error
        counted.append((item, count))
    notes = _notes(files, {item.kind for item in items})
    if published is not None:
        notes = (
            *notes,
            f"no processor config beside it: that of {published.name} stands in, the family's default",
        )
    return Counts(tuple(counted), notes)


def _notes(files: ModelFiles, kinds: Collection[Kind]) -> tuple[str, ...]:
    """Say what the family's defaults stood in for, of what media of these kinds are counted by."""
    of_kinds = (note for kind, notes in files.assumed_of.items() if kind in kinds for note in notes)
    assumed = list(dict.fromkeys((*files.assumed, *of_kinds)))
    if not assumed:
        return ()
    fields = [note for note in assumed if _is_field(note)]
    notes = [note for note in assumed if note not in fields]
    if files.bundled:
        # What the catalogue leaves out is the family's default in the published files as well.
        return tuple(notes)
    if fields and not files.has_processor:
        notes.append("no processor config beside it: the family's defaults stand for its limits and sizes")
    elif fields:
        listed = ", ".join(fields)
        notes.append(f"not in the files, the family's defaults stand in: {listed}")
    return tuple(notes)


def _is_field(note: str) -> bool:
    """Tell the name of a field that was not there, ``config.json: key``, from a sentence that says more."""
    return note.partition(": ")[0].endswith(".json")
