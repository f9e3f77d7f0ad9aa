"""Which versions of each engine the hooks were read and tested against; the probe's registry and `status` go by it."""

import re
from typing import Dict, Optional, Tuple

TESTED: Dict[str, Tuple[str, str]] = {
    "transformers": ("5.20", "6"),
    "vllm": ("0.10.2", "0.34"),
    "sglang": ("0.5.4", "0.6"),
}
"""By engine: from this version, below that one. Elsewhere each hook is set only where its target exists."""
_NUMBER = re.compile(r"\d+")


def version_key(version: str) -> Tuple[int, ...]:
    """Return the release numbers of a version text, ``0.32.0+cpu`` as (0, 32, 0); empty when there are none."""
    release = re.split(r"[^0-9.]", version, maxsplit=1)[0]
    return tuple(int(part) for part in _NUMBER.findall(release))


def is_tested(engine: str, version: str) -> Optional[bool]:
    """Tell whether a version of an engine lies in the tested range; None for an unknown engine or unreadable version."""
    tested, key = TESTED.get(engine), version_key(version)
    if tested is None or not key:
        return None
    return version_key(tested[0]) <= key < version_key(tested[1])
