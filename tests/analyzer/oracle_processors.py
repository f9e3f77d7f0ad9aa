"""What transformers' own processors do with real images: tiny tokenizers for them, images, and counts of positions."""

from collections.abc import Sequence
from typing import Any

SIZES: tuple[tuple[int, int], ...] = (
    (28, 28), (56, 56), (100, 100), (224, 224), (336, 336), (384, 384), (448, 448), (512, 512), (1024, 1024),
    (4096, 4096), (100, 2000), (2000, 100), (333, 777), (777, 333), (481, 641), (720, 1280), (1080, 1920), (1, 150),
    (37, 1999), (1536, 640), (801, 799), (2048, 1024), (600, 3000), (29, 27),
)  # fmt: skip
"""Height and width [pixels]: round, odd, extreme and large ones. A family leaves out what its processor refuses and tests
that it is refused."""


def tokenizer(*special: str, unknown: str = "<unk>", **named: str) -> Any:
    """Return a fast tokenizer in which every one of ``special`` is one token and all other text is unknown words.

    ``named`` become attributes as the family's tokenizer has them (``image_token="<image>"``) and special tokens too.
    """
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({unknown: 0, "<pad>": 1, "<s>": 2, "</s>": 3}, unk_token=unknown))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokens = [*dict.fromkeys([*special, *named.values()])]
    inner.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token=unknown, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    for name, token in named.items():
        setattr(made, name, token)
        setattr(made, f"{name}_id", made.convert_tokens_to_ids(token))
    return made


def image(height: int, width: int) -> Any:
    """Return a PIL image: a plain one, for no processor's arithmetic looks at the pixels."""
    from PIL import Image

    return Image.new("RGB", (width, height), (90, 120, 30))


def positions(input_ids: Any, token_id: int | Sequence[int]) -> int:
    """Count the positions of a prompt that hold one of these ids."""
    wanted = {token_id} if isinstance(token_id, int) else set(token_id)
    flat = input_ids[0] if hasattr(input_ids[0], "__len__") else input_ids
    return sum(int(value) in wanted for value in flat)
