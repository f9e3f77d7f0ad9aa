"""``vtprof estimate``: FLOPs, bytes, bound and floor time of a request's phases, KV cache and the batch that fits."""

import json
from enum import StrEnum
from typing import Annotated, Any

import typer

from vtprof_analyzer.cli import media
from vtprof_analyzer.cli.lists import list_devices, list_models


class Format(StrEnum):
    """Output formats."""

    TERMINAL = "terminal"
    JSON = "json"


class AttentionCount(StrEnum):
    """How prefill attention is counted."""

    CAUSAL = "causal"
    FULL = "full"


class EncoderRanks(StrEnum):
    """What tensor-parallel ranks do with the encoder."""

    TENSOR = "tensor"
    DATA = "data"


MOST = 2**40
"""Counts beyond it lose exactness."""


def command(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A model's folder, its config.json, or a bundled name (--list-models)."
        ),
    ],
    text: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=0, max=MOST, help="Text tokens of the prompt; tags around media are added."
        ),
    ] = None,
    visual: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, max=MOST, help="Visual tokens, where no --image says how many."),
    ] = None,
    image: Annotated[
        list[Any] | None,
        typer.Option(parser=media.image, metavar="HxW", help="Image, height x width; may be repeated."),
    ] = None,
    video: Annotated[
        list[Any] | None,
        typer.Option(parser=media.video, metavar="FxHxW", help="Video, frames x height x width."),
    ] = None,
    audio: Annotated[
        list[Any] | None, typer.Option(parser=media.seconds, metavar="SECONDS", help="Audio clip.")
    ] = None,
    decode_context: Annotated[
        int | None,
        typer.Option(
            "--context",
            metavar="N",
            min=0,
            max=MOST,
            help="Tokens cached before the decode step, if more than the prompt also what a request keeps.",
        ),
    ] = None,
    cached: Annotated[
        int,
        typer.Option(metavar="N", min=0, max=MOST, help="Prompt tokens that a prefix cache already holds."),
    ] = 0,
    batch: Annotated[
        int,
        typer.Option(metavar="N", min=1, max=2**20, help="Like requests that run together, in every phase."),
    ] = 1,
    output: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, max=MOST, help="Tokens to generate: requests keep cache for them too."
        ),
    ] = 0,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Device for ridge, bound, floor time and the batch that fits; host is this CPU.",
        ),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(metavar="D", help="Data type of the weights; default: the config's.")
    ] = None,
    kv_dtype: Annotated[
        str | None, typer.Option(metavar="D", help="Data type of the KV cache; default: the activations'.")
    ] = None,
    tp: Annotated[int, typer.Option(metavar="N", help="Tensor-parallel ranks.")] = 1,
    pp: Annotated[int, typer.Option(metavar="N", help="Pipeline stages.")] = 1,
    dp: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Data-parallel replicas; phases are one replica's, the batch that fits is all's.",
        ),
    ] = 1,
    ep: Annotated[int, typer.Option(metavar="N", help="Ranks that experts spread over.")] = 1,
    encoder_ranks: Annotated[
        EncoderRanks,
        typer.Option("--encoder", help="Tensor ranks split the encoder (tensor) or its images (data)."),
    ] = EncoderRanks.TENSOR,
    attention: Annotated[
        AttentionCount,
        typer.Option(help="Count prefill attention causal, or full as unmasked kernels compute it."),
    ] = AttentionCount.CAUSAL,
    memory_ratio: Annotated[
        float,
        typer.Option(metavar="N", min=0.01, max=1.0, help="Share of device memory for weights and cache."),
    ] = 0.9,
    block_tokens: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, max=65_536, help="Tokens of a KV block; requests round up to whole ones."
        ),
    ] = 16,
    text_only: Annotated[
        bool, typer.Option("--text-only", help="Accept a model without a vision or audio tower.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 2 when anything had to be assumed.")] = False,
    format_: Annotated[Format, typer.Option("--format", help="Output format.")] = Format.TERMINAL,
    _devices: Annotated[
        bool,
        typer.Option(
            "--list-devices",
            callback=list_devices,
            is_eager=True,
            help="Print the names that --device knows.",
        ),
    ] = False,
    _: Annotated[
        bool,
        typer.Option("--list-models", callback=list_models, is_eager=True, help="Print the bundled models."),
    ] = False,
) -> None:
    """Estimate what a request costs: parameters, FLOPs, bytes, bound and floor time per phase, KV cache and batch.

    Floor times are lower bounds: what the device's peaks allow, not what an engine reaches. Decode is one step of the whole
    batch.
    """
    from vtprof_analyzer.cost.parallel import Parallel
    from vtprof_analyzer.estimate import answer
    from vtprof_analyzer.estimate_request import Asked, request
    from vtprof_analyzer.estimate_text import as_document, as_text
    from vtprof_schemas.printable import one_line

    items = media.in_order(context.find_root().obj or (), image or (), video or (), audio or ())
    asked = Asked(
        model=model,
        items=tuple(items),
        text_tokens=text,
        visual_tokens=visual,
        context_tokens=decode_context,
        cached_tokens=cached,
        batch=batch,
        device=device,
        dtype=dtype,
        kv_dtype=kv_dtype,
        parallel=Parallel(tp, pp, dp, ep, encoder_ranks.value),
        full_attention=attention is AttentionCount.FULL,
        memory_ratio=memory_ratio,
        block_tokens=block_tokens,
        output_tokens=output,
        text_only=text_only,
        strict=strict,
    )
    read = request(asked)
    given = answer(read.spec, read.question)
    if format_ is Format.JSON:
        typer.echo(json.dumps(as_document(read, given), indent=2))
        return
    typer.echo(as_text(read, given))
    for note in (*read.notes, *given.notes):
        typer.echo(f"note: {one_line(note)}", err=True)
