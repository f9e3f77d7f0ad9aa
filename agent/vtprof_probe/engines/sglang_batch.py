"""What the probe remembers of SGLang's requests from step to step, so that a step costs little however many decode."""

from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Sequence, Set

from vtprof_probe.engines.sglang_media import media_items, read_positions
from vtprof_probe.engines.vllm_shared import number
from vtprof_schemas import records

STATE_ATTRIBUTE = "vtprof_state"
"""Set on SGLang's ``Req``: it lives and goes with it, also when the request never reaches a step."""


class SequenceState:
    """One ``Req`` of the scheduler."""

    __slots__ = (
        "completed_in",
        "finished_ns",
        "first_chunk",
        "number",
        "positions",
        "positions_known",
        "queued_ns",
        "visual",
    )

    def __init__(self, req: Any, queued_ns: Optional[int] = None) -> None:
        """Begin for a request that waits since ``queued_ns`` (None: it was here before the hooks)."""
        self.number = number(req.rid)
        self.queued_ns = queued_ns
        self.first_chunk = True
        self.visual = 0
        """Visual tokens of it in the KV cache."""
        media = media_items(getattr(req, "multimodal_inputs", None))
        self.positions, self.positions_known = read_positions(media)
        self.completed_in: Optional[int] = None
        """Step in which the prompt was complete."""
        self.finished_ns: Optional[int] = None


class Chunk(NamedTuple):
    """Part of a prompt in a step."""

    state: SequenceState
    begin: int
    tokens: int
    visual_tokens: int
    visual_pairs: int
    cached: int
    last: bool


def state_of(req: Any) -> Optional[SequenceState]:
    """Return what is known of a request; None before it was seen."""
    state: Optional[SequenceState] = getattr(req, STATE_ATTRIBUTE, None)
    return state


def new_state(req: Any, queued_ns: Optional[int] = None) -> SequenceState:
    """Begin with a request."""
    state = SequenceState(req, queued_ns)
    setattr(req, STATE_ATTRIBUTE, state)
    return state


def prompt_length(req: Any) -> int:
    """Return the tokens to compute before a request goes on: its prompt, after a retraction its output too."""
    return len(req.origin_input_ids) + len(req.output_ids)


class LiveBatch:
    """The requests that hold KV, who of them decodes, and the visual tokens of both."""

    def __init__(self) -> None:
        """Begin with none."""
        self._live: Dict[str, SequenceState] = {}
        self._decoding: List[str] = []
        self._known: Set[str] = set()
        self._decoding_visual = 0
        self.visual = 0
        """Visual tokens of all in the KV cache; a shared prefix counts for each that reads it."""

    def __len__(self) -> int:
        return len(self._live)

    def __contains__(self, rid: str) -> bool:
        return rid in self._live

    def prefill(self, req: Any, begin: int, tokens: int) -> Chunk:
        """Take a chunk of a prompt, ``begin`` tokens of which are cached."""
        state = state_of(req) or new_state(req)
        self._live[req.rid] = state
        end = begin + tokens
        held, pairs_to_end = state.positions.visual_before(end)
        before, pairs_before = state.positions.visual_before(begin)
        visual, pairs = held - before, pairs_to_end - pairs_before
        self.visual += held - state.visual
        state.visual = held
        cached, state.first_chunk = (begin if state.first_chunk else 0), False
        last = end >= prompt_length(req)
        if not state.positions_known:
            visual = pairs = records.UNKNOWN
        return Chunk(state, begin, tokens, visual, pairs, cached, last)

    def decode(self, reqs: Sequence[Any]) -> int:
        """Take the requests that decode in a step; return the visual tokens that they read."""
        rids = [req.rid for req in reqs]
        # The same strings in the same order compare by identity: nearly all steps end here.
        if rids != self._decoding:
            members = set(rids)
            for rid in self._known - members:
                self._decoding_visual -= self._live[rid].visual if rid in self._live else 0
            for req in reqs:
                if req.rid not in self._known:
                    self._decoding_visual += self._joined(req).visual
            self._decoding, self._known = rids, members
        return self._decoding_visual

    def drop(self, req: Any) -> None:
        """Forget a request that lost its KV or is finished."""
        rid = req.rid
        state = self._live.pop(rid, None)
        if state is None:
            return
        if rid in self._known:
            self._decoding_visual -= state.visual
            self._known.discard(rid)
            self._decoding = []
        self.visual -= state.visual
        state.visual, state.first_chunk = 0, True

    def _joined(self, req: Any) -> SequenceState:
        state = self._live.get(req.rid)
        if state is None:
            # Its prompt was computed before the hooks were set.
            state = state_of(req) or new_state(req)
            state.first_chunk = False
            state.visual, _ = state.positions.visual_before(prompt_length(req))
            self.visual += state.visual
            self._live[req.rid] = state
        return state


def decode_context(batch: Any, reqs: Sequence[Any]) -> int:
    """Return the tokens cached before a decode step, by the engine's own sum where it keeps one on the host.

    With speculative decoding lengths grow by more than one, and under the overlap schedule the last token is still under
    way: then the requests' own tokens stand for it.
    """
    plain = _not_speculative(batch)
    total = getattr(batch, "seq_lens_sum", None)
    if plain and not isinstance(total, int):
        lengths = getattr(batch, "seq_lens_cpu", None)
        if lengths is not None and not getattr(lengths, "is_cuda", False):
            total = int(lengths.sum())
    if plain and isinstance(total, int):
        # SGLang counts the token that the step writes.
        return total - len(reqs)
    return sum(prompt_length(req) - 1 for req in reqs)


def tokens_each(scheduler: Any, batch: Any) -> int:
    """Return the tokens that the model computes for each request of a decode step: one, or those that it verifies.

    -1 where they differ from request to request (DSpark), or are not those that are drafted (Uno).
    """
    if _not_speculative(batch):
        return 1
    if any(says(batch.spec_algorithm, question) for question in ("supports_ragged_verify", "is_uno")):
        return records.UNKNOWN
    for holder in (getattr(scheduler, "draft_worker", None), getattr(scheduler, "server_args", None)):
        each = verified_width(holder)
        if each > 0:
            return each
    return records.UNKNOWN


def verified_width(holder: Any) -> int:
    """Return how many tokens of each request a worker verifies, or a result says were verified; -1 not told."""
    each = getattr(holder, "speculative_num_draft_tokens", None)
    return each if isinstance(each, int) and each > 0 else records.UNKNOWN


def _not_speculative(batch: Any) -> bool:
    algorithm = getattr(batch, "spec_algorithm", None)
    return algorithm is None or bool(algorithm.is_none())


def says(kind: Any, question: str) -> bool:
    """Ask a forward mode or an algorithm what not every version can answer."""
    answer = getattr(kind, question, None)
    return answer is not None and bool(answer())


def finished(reqs: Iterable[Any]) -> List[Any]:
    """Return the requests that have a reason to end."""
    return [req for req in reqs if req.finished_reason is not None]
