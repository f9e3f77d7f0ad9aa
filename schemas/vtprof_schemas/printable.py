"""Text of others (file names, configs, rings, pages) made fit for a terminal: no escape sequence, no line of its own."""

from typing import Optional


def one_line(text: str, limit: Optional[int] = None) -> str:
    """Return the text with everything that is not printable spelled out, cut to about ``limit`` characters if given."""
    kept = text if limit is None else text[:limit]
    spelled = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in kept)
    if limit is None or len(text) <= limit >= len(spelled):
        return spelled
    return spelled[:limit] + "…"
