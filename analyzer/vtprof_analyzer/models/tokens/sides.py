"""Reads sides and limits that processor configs write in several forms, and a config with its defaults."""

from collections.abc import Mapping

from vtprof_analyzer.models.config_defaults import complete
from vtprof_analyzer.models.config_file import CONFIG_FILE
from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.files import ModelFiles

MOST_TILES = 512
"""No processor cuts an image into more; beyond it the search for a grid would not end."""


def sides(fields: Fields, key: str, default: tuple[int, int]) -> tuple[int, int]:
    """Return height and width [pixels] under ``key``: a number, or an object with height and width or one edge."""
    value = fields.first(key)
    if isinstance(value, Mapping):
        section = fields.section(key)
        if section is not None:
            edge = section.first("shortest_edge", "longest_edge")
            if edge is not None:
                side = section.integer("shortest_edge", "longest_edge")
                return side, side
            return section.integer("height"), section.integer("width")
    if value is None:
        fields.assume(key)
        return default
    if isinstance(value, (list, tuple)) and len(value) == 2:
        height, width = fields.integers(key, default)
        if min(height, width) > 0:
            return height, width
    side = fields.integer(key)
    return side, side


def square(fields: Fields, key: str, default: int) -> int:
    """Return the side [pixels] under ``key``; raise `DataError` where height and width differ."""
    height, width = sides(fields, key, (default, default))
    if height != width:
        raise fields.fault(key, f"is {height}x{width}, while the model's images are square")
    return height


def pair(fields: Fields, key: str, default: tuple[int, int], minimum: int = 1) -> tuple[int, int]:
    """Return two numbers under ``key``: a list of two, or one number for both."""
    value = fields.first(key)
    if isinstance(value, (list, tuple)):
        numbers = fields.integers(key, default)
        if len(numbers) != 2 or min(numbers) < minimum:
            raise fields.fault(key, f"is no list of two numbers of at least {minimum}")
        return numbers[0], numbers[1]
    if value is None:
        fields.assume(key)
        return default
    number = fields.integer(key, minimum=minimum)
    return number, number


def tiles(fields: Fields, *keys: str, default: int) -> int:
    """Return a number of tiles; raise `DataError` for one that no processor has."""
    count = fields.integer(*keys, default=default)
    if count > MOST_TILES:
        raise fields.fault(keys[0], f"is {count}, more tiles than any model's")
    return count


def whole_config(files: ModelFiles, fallback: str) -> Fields:
    """Return config.json with the defaults of its model type; of type ``fallback`` where it is absent."""
    return Fields(complete(files.config or {}, fallback), "", CONFIG_FILE, files.assumed)
