"""Text of others (file names, configs) made fit for a terminal: no escape sequence, no line of its own."""


def one_line(text: str) -> str:
    """Return the text with everything that is not printable spelled out, line breaks included."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
