"""FLOPs and bytes of steps (C3 to C7): the encoders', prefill's and decode's parts of each, as arrays.

Weights are read once per iteration of the language model and split between prefill and decode by tokens; a tower's
weights once per step that encodes. The output head runs on one position per prefill request in the step and on every
token that decode computes: a chunk that does not end its prompt is counted with one position too many. With speculative
decoding these are the tokens that the model verifies; the model that drafts them is not known and not counted.
"""

import numpy as np

from vtprof_analyzer.cost.language import decode_cost, prefill_cost, ratio, weight_bytes
from vtprof_analyzer.cost.parallel import Parallel
from vtprof_analyzer.cost.parts import PartCost, StepCosts
from vtprof_analyzer.cost.towers import TowerWork, tower_cost, work_of_sums
from vtprof_analyzer.cost.work import Floats, Precision, StepWork
from vtprof_analyzer.models.spec import ModelSpec, Tower

ONE_DEVICE = Parallel()


def step_costs(
    spec: ModelSpec,
    work: StepWork,
    precision: Precision,
    *,
    full_attention: bool = False,
    parallel: Parallel = ONE_DEVICE,
    vision: TowerWork | None = None,
    audio: TowerWork | None = None,
) -> StepCosts:
    """Return the cost of every step, by part; over all ranks of one replica together.

    ``full_attention`` counts prefill attention without mask and windows, for comparison with counters of kernels that
    compute the masked half as well. ``vision`` and ``audio`` are the encoders' exact work, where it is known; else that of
    ``work``'s sums.
    """
    language = spec.language
    tokens = work.prefill_tokens + work.decode_tokens
    by_tokens = ratio(weight_bytes(language, work, precision, parallel), tokens)
    return StepCosts(
        encode=_encode(spec, work, precision, parallel, vision, audio),
        prefill=prefill_cost(
            language, work, precision, by_tokens * work.prefill_tokens, parallel, full_attention
        ),
        decode=decode_cost(language, work, precision, by_tokens * work.decode_tokens, parallel),
    )


def _encode(
    spec: ModelSpec,
    work: StepWork,
    precision: Precision,
    parallel: Parallel,
    vision: TowerWork | None,
    audio: TowerWork | None,
) -> PartCost:
    zero = np.zeros(len(work))
    flops, attention, visual, weights, values, sent = zero, zero, zero, zero, zero, zero
    towers: list[tuple[Tower, TowerWork, float, bool]] = []
    for tower in (spec.vision, *spec.extra_towers):
        if tower is not None:
            given = vision or work_of_sums(
                tower,
                work.encode_patches,
                work.encode_attention_pairs,
                work.encode_items,
                work.encode_tokens,
            )
            towers.append((tower, given, precision.of_vision, True))
    if spec.audio is not None:
        given = audio or work_of_sums(
            spec.audio, work.audio_patches, work.audio_attention_pairs, zero, work.audio_tokens
        )
        towers.append((spec.audio, given, precision.of_audio, False))
    for tower, given, weight_bytes_each, is_visual in towers:
        cost = tower_cost(tower, given, weight_bytes_each)
        replicas, traffic = _encoder_ranks(tower, given, precision, parallel, spec.language.hidden_size)
        flops, attention = flops + cost.flops, attention + cost.flops_attention
        visual = visual + cost.flops if is_visual else visual
        weights, sent = weights + cost.bytes_weights * replicas, sent + traffic
        values = values + cost.activation_values
    return PartCost(
        flops=flops,
        flops_attention=attention,
        flops_visual=visual,
        bytes_weights=weights,
        bytes_kv_read=zero,
        bytes_kv_written=zero,
        bytes_kv_visual=zero,
        bytes_activations=values * precision.activation_bytes,
        bytes_kv_visual_written=zero,
        bytes_communication=sent,
    )


def _encoder_ranks(
    tower: Tower, work: TowerWork, precision: Precision, parallel: Parallel, hidden_size: int
) -> tuple[Floats, Floats]:
    """Return how many replicas of the tower's weights a step reads, and the bytes that all ranks send.

    Replicas gather the adapter's output on every rank; split weights need two all-reduces a layer.
    """
    others = parallel.tensor - 1
    if parallel.encoder == "data":
        replicas = np.clip(work.sequences, 1.0, parallel.tensor)
        return replicas, work.tokens * hidden_size * precision.activation_bytes * others
    positions = work.patches + tower.class_tokens * work.sequences
    message = positions * tower.hidden_size * precision.activation_bytes
    return np.ones_like(work.patches), message * 2.0 * tower.layers * 2.0 * others
