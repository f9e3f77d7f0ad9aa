"""Stage `facts_counterfactual`: what the same requests and steps would cost with other tokens, drafts or experts.

By the cost model on each request's own tokens, times what prefill took in this run for each second that the model gives it.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import duckdb
import numpy as np

from vtprof_analyzer.cost.parts import PartCost
from vtprof_analyzer.cost.steps import step_costs
from vtprof_analyzer.cost.work import Floats, StepWork
from vtprof_analyzer.models.spec import ModelSpec
from vtprof_analyzer.step_cost import WORK_COLUMNS, CostInputs

STAGE: Final = "91_facts_counterfactual_filled.py"
"""Its place among the SQL stages."""

_ASKED: Final = """
SELECT *, least(visual_tokens, fresh) AS visual
FROM (
    SELECT *, greatest(1, input_tokens - prefix) AS fresh
    FROM (
        SELECT member, input_tokens, visual_tokens, prefill_ms, encode_ms,
               coalesce(images, 0) AS images, coalesce(image_tokens, 0) AS image_tokens,
               least(coalesce(cached_tokens, 0), input_tokens) AS prefix,
               greatest(0, coalesce(image_tokens - 4096 * images, 0)) AS beyond
        FROM request_facts
        WHERE counts AND ttft_ms IS NOT NULL AND input_tokens > 0 AND visual_tokens >= 0
          AND ($all OR list_contains($ids::UBIGINT[], resource_id))
    )
)
"""
_PROMPT: Final = "fresh, prefix, visual, images, image_tokens, beyond"
"""What the cost model needs to know of a prompt: many are asked for again and again."""
_PROMPTS: Final = f"SELECT DISTINCT {_PROMPT} FROM ({_ASKED})"
_SAVED: Final = f"""
WITH by_member AS (
    SELECT member, count(*) AS requests, sum(prefill_ms) AS prefill_ms, sum(now) AS now,
           sum(halved) AS halved, sum(quartered) AS quartered, sum(capped) AS capped,
           -- What the images took of the encoder: by tokens, where there are videos, too.
           sum(encode_ms * image_tokens / nullif(visual_tokens, 0) * (1 - encode_left)) AS capped_encode_ms,
           count(*) FILTER (encode_ms IS NULL AND beyond > 0) AS unknown
    FROM ({_ASKED}) JOIN prompts USING ({_PROMPT})
    GROUP BY member
)
SELECT scope, sum(requests) AS requests, sum(prefill_ms) AS prefill_ms, sum(now) AS now, sum(halved) AS halved,
       sum(quartered) AS quartered, sum(capped) AS capped, coalesce(sum(capped_encode_ms), 0) AS capped_encode_ms,
       sum(unknown) AS unknown
FROM by_member JOIN fact_members USING (member)
GROUP BY scope ORDER BY scope
"""
_SPENT: Final = """
SELECT scope, count(*) AS requests, avg(prefill_ms) AS prefill_ms, avg(e2e_ms - ttft_ms) AS decode_ms
FROM scoped_requests
WHERE counts AND ttft_ms IS NOT NULL AND ($all OR list_contains($ids::UBIGINT[], resource_id))
GROUP BY scope ORDER BY scope
"""
_WORK: Final = (
    "SELECT scope, "
    + ", ".join(f"sum({column})::DOUBLE AS {column}" for column in WORK_COLUMNS.values())
    + " FROM (SELECT resource_id, "
    + ", ".join(f"sum({column}) AS {column}" for column in WORK_COLUMNS.values())
    + " FROM steps"
    " WHERE NOT folded AND {where} AND ($all OR list_contains($ids::UBIGINT[], resource_id)) GROUP BY resource_id)"
    " JOIN fact_processes USING (resource_id) GROUP BY scope ORDER BY scope"
)
Part = Literal["encode", "prefill", "decode"]


@dataclass
class _Sums:
    """What adds up over the groups of a scope; None: of no group known."""

    requests: float = 0.0
    capped_ms: float | None = None
    keep50_ms: float | None = None
    keep25_ms: float | None = None
    attention_flops: float = 0.0
    encode_flops: float = 0.0
    moe_ms: float | None = None
    moe_requests: float = 0.0
    drafted: float = 0.0
    undrafted: float = 0.0


@dataclass(frozen=True)
class _Work:
    """The work of all steps of one kind together, one entry a scope, as if they were alike."""

    scopes: list[int]
    work: StepWork


def fill_table(connection: duckdb.DuckDBPyConnection, groups: Sequence[CostInputs]) -> None:
    """Put a row for each scope into the table; ``groups`` as in `step_cost.fill_table`."""
    sums: defaultdict[int, _Sums] = defaultdict(_Sums)
    for inputs in groups:
        _add_prompts(sums, connection, inputs)
        _add_steps(sums, connection, inputs)
    scopes = connection.execute("SELECT DISTINCT scope FROM fact_scopes ORDER BY scope").fetchall()
    rows = [[scope, *_row(sums[scope])] for (scope,) in scopes]
    # One statement: each of its own costs half a millisecond.
    columns = ["unnest(?::INTEGER[])", *["unnest(?::DOUBLE[])"] * (len(rows[0]) - 1)]
    connection.execute(
        f"INSERT INTO facts_counterfactual SELECT {', '.join(columns)}", list(zip(*rows, strict=True))
    )


def _row(sums: _Sums) -> Iterator[float | None]:
    for saved in (sums.capped_ms, sums.keep50_ms, sums.keep25_ms):
        yield None if saved is None else saved / sums.requests
    yield sums.attention_flops / sums.encode_flops if sums.encode_flops > 0 else None
    yield None if sums.moe_ms is None else sums.moe_ms / sums.moe_requests
    yield sums.drafted / sums.undrafted if sums.undrafted > 0 else None


def _add_prompts(
    sums: defaultdict[int, _Sums], connection: duckdb.DuckDBPyConnection, inputs: CostInputs
) -> None:
    """Add what fewer visual tokens would save of the prefill of these requests, and a cap on images of their encode."""
    asked = connection.execute(_PROMPTS, _whose(inputs)).fetchnumpy()
    prompts = {name: values.astype(np.float64) for name, values in asked.items()}
    fresh, prefix, visual, beyond = (prompts[name] for name in ("fresh", "prefix", "visual", "beyond"))
    now = prompt_seconds(inputs, fresh, prefix, visual)

    def saved(dropped: Floats) -> Floats:
        return now - prompt_seconds(inputs, fresh - dropped, prefix, visual - dropped)

    costs = {
        "now": now,
        "halved": saved(visual * 0.5),
        "quartered": saved(visual * 0.75),
        "capped": saved(np.minimum(beyond, visual)),
        "encode_left": encode_left(inputs, prompts["images"], prompts["image_tokens"], beyond),
    }
    connection.register("prompts", {**asked, **costs})
    found = _columns(connection, _SAVED, inputs)
    connection.unregister("prompts")
    for place, scope in enumerate(found["scope"]):
        mine = {name: float(values[place]) for name, values in found.items()}
        if not mine["prefill_ms"] > 0:
            continue
        scale, into = mine["prefill_ms"] / mine["now"], sums[int(scope)]
        into.requests += mine["requests"]
        into.keep50_ms = (into.keep50_ms or 0.0) + mine["halved"] * scale
        into.keep25_ms = (into.keep25_ms or 0.0) + mine["quartered"] * scale
        # Where the encoder's time is not told, what a cap saves of it is not known.
        if not mine["unknown"] > 0:
            into.capped_ms = (into.capped_ms or 0.0) + mine["capped"] * scale + mine["capped_encode_ms"]


def encode_left(inputs: CostInputs, images: Floats, tokens: Floats, beyond: Floats) -> Floats:
    """Return the part of the encoder's time that is left without the tokens beyond a cap, images of a request being alike.

    By the cost model: attention among the patches of an image goes with their square, so that more is saved than the
    tokens' part. In proportion to the tokens where the model's encoder is not known.
    """
    if inputs.spec.vision is None or not inputs.spec.encoder_flops_known:
        now, less = tokens, tokens - beyond
    else:
        per_token = inputs.spec.vision.patches_per_token
        now, less = (_encode_seconds(inputs, images, kept * per_token) for kept in (tokens, tokens - beyond))
    return np.divide(less, now, out=np.ones_like(now), where=now > 0)


def _encode_seconds(inputs: CostInputs, images: Floats, patches: Floats) -> Floats:
    pairs = np.divide(patches**2, images, out=np.zeros_like(patches), where=images > 0)
    work = StepWork.of(encode_items=images, encode_patches=patches, encode_attention_pairs=pairs)
    return _seconds(inputs, work, "encode")


def prompt_seconds(inputs: CostInputs, fresh: Floats, prefix: Floats, visual: Floats) -> Floats:
    """Return the model's time of prefilling each prompt alone [s]; without a roof its FLOPs stand for it."""
    pairs = fresh * prefix + fresh * (fresh + 1.0) / 2.0
    visual_pairs = np.divide(pairs * visual, fresh, out=np.zeros_like(pairs), where=fresh > 0)
    work = StepWork.of(
        prefill_requests=np.ones_like(fresh),
        prefill_tokens=fresh,
        prefill_visual_tokens=visual,
        prefill_attention_pairs=pairs,
        prefill_visual_attention_pairs=visual_pairs,
    )
    return _seconds(inputs, work, "prefill")


def _seconds(inputs: CostInputs, work: StepWork, part: Part) -> Floats:
    cost = _cost(inputs, work, part)
    return cost.floor_seconds(inputs.roof) if inputs.roof else cost.flops


def _cost(inputs: CostInputs, work: StepWork, part: Part) -> PartCost:
    costs = step_costs(inputs.spec, work, inputs.precision, parallel=inputs.parallel)
    return {"encode": costs.encode, "prefill": costs.prefill, "decode": costs.decode}[part]


def _add_steps(
    sums: defaultdict[int, _Sums], connection: duckdb.DuckDBPyConnection, inputs: CostInputs
) -> None:
    """Add the encoder's attention, the drafts' part and the experts' part of the steps of these processes."""
    if inputs.spec.encoder_flops_known:
        encode = _work(connection, inputs, "encode_patches > 0")
        cost = _cost(inputs, encode.work, "encode")
        for scope, attention, flops in zip(encode.scopes, cost.flops_attention, cost.flops, strict=True):
            sums[scope].attention_flops += float(attention)
            sums[scope].encode_flops += float(flops)
    decode = _work(connection, inputs, "decode_requests > 0")
    drafting = _work(connection, inputs, "decode_tokens > decode_requests")
    # Where nothing is drafted the steps cost what they cost without drafts.
    for verified in (drafting, decode):
        plain = replace(verified.work, decode_tokens=verified.work.decode_requests)
        both = _seconds(inputs, verified.work, "decode"), _seconds(inputs, plain, "decode")
        for scope, drafted, undrafted in zip(verified.scopes, *both, strict=True):
            if verified is drafting or scope not in drafting.scopes:
                sums[scope].drafted += float(drafted)
                sums[scope].undrafted += float(undrafted)
    if inputs.roof is not None and any(group.experts for group in inputs.spec.language.groups):
        _add_experts(sums, connection, inputs, decode)


def _add_experts(
    sums: defaultdict[int, _Sums], connection: duckdb.DuckDBPyConnection, inputs: CostInputs, decode: _Work
) -> None:
    """Add the time of prefill and decode that the routed experts answer for, as far as both are known."""
    bare = replace(inputs, spec=_without_experts(inputs.spec))
    shares = []
    parts: tuple[tuple[_Work, Part], ...] = (
        (_work(connection, inputs, "prefill_tokens > 0"), "prefill"),
        (decode, "decode"),
    )
    for done, part in parts:
        share = 1.0 - _seconds(bare, done.work, part) / _seconds(inputs, done.work, part)
        shares.append(dict(zip(done.scopes, share.tolist(), strict=True)))
    spent = _columns(connection, _SPENT, inputs)
    for scope, requests, prefill_ms, decode_ms in zip(*spent.values(), strict=True):
        prefill_share, decode_share = (share.get(int(scope)) for share in shares)
        if prefill_share is None or decode_share is None or not np.isfinite(prefill_ms + decode_ms):
            continue
        into = sums[int(scope)]
        of_experts_ms = float(prefill_ms) * prefill_share + float(decode_ms) * decode_share
        into.moe_ms = (into.moe_ms or 0.0) + of_experts_ms * float(requests)
        into.moe_requests += float(requests)


def _without_experts(spec: ModelSpec) -> ModelSpec:
    """Return the model as if its routed experts had no weights."""
    groups = tuple(
        replace(group, experts=replace(group.experts, params=0, other_params=0) if group.experts else None)
        for group in spec.language.groups
    )
    return replace(spec, language=replace(spec.language, groups=groups))


def _work(connection: duckdb.DuckDBPyConnection, inputs: CostInputs, where: str) -> _Work:
    found = _columns(connection, _WORK.format(where=where), inputs)
    columns = {field: found[column] for field, column in WORK_COLUMNS.items()}
    return _Work([int(scope) for scope in found["scope"]], StepWork.of(**columns))


def _columns(connection: duckdb.DuckDBPyConnection, query: str, inputs: CostInputs) -> dict[str, Floats]:
    found = connection.execute(query, _whose(inputs)).fetchnumpy()
    return {name: np.ma.filled(values.astype(np.float64), np.nan) for name, values in found.items()}


def _whose(inputs: CostInputs) -> dict[str, object]:
    return {"all": inputs.resource_ids is None, "ids": sorted(inputs.resource_ids or ())}
