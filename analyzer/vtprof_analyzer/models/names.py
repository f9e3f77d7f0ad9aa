"""How people write the names of models: what two ways of writing one name have in common, and what a name adds to it.

``Qwen/Qwen2.5-VL-7B-Instruct``, ``qwen2_5-vl:7b`` and ``Qwen25VL 7B`` are one; ``Qwen2-57B`` and ``Qwen2.5-7B`` are two.
"""

import re
from typing import NamedTuple


class Key(NamedTuple):
    """What is compared of two names."""

    words: tuple[str, ...]
    """Letters and numbers in order, whatever stands between letters; the parts of a version are numbers of their own."""
    sizes: tuple[str, ...]
    """``7b``, ``30b`` and ``a3b`` in order, wherever in the name they stand."""


_HUB = re.compile(r"(https?://)?(www\.)?(huggingface\.co|hf\.co|modelscope\.cn/models)/")
_NAME = re.compile(r"[\w\-.: ]{1,200}")
_ORGANISATION = re.compile(r"(?!\.+/)[\w\-.]{1,100}/")
_SIZE = re.compile(r"(?<![\d.])(?:(?<![a-z])[ae]|(?<=\db)a)?\d+(?:\.\d+)?[bm](?!(?!a\d+b)[a-z0-9])")
_BETWEEN_DIGITS = re.compile(r"(?<=\d)_(?=\d)(?!\d+(\.\d+)?[bm])")
_VERSION_DOT = re.compile(r"(?<=\d)\.(?=\d+(?![\dbm]))")
_BETWEEN_LETTERS = re.compile(r"(?<=[^\W\d_])[-_.: ]+(?=[^\W\d_])")
_WORD = re.compile(r"[^\W\d_]+|\d+")
_BEFORE = r"[-_. :]"
_TUNED = re.compile(_BEFORE + r"(instruct|it|chat|hf|thinking|preview|latest|bf16|fp16|f16)$")
_DATED = re.compile(_BEFORE + r"(2[3-9](0[1-9]|1[0-2])|(0[1-9]|1[0-2])([0-2]\d|3[01]))$")
_QUANTISED = re.compile(
    _BEFORE
    + r"(awq|gptq|hqq|aqlm|bnb|nf4|qat|mlx|gguf|exl[23]|autoround|auto-round|unsloth|quanti[sz]ed|marlin|g(32|64|128)"
    r"|(nv|mx)?fp[48]([-_](dynamic|static|block))?|u?int[248]|[2-8][-_]?bits?|w\d+a\d+(g\d+)?"
    r"|(ud-)?i?q\d(_(k|xl|xxs|xs|nl|[01sml]))*)$"
)


def bare(name: str) -> str:
    """Return a name in lower case without the hub's address and the organisation; empty for what cannot be a name.

    A path is no name: ``./Qwen2.5-VL-7B`` or one of several folders that does not exist is not taken for the model.
    """
    plain = _HUB.sub("", name.strip().lower(), count=1)
    plain = _ORGANISATION.sub("", plain, count=1) if _ORGANISATION.match(plain) else plain
    return plain if _NAME.fullmatch(plain) else ""


def key(name: str) -> Key:
    """Return what a bare name is compared by."""
    name = _BETWEEN_DIGITS.sub(".", name)
    sizes = tuple(_SIZE.findall(name))
    words = _BETWEEN_LETTERS.sub("", _SIZE.sub(" ", name))
    return Key(tuple(_WORD.findall(words)), sizes)


def keys(name: str) -> set[Key]:
    """Return the keys by which a known name is found: also ``25`` for 2.5, and ``30b`` alone for 30B-A3B."""
    found = {key(name), key(_VERSION_DOT.sub("", _BETWEEN_DIGITS.sub(".", name)))}
    return found | {Key(words, tuple(s for s in sizes if s[0] != "a") or sizes) for words, sizes in found}


def untuned(name: str) -> str:
    """Return a bare name without what says how a checkpoint was tuned."""
    return _without(name, _TUNED)


def undated(name: str) -> str:
    """Return a bare name without tuning and without the month or day of its release."""
    return _without(name, _TUNED, _DATED)


def unquantised(name: str) -> str:
    """Return a bare name without what says how the weights were quantised; itself where it does not say so."""
    shorter = _without(name, _QUANTISED)
    if shorter != name:
        return shorter
    # Tags of other hubs name the tuning first: gemma3:27b-it-q4_K_M.
    shorter = _without(untuned(name), _QUANTISED)
    return shorter if shorter != untuned(name) else name


def _without(name: str, *endings: re.Pattern[str]) -> str:
    while True:
        shorter = name
        for ending in endings:
            shorter = ending.sub("", shorter)
        if shorter == name:
            return name
        name = shorter
