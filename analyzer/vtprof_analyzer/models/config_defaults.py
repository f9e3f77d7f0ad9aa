"""Fill in what a config.json leaves out: the defaults that transformers has for its model type, nested sections included.

A published config names only what differs from the defaults of the class that wrote it. `config_defaults.json` holds these
defaults for every model type of transformers, generated from the library. Fields that are absent and derived from others
(a head size from a width) have no default here and stay absent.
"""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_FLAT = ("hidden_size", "num_hidden_layers", "num_attention_heads")
"""A composite config with these at its top is of the old flat form: its text section is the config itself."""
_DEEPEST = 6


@functools.cache
def _defaults() -> dict[str, Any]:
    file = Path(__file__).with_name("config_defaults.json")
    loaded: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return loaded


def complete(config: Mapping[str, Any], model_type: str | None = None) -> dict[str, Any]:
    """Return the config with the defaults of its model type where it is silent, nested sections included.

    ``model_type`` is used where the config names none. A config of a type that transformers does not have, or of no known
    type, comes back as it is. Other spellings of a field that the type's class knows become the main one.
    """
    return _complete(config, model_type, _DEEPEST)


def _complete(config: Mapping[str, Any], model_type: str | None, depth: int) -> dict[str, Any]:
    named = config.get("model_type")
    # A type that transformers does not have is another model's, and no default of ours is one of its sizes.
    kind = named if isinstance(named, str) and named else model_type
    entry = _defaults().get(kind) if kind else None
    if entry is None or depth == 0:
        return dict(config)
    done = {**config, "model_type": kind}
    for other, main in entry.get("aliases", {}).items():
        if other in config and main not in config:
            done[main] = config[other]
        elif main in config and other in entry["fields"]:
            # Two spellings of one field: what was written under the main one is no default under the other.
            done.setdefault(other, config[main])
    # A null that was written is meant: ``sliding_window: null`` is a model without a window, whatever the default.
    done = {**entry["fields"], **done}
    flat = any(config.get(key) is not None for key in _FLAT)
    for key, section in entry.get("sections", {}).items():
        given = config.get(key)
        if given is None:
            if section.get("optional") or (flat and key == "text_config"):
                continue  # absent is without such a part, and what is flat stands at the top
            given = section.get("fields", {})
        elif not isinstance(given, Mapping):
            continue  # whoever reads the section says what is wrong with it
        if section.get("fixed"):
            # The class decides, whatever type the section calls itself.
            given = {**given, "model_type": section["type"]}
        done[key] = _complete(given, section["type"], depth - 1)
    return done
