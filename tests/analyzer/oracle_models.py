"""What transformers and torch say of a model built from a config on the meta device: parameters and FLOPs."""

import copy
from collections.abc import Callable
from typing import Any


def build(config: dict[str, Any], architecture: str, attention: str = "eager") -> Any:
    """Build a model without memory for its weights; ``architecture`` is the class, ``LlavaForConditionalGeneration``."""
    import torch
    import transformers

    kind = transformers.CONFIG_MAPPING[config["model_type"]]
    made = kind.from_dict(copy.deepcopy(config), attn_implementation=attention)
    with torch.device("meta"):
        model = getattr(transformers, architecture)(made)
    model.tie_weights()
    return model.eval()


def params(module: Any) -> int:
    """Count a module's parameters; a shared one counts once."""
    return sum(parameter.numel() for parameter in module.parameters())


def flops(call: Callable[[], object]) -> int:
    """Count the FLOPs of what ``call`` runs by torch's counter (multiply-add is 2)."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())
