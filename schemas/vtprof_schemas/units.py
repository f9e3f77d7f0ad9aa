"""Unit conversions, done once, where a human reads the number. Stored values are integers in base units."""

NS_PER_US = 1_000
NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000
BYTES_PER_KIB = 1024
BYTES_PER_MIB = 1024**2
BYTES_PER_GIB = 1024**3


def seconds_from_ns(ns: float) -> float:
    """Convert nanoseconds to seconds."""
    return ns / NS_PER_S
