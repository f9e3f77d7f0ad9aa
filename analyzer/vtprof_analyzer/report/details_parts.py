"""What a part of the report is made of, before any layout."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Detail:
    """One part: foreign text in it is safe for a terminal, and not yet escaped for HTML or Markdown."""

    anchor: str
    title: str
    lines: Sequence[str] = ()
    heads: tuple[str, ...] = ()
    rows: Sequence[tuple[str, ...]] = ()
    words: int = 1  # so many columns from the left, and those in `more_words`, hold words: the others numbers
    more_words: frozenset[int] = frozenset()
    caption: str = ""  # of the table
    brief_rows: int | None = None  # rows where there is little room: terminal, Markdown; None for all
    brief_columns: int | None = None  # likewise
    brief_lines: Sequence[str] = ()  # said there besides

    def is_word(self, column: int) -> bool:
        """Tell whether a column holds words."""
        return column < self.words or column in self.more_words
