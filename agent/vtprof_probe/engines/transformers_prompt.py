"""Counts a batch of prompts: tokens by modality and row, and what any slice of columns holds.

Works on a copy of the prompt's ids on the CPU with whole-tensor operations, once a request; a chunk of prefill is two
column lookups and two masked sums. Nothing here walks over tokens in Python.
"""

from typing import Any, List, NamedTuple, Optional, Sequence

IMAGE, VIDEO, AUDIO = "image", "video", "audio"
_ID_NAMES = {
    IMAGE: ("image_token_id", "image_token_index"),
    VIDEO: ("video_token_id", "video_token_index"),
    AUDIO: ("audio_token_id", "audio_token_index"),
}
"""Where configurations keep the id of the placeholder of each modality."""


class Chunk(NamedTuple):
    """One row's part of a slice of columns."""

    tokens: int
    visual_tokens: int
    context_tokens: int
    attention_pairs: int
    visual_attention_pairs: int


def placeholder_id(config: Any, modality: str) -> Optional[int]:
    """Return the token id that a modality's positions hold in the prompt, or None."""
    for name in _ID_NAMES[modality]:
        value = getattr(config, name, None)
        if isinstance(value, int):
            return value
    return None


def split_by_weight(total: int, weights: Sequence[int]) -> List[int]:
    """Split an integer in proportion to weights, by largest remainder; equal parts if all weights are zero."""
    if not weights:
        return []
    whole = sum(weights)
    if whole <= 0:
        weights, whole = [1] * len(weights), len(weights)
    shares = [total * weight // whole for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda index: -(total * weights[index] % whole))
    for index in by_remainder[: total - sum(shares)]:
        shares[index] += 1
    return shares


class Prompt:
    """The prompts of one ``generate`` call; columns count from the start of the sequence, cached prefix included.

    ``ids`` is (rows, columns); ``mask`` None, of that shape, or wider by a cached prefix whose ids were not passed.
    ``cached_columns`` are already in the KV cache; ``cached_visual`` says how many visual tokens a row has in a prefix
    whose ids are not known.
    """

    def __init__(
        self,
        ids: Any,
        mask: Any,
        config: Any,
        cached_columns: int = 0,
        cached_visual: Optional[Sequence[int]] = None,
    ) -> None:
        ids = ids.detach().to("cpu")
        self.rows: int = int(ids.shape[0])
        width = int(ids.shape[1])
        mask_width = 0 if mask is None else int(mask.shape[-1])
        # Wider mask: only the new ids were passed. Otherwise transformers cuts the cached columns off itself.
        self.hidden = cached_columns if mask_width > width else 0
        self.columns = width + self.hidden
        self.cached_columns = min(cached_columns, self.columns)
        if mask is not None and mask.dim() == 2 and mask_width == self.columns:
            real = mask.detach().to("cpu") != 0
        else:
            real = ids.new_ones((self.rows, self.columns)) != 0
        self._seen = real.long().cumsum(1)
        own = real[:, self.hidden :]
        self.tokens: List[int] = self._seen[:, -1].tolist() if self.columns else [0] * self.rows
        self.by_modality = {}
        visual: Any = None
        for modality in (IMAGE, VIDEO, AUDIO):
            token_id = placeholder_id(config, modality)
            here = None if token_id is None else (ids == token_id) & own
            self.by_modality[modality] = [0] * self.rows if here is None else here.sum(1).tolist()
            if here is not None and modality != AUDIO and any(self.by_modality[modality]):
                visual = here if visual is None else visual | here
        self._visual = visual
        hidden_visual = list(cached_visual or ()) if self.hidden else []
        self._hidden_visual = hidden_visual if len(hidden_visual) == self.rows else [0] * self.rows
        self._image_runs_of = (
            None if placeholder_id(config, IMAGE) is None else ids == placeholder_id(config, IMAGE)
        )

    @property
    def visual(self) -> List[int]:
        """Return the image and video tokens of each row, cached prefix included."""
        image, video = self.by_modality[IMAGE], self.by_modality[VIDEO]
        return [a + b + c for a, b, c in zip(image, video, self._hidden_visual)]

    def text(self, row: int) -> int:
        """Return the tokens of a row that are no placeholder."""
        media = sum(self.by_modality[modality][row] for modality in (IMAGE, VIDEO, AUDIO))
        return int(self.tokens[row]) - media - self._hidden_visual[row]

    def image_runs(self) -> List[int]:
        """Return how many unbroken runs of image placeholders each row has."""
        here = self._image_runs_of
        if here is None or here.shape[1] == 0:
            return [0] * self.rows
        starts = here.long()
        starts[:, 1:] -= (here[:, 1:] & here[:, :-1]).long()
        counts: List[int] = starts.sum(1).tolist()
        return counts

    def seen(self, column: int) -> List[int]:
        """Return how many real tokens each row has in the first ``column`` columns."""
        if column <= 0:
            return [0] * self.rows
        counts: List[int] = self._seen[:, min(column, self.columns) - 1].tolist()
        return counts

    def visual_seen(self, column: int) -> List[int]:
        """Return how many visual tokens each row has in the first ``column`` columns."""
        if self._visual is None or column <= self.hidden:
            return list(self._hidden_visual) if column > 0 else [0] * self.rows
        here: List[int] = self._visual[:, : column - self.hidden].sum(1).tolist()
        return [known + extra for known, extra in zip(here, self._hidden_visual)]

    def chunk(self, begin: int, end: int) -> List[Chunk]:
        """Count the columns ``begin`` to ``end`` of each row; attention is causal and does not see padding."""
        contexts, ends = self.seen(begin), self.seen(end)
        visual = pairs = [0] * self.rows
        low, high = max(begin - self.hidden, 0), end - self.hidden
        if self._visual is not None and high > low:
            here = self._visual[:, low:high]
            visual = here.sum(1).tolist()
            pairs = (self._seen[:, low + self.hidden : high + self.hidden] * here).sum(1).tolist()
        chunks = []
        for row, context in enumerate(contexts):
            tokens = ends[row] - context
            chunks.append(
                Chunk(tokens, visual[row], context, tokens * context + tokens * (tokens + 1) // 2, pairs[row])
            )
        return chunks


def output_tokens(new: Any, eos_ids: Sequence[int], pad_id: Optional[int], trim_pads: bool) -> List[int]:
    """Count the generated tokens of each row of ``new`` (rows, columns), up to and including the first EOS.

    Behind an EOS there is only padding. Where a row may end without one (stop strings, own criteria) ``trim_pads``
    takes its trailing padding off; otherwise a pad token is one that the model chose.
    """
    rows, columns = int(new.shape[0]), int(new.shape[1])
    if columns == 0:
        return [0] * rows
    ended = None
    for eos in eos_ids:
        ended = (new == eos) if ended is None else ended | (new == eos)
    counts = [columns] * rows
    if ended is not None:
        before = (ended.long().cumsum(1) == 0).sum(1)
        counts = [int(count) for count in (before + ended.any(1).long()).tolist()]
    if trim_pads and pad_id is not None:
        kept = (new != pad_id).long().flip(1).cumsum(1) > 0
        trimmed: List[int] = kept.sum(1).tolist()
        counts = [
            min(count, int(rest)) if count == columns else count for count, rest in zip(counts, trimmed)
        ]
    return counts
