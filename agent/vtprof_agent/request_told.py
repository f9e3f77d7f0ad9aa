"""What is told of a request beside its times: label, model, caller, prompt and cache, put into its state."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vtprof_agent.facts import Caller
from vtprof_agent.request_state import RequestState
from vtprof_schemas import names, records


def _label(state: RequestState, length: int, text: bytes) -> None:
    state.label = _text(length, text)


def _model(state: RequestState, length: int, text: bytes) -> None:
    state.model = _text(length, text)


def _text(length: int, text: bytes) -> str | None:
    # A cut in the middle of a character must not cost the label.
    return text[: min(length, records.LABEL_BYTES)].decode("utf-8", "ignore") or None


def _kv(state: RequestState, tokens: int, visual: int, per_token: int, fixed: int) -> None:
    state.held = (tokens, visual, per_token, fixed)


def _parent(state: RequestState, trace_id: bytes, span_id: bytes, flags: int) -> None:
    if any(trace_id) and any(span_id):
        state.caller = Caller(int.from_bytes(trace_id, "big"), int.from_bytes(span_id, "big"), flags)


def _input(state: RequestState, *values: int) -> None:
    cached = state.counts.get(names.TOKENS_CACHED, records.UNKNOWN)
    state.counts = dict(zip(_INPUT_KEYS, values, strict=True))
    if state.counts[names.TOKENS_CACHED] < 0:
        state.counts[names.TOKENS_CACHED] = cached  # as the scheduler found them
    state.input_tokens = state.counts[names.INPUT_TOKENS]
    image, video = state.counts[names.TOKENS_IMAGE], state.counts[names.TOKENS_VIDEO]
    known = [tokens for tokens in (image, video) if tokens >= 0]
    state.visual_tokens = sum(known) if known else records.UNKNOWN


_INPUT_KEYS = (
    names.INPUT_TOKENS, names.TOKENS_TEXT, names.TOKENS_IMAGE, names.TOKENS_VIDEO, names.TOKENS_AUDIO,
    names.TOKENS_CACHED, names.ITEMS_IMAGE, names.ITEMS_VIDEO, names.ITEMS_AUDIO,
)  # fmt: skip
_TELLERS: Mapping[int, Callable[..., None]] = {
    records.REQUEST_LABEL.code: _label,
    records.REQUEST_MODEL.code: _model,
    records.REQUEST_PARENT.code: _parent,
    records.REQUEST_INPUT.code: _input,
    records.REQUEST_KV.code: _kv,
}
TOLD = tuple(_TELLERS)
"""Codes of the kinds of record that ``tell`` takes."""


def tell(state: RequestState, code: int, values: Sequence[Any]) -> None:
    """Put what a record of one of the kinds ``TOLD`` says into the state; ``values`` begin with the request's number."""
    _TELLERS[code](state, *values[1:])
