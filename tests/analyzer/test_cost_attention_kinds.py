"""Attention of every kind, experts, towers and ranks: costs against sums written out token by token."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtprof_analyzer.cost.capacity import weights_bytes
from vtprof_analyzer.cost.estimate import Workload, estimate
from vtprof_analyzer.cost.kv import cross_bytes_per_token, kv_bytes_per_token, kv_fixed_bytes, request_cache
from vtprof_analyzer.cost.language import distinct_experts
from vtprof_analyzer.cost.parallel import Parallel
from vtprof_analyzer.cost.parts import StepCosts
from vtprof_analyzer.cost.steps import ONE_DEVICE, step_costs
from vtprof_analyzer.cost.towers import tower_cost, work_of_items, work_of_sums
from vtprof_analyzer.cost.work import Precision, StepWork
from vtprof_analyzer.devices.roofs import Roof
from vtprof_analyzer.models.spec import (
    AdapterStage,
    Attention,
    Experts,
    LanguageModel,
    LayerGroup,
    ModelSpec,
    Tower,
    TowerGroup,
)
from vtprof_analyzer.models.tokens.item import ItemTokens, PatchGrid
from vtprof_analyzer.models.weights import Quantization

BF16 = Precision(2.0, 2.0, 2.0)
HIDDEN, VOCABULARY, LINEAR, NORMS = 8, 10, 100, 3
PAIR = 4 * 4 * 2
"""FLOPs of a pair: four query heads of size 2."""


def model(*kinds: Attention, experts: Experts | None = None, **more: object) -> ModelSpec:
    groups = tuple(LayerGroup(1, kind, LINEAR, NORMS, 0, experts) for kind in kinds)
    language = LanguageModel(HIDDEN, VOCABULARY, groups, 0, tied_embeddings=True, **more)  # type: ignore[arg-type]
    return ModelSpec("test", None, language, "bfloat16")


def plain(**more: object) -> Attention:
    return Attention(4, 2, 2, **more)  # type: ignore[arg-type]


def step(
    spec: ModelSpec, parallel: Parallel = ONE_DEVICE, full: bool = False, **columns: object
) -> StepCosts:
    work = StepWork.of(**columns)  # type: ignore[arg-type]
    return step_costs(spec, work, BF16, parallel=parallel, full_attention=full)


def prompt(new: int, cached: int = 0, requests: int = 1) -> dict[str, int]:
    return {
        "prefill_requests": requests,
        "prefill_tokens": requests * new,
        "prefill_attention_pairs": requests * (new * cached + new * (new + 1) // 2),
    }


@given(st.integers(1, 60), st.integers(0, 60), st.integers(1, 40), st.integers(1, 3))
def test_sliding_windows_cut_the_pairs_of_each_token(
    new: int, cached: int, window: int, requests: int
) -> None:
    seen = sum(min(position, window) for position in range(cached + 1, cached + new + 1))
    part = step(model(plain(window_tokens=window)), **prompt(new, cached, requests)).prefill
    assert part.flops_attention[0] == pytest.approx(PAIR * requests * seen)


@given(st.integers(1, 60), st.integers(0, 60), st.integers(1, 40))
def test_chunked_attention_sees_its_own_block(new: int, cached: int, window: int) -> None:
    seen = sum(position % window + 1 for position in range(cached, cached + new))
    part = step(model(plain(window_tokens=window, chunked=True)), **prompt(new, cached)).prefill
    assert part.flops_attention[0] == pytest.approx(PAIR * seen)


@pytest.mark.parametrize(("context", "seen"), [(3, 4), (8, 1), (11, 4)])
def test_chunked_decode_sees_the_block_it_is_in(context: int, seen: int) -> None:
    part = step(model(plain(window_tokens=8, chunked=True)), decode_requests=1, decode_context_tokens=context)
    assert part.decode.flops_attention[0] == PAIR * seen
    assert part.decode.bytes_kv_read[0] == 16 * (seen - 1)


def test_full_counting_knows_neither_mask_nor_window() -> None:
    part = step(model(plain(window_tokens=4), plain()), full=True, **prompt(30, 10)).prefill
    assert part.flops_attention[0] == pytest.approx(2 * PAIR * 30 * 40)


def test_a_prefix_that_attends_both_ways_is_counted_whole() -> None:
    part = step(model(plain(), prefix_bidirectional="prompt"), **prompt(20)).prefill
    assert part.flops_attention[0] == PAIR * 20 * 20


def test_image_tokens_that_see_one_another_add_their_other_half() -> None:
    part = step(model(plain(), prefix_bidirectional="visual"), prefill_extra_pairs=6, **prompt(5)).prefill
    assert part.flops_attention[0] == PAIR * (15 + 6)


def test_cross_attention_keeps_visual_positions_beside_the_text() -> None:
    cross = LayerGroup(1, plain(cross=True), LINEAR, NORMS, 0, cross_linear_params=50)
    own = LayerGroup(1, plain(), LINEAR, NORMS, 0)
    spec = ModelSpec("test", None, LanguageModel(HIDDEN, VOCABULARY, (own, cross), 0, True), "bfloat16")
    part = step(spec, prefill_cross_tokens=7, prefill_cross_pairs=7 * 5, **prompt(5)).prefill
    assert part.flops_attention[0] == PAIR * (15 + 35)
    head = HIDDEN * VOCABULARY
    assert part.flops[0] == 2 * (2 * LINEAR * 5 + 50 * 7 + head) + PAIR * 50
    token = 2 * 2 * 2 * 2  # keys and values of two heads of size 2, two bytes each
    assert part.bytes_kv_written[0] == token * (5 + 7)
    assert part.bytes_kv_visual_written[0] == token * 7
    decode = step(spec, decode_requests=1, decode_context_tokens=5, decode_cross_tokens=7).decode
    assert decode.flops_attention[0] == PAIR * (6 + 7)
    assert decode.bytes_kv_visual[0] == token * 7
    assert kv_bytes_per_token(spec.language, 2.0) == token
    assert cross_bytes_per_token(spec.language, 2.0) == token
    assert request_cache(spec.language, 2.0, 5, 7).visual_bytes == token * 7
    assert request_cache(spec.language, 2.0, 5, 7).bytes == token * 12


def test_latent_attention_caches_the_latent_and_decodes_in_it() -> None:
    kind = Attention(4, 4, 3, value_dim=2, latent_values=5, latent_rank=4)
    spec = model(kind)
    assert step(spec, **prompt(6)).prefill.flops_attention[0] == 21 * 2 * 4 * (3 + 2)
    decode = step(spec, decode_requests=1, decode_context_tokens=9).decode
    assert decode.flops_attention[0] == 10 * 2 * 4 * (5 + 4)
    assert decode.bytes_kv_read[0] == 9 * 5 * 2
    assert kv_bytes_per_token(spec.language, 2.0) == 5 * 2
    # No head to give to a rank: each holds the whole latent.
    assert kv_bytes_per_token(spec.language, 2.0, tensor_parallel=4) == 4 * 5 * 2


def test_a_state_does_not_grow_and_is_read_and_written_by_every_step() -> None:
    state = Attention(0, 0, 0, softmax=False, state_values=11, state_bytes_per_value=4.0, token_flops=70.0)
    spec = model(plain(), state)
    assert kv_bytes_per_token(spec.language, 2.0) == 16
    assert kv_fixed_bytes(spec.language, 2.0) == 44
    short, long = (
        step(spec, decode_requests=2, decode_context_tokens=2 * context).decode for context in (10, 1000)
    )
    assert short.bytes_kv_read[0] == 2 * (10 * 16 + 44)
    assert long.bytes_kv_read[0] - short.bytes_kv_read[0] == 2 * 990 * 16
    assert short.bytes_kv_written[0] == 2 * (16 + 44)
    assert short.flops[0] - short.flops_attention[0] == 2 * (2 * (2 * LINEAR + HIDDEN * VOCABULARY) + 70)


def test_a_layer_that_reads_anothers_cache_keeps_none() -> None:
    spec = model(plain(), plain(shares_cache=True))
    decode = step(spec, decode_requests=1, decode_context_tokens=10).decode
    assert decode.bytes_kv_read[0] == 2 * 10 * 16
    assert decode.bytes_kv_written[0] == 16
    assert kv_bytes_per_token(spec.language, 2.0) == 16


@pytest.mark.parametrize(("count", "active", "tokens"), [(4, 1, 3), (5, 1, 2), (3, 1, 4)])
def test_expected_experts_are_the_mean_over_all_routings(count: int, active: int, tokens: int) -> None:
    routings = list(product(range(count), repeat=tokens))
    mean = sum(len(set(routing)) for routing in routings) / len(routings)
    assert distinct_experts(Experts(count, active, 1), np.array([float(tokens)]))[0] == pytest.approx(mean)


def test_experts_cost_by_tokens_and_are_read_by_touch() -> None:
    spec = model(plain(), experts=Experts(4, 1, 1000))
    one = step(spec, decode_requests=1, decode_context_tokens=1).decode
    assert one.flops[0] == 2 * (LINEAR + 1000 + HIDDEN * VOCABULARY) + PAIR * 2
    assert one.bytes_weights[0] == 2 * (LINEAR + NORMS + 1000 + HIDDEN * VOCABULARY)
    many = step(spec, decode_requests=10_000, decode_context_tokens=1).decode
    assert many.bytes_weights[0] == pytest.approx(2 * (LINEAR + NORMS + 4000 + HIDDEN * VOCABULARY))
    # Ten folded iterations of one token each touch one expert ten times, not what ten tokens at once would.
    folded = step(spec, count=10, decode_requests=10, decode_context_tokens=10).decode
    assert folded.bytes_weights[0] == 10 * one.bytes_weights[0]
    assert spec.params.total - spec.params.active == 3 * 1000


@given(st.integers(1, 500), st.integers(1, 64), st.data())
def test_touched_experts_rise_and_level_off(tokens: int, count: int, data: st.DataObject) -> None:
    experts = Experts(count, data.draw(st.integers(1, count)), 1)
    few, more = distinct_experts(experts, np.array([float(tokens), tokens + 1.0]))
    assert experts.active * (1 - 1e-9) <= few <= more <= count * (1 + 1e-9)


def test_a_visual_expert_is_read_only_with_visual_tokens() -> None:
    group = LayerGroup(1, plain(), LINEAR, NORMS, 0, visual_linear_params=77)
    spec = ModelSpec("test", None, LanguageModel(HIDDEN, VOCABULARY, (group,), 0, True), "bfloat16")
    text, image = (
        step(spec, prefill_visual_tokens=visual, **prompt(4)).prefill.bytes_weights[0] for visual in (0, 2)
    )
    assert image - text == 2 * 77


def test_visual_tokens_have_experts_of_their_own() -> None:
    group = LayerGroup(
        1, plain(), LINEAR, NORMS, 0, experts=Experts(4, 1, 1000), visual_experts=Experts(4, 1, 10)
    )
    spec = ModelSpec("test", None, LanguageModel(HIDDEN, VOCABULARY, (group,), 0, True), "bfloat16")
    part = step(spec, prefill_visual_tokens=1, **prompt(2)).prefill
    assert part.flops[0] == 2 * (2 * LINEAR + 1000 + 10 + HIDDEN * VOCABULARY) + PAIR * 3
    # One token of each kind touches one expert of each kind.
    assert part.bytes_weights[0] == 2 * (LINEAR + NORMS + 1000 + 10 + HIDDEN * VOCABULARY)
    assert spec.params.total - spec.params.active == 3 * 1000 + 4 * 10


def test_quantised_layers_are_read_packed_and_the_rest_is_not() -> None:
    spec = model(plain())
    four_bit = Quantization("gptq", 4, 128, 20, kept=("head", "vision"))
    precision = Precision.of("bfloat16", None, four_bit)
    assert precision is not None
    work = StepWork.of(decode_requests=1, decode_context_tokens=1)
    read = step_costs(spec, work, precision).decode.bytes_weights[0]
    # Half a byte each, and 20 bits of scale and zero point for 128 weights; norms and head at two bytes.
    assert read == pytest.approx(LINEAR * (4 + 20 / 128) / 8 + 2 * (NORMS + HIDDEN * VOCABULARY))


def test_ranks_send_activations() -> None:
    spec = model(plain(), plain(), experts=Experts(4, 2, 10))
    message = 6 * HIDDEN * 2
    assert step(spec, **prompt(6)).prefill.bytes_communication[0] == 0
    for parallel, factor in (
        (Parallel(tensor=4), 2 * 2 * 2 * 3),  # layers x all-reduces x 2 (n - 1) messages
        (Parallel(pipeline=3), 2),
        (
            Parallel(data=4, expert=4),
            2 * 2 * 2 * 3 / 4,
        ),  # there and back, layers, experts, share on other ranks
    ):
        sent = step(spec, parallel, **prompt(6)).prefill.bytes_communication[0]
        assert sent == pytest.approx(message * factor), parallel


TOWER = Tower(
    hidden_size=6, patch_params=12, patch_values=2, groups=(TowerGroup(3, 6, 40, 5, 0),), adapter=(),
    patches_per_token=4.0, class_tokens=1,
)  # fmt: skip


def test_class_tokens_pass_every_layer_of_every_sequence() -> None:
    item = ItemTokens(10, 0, (PatchGrid(3, 2, 5), PatchGrid(1, 4, 4)))
    cost = tower_cost(TOWER, work_of_items([item]), 2.0)
    patches, positions = 3 * 10 + 16, 3 * 11 + 17
    assert cost.flops_attention[0] == 4 * 3 * 6 * (3 * 11**2 + 17**2)
    assert cost.flops[0] - cost.flops_attention[0] == 2 * (12 * patches + 3 * 40 * positions)
    assert cost.bytes_weights[0] == 2 * (12 + 3 * 45)


def test_sums_of_like_sequences_are_as_good_as_the_items() -> None:
    work = work_of_items([ItemTokens(5, 0, (PatchGrid(3, 2, 5),))])
    sums = work_of_sums(TOWER, work.patches, work.pairs, np.ones(1), work.tokens)
    assert tower_cost(TOWER, sums, 2.0).flops[0] == tower_cost(TOWER, work, 2.0).flops[0]


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 6), st.integers(1, 6))
def test_windows_tile_a_grid_from_its_upper_left(height: int, width: int, high: int, wide: int) -> None:
    rows = [min(high, height - top) for top in range(0, height, high)]
    columns = [min(wide, width - left) for left in range(0, width, wide)]
    pairs = sum((row * column) ** 2 for row in rows for column in columns)
    tower = Tower(6, 0, 0, (TowerGroup(1, 6, 0, 0, 0, window_sides=(high, wide)),), (), 1.0)
    items = [ItemTokens(1, 0, (PatchGrid(2, height, width),))]
    assert tower_cost(tower, work_of_items(items), 2.0).flops_attention[0] == 4 * 6 * 2 * pairs


def test_layers_behind_a_merge_work_on_fewer_positions() -> None:
    tower = Tower(6, 0, 0, (TowerGroup(1, 6, 40, 0, 0, positions_per_patch=0.5),), (), 1.0)
    cost = tower_cost(tower, work_of_items([ItemTokens(1, 0, (PatchGrid(1, 4, 5),))]), 2.0)
    assert cost.flops[0] == 2 * 40 * 10 + 4 * 6 * 10**2


def test_a_resampler_costs_by_its_queries_and_by_the_patches_they_see() -> None:
    stages = (
        AdapterStage(30, 0, 0),  # keys and values of every patch
        AdapterStage(
            20, 0, 0, patches_per_unit=None, queries=4, query_attention_width=6, cross_attention_width=8
        ),
        AdapterStage(50, 0, 0, per_token=True),
        AdapterStage(10, 0, 0, patches_per_unit=4.0, runs=2),
    )
    tower = Tower(6, 0, 0, (), stages, 5.0)
    cost = tower_cost(tower, work_of_items([ItemTokens(8, 0, (PatchGrid(2, 2, 10),))]), 2.0)
    assert cost.flops_attention[0] == 4 * (6 * 4**2 * 2 + 8 * 4 * 40)
    assert cost.flops[0] - cost.flops_attention[0] == 2 * (30 * 40 + 20 * 8 + 50 * 8 + 10 * 10 * 2)


def test_encoder_replicas_are_read_once_each_and_gather_tokens_only() -> None:
    spec = ModelSpec("test", TOWER, model(plain()).language, "bfloat16")
    work = StepWork.of(encode_items=8, encode_patches=8 * 16, encode_attention_pairs=8 * 256)
    split = step_costs(spec, work, BF16, parallel=Parallel(tensor=4)).encode
    copied = step_costs(spec, work, BF16, parallel=Parallel(tensor=4, encoder="data")).encode
    assert copied.bytes_weights[0] == 4 * split.bytes_weights[0]
    assert copied.bytes_communication[0] == 8 * 16 / 4 * HIDDEN * 2 * 3
    assert split.bytes_communication[0] == (8 * 17) * 6 * 2 * (2 * 3) * 2 * 3


def test_weights_that_are_held_are_all_of_them_each_in_its_own_format() -> None:
    group = LayerGroup(3, plain(), LINEAR, NORMS, 0, experts=Experts(4, 1, 1000, other_params=6))
    tied = LanguageModel(HIDDEN, VOCABULARY, (group,), 7, True, table_params=9)
    spec = ModelSpec("test", TOWER, tied, "bfloat16")
    four_bit = Precision(0.5, 2.0, 2.0, vision_bytes=2.0, head_bytes=1.0)
    packed, plain_ = 3 * (LINEAR + 4 * 1000), 3 * (NORMS + 4 * 6) + 7 + 9
    table = HIDDEN * VOCABULARY
    assert weights_bytes(spec, four_bit) == 0.5 * packed + 2 * plain_ + table + 2 * TOWER.params
    untied = replace(spec, language=replace(tied, tied_embeddings=False))
    assert weights_bytes(untied, four_bit) - weights_bytes(spec, four_bit) == table
    copied = weights_bytes(spec, four_bit, Parallel(tensor=3, encoder="data"))
    assert copied - weights_bytes(spec, four_bit) == 2 * 2 * TOWER.params


def test_a_cached_prefix_holds_the_image_before_the_text() -> None:
    spec, item = model(plain()), ItemTokens(6)
    whole, half = (
        estimate(spec, BF16, Workload(4, (item,), cached_tokens=cached)).prefill for cached in (0, 8)
    )
    assert whole.flops_attention[0] == PAIR * 55
    assert half.flops_attention[0] == PAIR * (9 + 10)
    assert half.bytes_kv_written[0] == 2 * 16
    assert half.flops_visual[0] == half.bytes_kv_visual_written[0] == 0
    assert whole.bytes_kv_visual_written[0] == pytest.approx(6 * 16)


def test_communication_adds_to_the_floor() -> None:
    part = step(model(plain()), Parallel(tensor=2), **prompt(6)).prefill
    roof = Roof("datasheet", 1e12, 1e12, "bfloat16", "test")
    linked = replace(roof, link_bytes_per_s=1e3)
    sent = 6 * HIDDEN * 2 * 2 * 2
    assert part.floor_seconds(linked)[0] - part.floor_seconds(roof)[0] == pytest.approx(sent / 1e3)


def test_experts_that_spread_over_replicas_are_held_and_read_in_part() -> None:
    spec = model(plain(), experts=Experts(8, 1, 1000, other_params=5))
    whole, spread = Parallel(data=4), Parallel(data=4, expert=4)
    assert weights_bytes(spec, BF16, whole) - weights_bytes(spec, BF16, spread) == 2 * 6 * (1000 + 5)
    # On two of the ranks of one replica each holds half of what four hold a quarter of.
    assert (
        weights_bytes(spec, BF16, Parallel(tensor=2, data=2, expert=4))
        == weights_bytes(spec, BF16) - 2 * 4 * 1005
    )
    one, four = (
        step(spec, parallel, decode_requests=1, decode_context_tokens=1).decode.bytes_weights[0]
        for parallel in (whole, spread)
    )
    # Four replicas with a token each touch 8 (1 - (7/8)^4) experts, of which this one holds and reads a quarter.
    touched = 8 * (1 - (7 / 8) ** 4) / 4
    assert four - (one - 2 * 1005) == pytest.approx(2 * 1005 * touched)


def test_images_of_a_cached_prefix_are_not_encoded_again() -> None:
    tower = replace(TOWER, class_tokens=0)
    spec = ModelSpec("test", tower, model(plain()).language, "bfloat16")
    images = (ItemTokens(4, 0, (PatchGrid(1, 4, 4),)), ItemTokens(4, 0, (PatchGrid(1, 4, 4),)))
    both, second, none = (
        estimate(spec, BF16, Workload(5, images, cached_tokens=cached)).encode.flops[0]
        for cached in (3, 4, 8)
    )
    assert (second, none) == (both / 2, 0)


def test_tags_around_media_are_part_of_the_prompt() -> None:
    spec = model(plain())
    tagged = estimate(spec, BF16, Workload(3, (ItemTokens(5, 2),))).prefill
    assert tagged.flops_attention[0] == PAIR * 10 * 11 / 2
    assert tagged.bytes_kv_written[0] == 10 * 16
