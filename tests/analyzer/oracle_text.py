"""Decoders from configs for tests: ours by their type, and what a tiny real one computes on the CPU."""

from typing import Any

from oracle_models import flops

from vtprof_analyzer.models.config_defaults import complete
from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.spec import LanguageModel
from vtprof_analyzer.models.text.registry import language_model


def decoder(config: dict[str, Any], tied: bool | None = None) -> LanguageModel:
    """Return the language model of a config with the defaults of its type filled in."""
    return language_model(Fields(complete(config)), tied)


def check_published(config: dict[str, Any], total: float, active: float, left_out: int) -> None:
    """Compare billions of parameters with those published, to the digits they have.

    ``left_out`` says how many of embedding and head the published active number does not count.
    """
    model = decoder(config)
    for ours, published in (
        (model.params, total),
        (model.active_params - left_out * model.head_params, active),
    ):
        assert round(ours / 1e9, len(str(published).partition(".")[2])) == published


def tiny(config: dict[str, Any], architecture: str) -> Any:
    """Build a real model with random weights whose experts compute only the tokens that are routed to them."""
    import torch
    import transformers

    made = transformers.CONFIG_MAPPING[config["model_type"]].from_dict(
        dict(config), attn_implementation="eager"
    )
    made._experts_implementation = "eager"
    torch.manual_seed(0)
    return getattr(transformers, architecture)(made).eval()


def prompt_flops(model: Any, tokens: int, vocabulary: int) -> int:
    """Count the FLOPs of one prompt, its output head for all positions included."""
    import torch

    ids = torch.arange(tokens)[None] % vocabulary
    return flops(lambda: model(input_ids=ids, use_cache=False))


def expected_flops(model: LanguageModel, tokens: int) -> float:
    """Return what our fields give where attention, as eager attention does, computes all pairs, masked ones included."""
    layers = sum(
        group.layers
        * (
            2 * tokens * group.token_params
            + tokens**2 * group.attention.pair_flops
            + tokens * group.attention.token_flops
        )
        for group in model.groups
    )
    return layers + 2 * tokens * model.head_params
