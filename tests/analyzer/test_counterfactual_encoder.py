"""What a cap on images leaves of the encoder's time: by its FLOPs, counted by hand, where the encoder is known."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtprof_analyzer.cost.work import Floats, Precision
from vtprof_analyzer.counterfactuals import encode_left
from vtprof_analyzer.models.spec import LanguageModel, ModelSpec, Tower, TowerGroup
from vtprof_analyzer.step_cost import CostInputs

WIDTH, LINEAR, PER_TOKEN, WINDOW = 6, 40, 4, 64
TOWER = Tower(
    WIDTH,
    patch_params=10,
    patch_values=0,
    groups=(
        TowerGroup(3, WIDTH, LINEAR, 0, 0, window_patches=WINDOW),
        TowerGroup(1, WIDTH, LINEAR, 0, 0),
    ),
    adapter=(),
    patches_per_token=PER_TOKEN,
)
SPEC = ModelSpec("test", TOWER, LanguageModel(8, 10, (), 0, tied_embeddings=True), "bfloat16")


def _left(spec: ModelSpec, images: float, tokens: float, beyond: float) -> float:
    inputs = CostInputs(spec, Precision(2.0, 2.0, 2.0), roof=None)
    columns: list[Floats] = [np.array([value], np.float64) for value in (images, tokens, beyond)]
    return float(encode_left(inputs, *columns)[0])


def _flops(patches: float) -> float:
    """Return the FLOPs of one image: linear layers, three layers of windows, one of all its patches."""
    linear = 2 * (10 + 4 * LINEAR) * patches
    return linear + 4 * WIDTH * (3 * WINDOW * patches + patches**2)


def test_attention_over_the_whole_image_goes_with_the_square_of_its_tokens() -> None:
    left = _left(SPEC, 1, 5000, 904)
    assert left == pytest.approx(_flops(4096 * PER_TOKEN) / _flops(5000 * PER_TOKEN))
    assert (
        left < 0.69
    )  # (4096 / 5000)^2 is 0.67: nearly all of it is that attention; in proportion 0.82 were left


def test_images_of_a_request_do_not_see_each_other() -> None:
    assert _left(SPEC, 3, 15000, 2712) == pytest.approx(_left(SPEC, 1, 5000, 904))


@pytest.mark.parametrize(
    "spec",
    [replace(SPEC, vision=None), replace(SPEC, vision=replace(TOWER, flops_known=False))],
    ids=["no encoder", "convolutions"],
)
def test_an_encoder_without_formula_is_saved_in_proportion_to_tokens(spec: ModelSpec) -> None:
    assert _left(spec, 1, 5000, 904) == pytest.approx(4096 / 5000)


def test_a_request_without_images_keeps_its_time() -> None:
    assert _left(SPEC, 0, 0, 0) == 1.0


@given(st.integers(1, 9), st.integers(1, 20_000), st.floats(0, 1))
def test_what_is_left_lies_between_the_square_and_the_proportion(
    images: int, tokens: int, kept: float
) -> None:
    left = _left(SPEC, images, images * tokens, images * tokens * (1 - kept))
    assert kept**2 - 1e-9 <= left <= kept + 1e-9
