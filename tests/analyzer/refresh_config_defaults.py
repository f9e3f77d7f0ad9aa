"""Writes `config_defaults.json`: what transformers fills in where a config.json is silent. Run it after an upgrade:

    python tests/analyzer/refresh_config_defaults.py

A test compares the file with the installed transformers.
"""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from vtprof_analyzer.models import config_defaults

FILE = Path(config_defaults.__file__).with_name("config_defaults.json")
_NO_SIZE = re.compile(
    r"dropout|drop_rate|drop_path|_token$|_token_id$|token_ids$|_token_index$|^initializer|_init|_eps$|epsilon|loss|^rope_|"
    r"^(id2label|label2id|output_|return_|problem_type|use_cache|pad_token|transformers_version|finetuning|decoder_start|"
    r"torchscript|codebook_|mask_|apply_spec|num_labels|image_mean|image_std|keys_to|is_decoder|add_cross|speaker|talker|"
    r"code2wav|architectures$|layerdrop)|act$|activation$|_act_"
)
"""Fields that set no size, no count and no kind of layer."""


def _plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return len(value) <= 200 and all(_plain(item) for item in value)
    if isinstance(value, dict):
        return all(_plain(item) for item in value.values())
    return value is None or isinstance(value, (int, float, str, bool))


def build() -> dict[str, Any]:
    """Collect the defaults of all configs that transformers knows and of those nested in them."""
    import transformers
    from transformers.configuration_utils import PreTrainedConfig

    generic = {field.name for field in dataclasses.fields(PreTrainedConfig)}
    found: dict[str, Any] = {}

    def add(config: Any) -> None:
        if not config.model_type or config.model_type in found:
            return
        entry: dict[str, Any] = {"fields": {}}
        found[config.model_type] = entry
        for field in dataclasses.fields(config):
            if field.name in generic or _NO_SIZE.search(field.name):
                continue
            value = field.default_factory() if callable(field.default_factory) else field.default
            if value is not dataclasses.MISSING and value is not None and _plain(value):
                entry["fields"][field.name] = value
        if config.attribute_map:
            entry["aliases"] = dict(sorted(config.attribute_map.items()))
        sections = {}
        for key, nested in sorted((getattr(config, "sub_configs_defaults", None) or {}).items()):
            kind = nested.model_type or getattr(nested.config_class, "model_type", None)
            given = {
                k: v for k, v in (nested.init_kwargs or {}).items() if _plain(v) and not _NO_SIZE.search(k)
            }
            fixed = nested.config_class.__name__ != "AutoConfig"
            sections[key] = {
                "type": kind,
                **({"fixed": True} if fixed else {}),
                **({"optional": True} if nested.optional else {}),
                **({"fields": given} if given else {}),
            }
            if fixed:
                add(nested.config_class)
        if sections:
            entry["sections"] = sections

    for kind in transformers.CONFIG_MAPPING:
        add(transformers.CONFIG_MAPPING[kind])
    return {kind: found[kind] for kind in sorted(found)}


def text() -> str:
    """Return the file's text: one model type a line."""
    lines = [
        f"{json.dumps(kind)}: {json.dumps(entry, separators=(',', ':'))}" for kind, entry in build().items()
    ]
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    FILE.write_text(text(), "utf-8")
