"""The batch of vLLM's scheduler, kept from step to step: who is in prefill, who decodes, and the sums over them.

A step that only decodes costs a few additions: the sequences that decode share one counter of steps (``_ticks``), and
each knows its own context by the difference. The batch is walked only when requests join or stall, with speculative
tokens, and when the engine's totals contradict ours, which is counted (``recounts``).
"""

from typing import Any, Container, Dict, Iterable, List, Mapping, Optional

from vtprof_probe.engines.vllm_composition import UNSEEN, Chunk, Composition, Member
from vtprof_probe.engines.vllm_positions import Positions, causal_pairs, read_positions

_RUNNING = "RUNNING"
_PREEMPTED = "PREEMPTED"


class Batch:
    """Follows the scheduler: ``arrive``, ``step`` for each that schedules something, ``leave``."""

    def __init__(self, has_decoder_media: bool = True) -> None:
        """Begin with no sequence; media of encoder-decoder models are in no prompt position (False)."""
        self._has_media = has_decoder_media
        self._ticks = 0
        self._decoding: Dict[str, Member] = {}
        """In the last step; the member's ``computed`` is the tokens cached less ``_ticks``."""
        self._stalled: Dict[str, Member] = {}
        """Running with a complete prompt, but not in the last step."""
        self._prefilling: Dict[str, Member] = {}
        self._waiting: Dict[str, Member] = {}
        self._context = self._visual = 0
        """Cached tokens of those that decode, and the visual part."""
        self._last_step = 0
        self._exact = False
        """Whether the contexts are known to be the engine's; else the next step reads them from it."""
        self._known = False
        self.recounts = 0
        """Steps at which our sums were not the engine's."""
        self.unread = 0
        """Prompts whose media could not be read; they count as text."""

    def arrive(self, key: str, now_ns: int, request: Any) -> None:
        """Take note of a request that waits from now on; one that is known stays as it is."""
        for group in (self._waiting, self._decoding, self._prefilling, self._stalled):
            if key in group:
                return
        self._waiting[key] = member = Member(key)
        member.waiting_since = now_ns
        self._positions(member, request)

    def leave(self, key: str) -> Optional[Member]:
        """Forget a request; return what was known of it, its last step included."""
        member = self._decoding.get(key)
        if member is not None:
            return self._stop_ticking(key, member)
        for group in (self._prefilling, self._stalled, self._waiting):
            if key in group:
                return group.pop(key)
        return None

    def step(
        self,
        step: int,
        output: Any,
        requests: Mapping[str, Any],
        running: Iterable[Any],
        in_flight: Container[int],
    ) -> Composition:
        """Account for a SchedulerOutput right after ``schedule()`` and return what the step holds.

        ``requests`` and ``running`` are the scheduler's; ``in_flight`` the steps whose output is not there yet: who
        is in one of them does not wait. Raises RuntimeError if the output contradicts the scheduler itself.
        """
        made = Composition()
        if not self._known or not self._account(made, step, output, requests, in_flight):
            self.recounts += self._known
            self._rebuild(made, output, requests, running)
            if not self._account(made, step, output, requests, in_flight):
                self._known = False
                raise RuntimeError("scheduled requests that the scheduler does not have")
        self._last_step = step
        return made

    # --- One step ------------------------------------------------------------------------------------------

    def _account(
        self,
        made: Composition,
        step: int,
        output: Any,
        requests: Mapping[str, Any],
        in_flight: Container[int],
    ) -> bool:
        """Add the step up; False, and nothing is changed but who was preempted, if it contradicts what is known."""
        scheduled: Dict[str, int] = output.num_scheduled_tokens
        joins = [key for key in _admissions(output) if key in scheduled]
        for key in joins:
            self._readmit(made, key, requests)
        for group in (self._prefilling, self._stalled):
            if group:
                joins += [key for key in group if key in scheduled]
        others = len(scheduled) - len(joins)
        tokens = output.total_num_scheduled_tokens - sum([scheduled[key] for key in joins])
        missing = self._decoding.keys() - scheduled.keys() if others != len(self._decoding) else ()
        if others != len(self._decoding) - len(missing) or tokens < others:
            return False
        follows = tokens > others or not self._exact
        if not follows and not self._spot_check(step, output, requests):
            return False
        for key in missing:
            self._stalled[key] = self._stop_ticking(key, self._decoding[key])
        for group in (self._prefilling, self._stalled):
            if group:
                self._left_out(made, group, scheduled, requests, in_flight)
        if follows:
            self._follow_engine(scheduled, requests)
        made.decode_requests, made.decode_context, made.decode_visual = others, self._context, self._visual
        made.decode_tokens = tokens
        self._context += tokens
        if not follows:
            self._ticks += 1
        # Drafts that are rejected are taken back after the step: then the engine is asked again.
        self._exact = tokens == others
        for key in joins:
            self._join(made, step, key, scheduled[key], output, requests[key])
        made.kv_tokens, made.kv_visual = self._context, self._visual
        for group in (self._prefilling, self._stalled):
            for member in group.values():
                made.kv_tokens += member.computed
                made.kv_visual += (
                    member.positions.visual_before(member.computed)[0] if member.positions else 0
                )
        return True

    def _readmit(self, made: Composition, key: str, requests: Mapping[str, Any]) -> None:
        """Turn one that we believed to run into one that waited: preempted outside of ``schedule``, or resumed input."""
        if key in self._waiting:
            return
        member = self.leave(key)
        if member is None:
            self._waiting[key] = member = Member(key)
            member.waiting_since = UNSEEN
            return
        self._waiting[key] = member
        prompt = getattr(requests.get(key), "num_prompt_tokens", member.prompt)
        if prompt == member.prompt:
            made.preempted.append(member.number)
        else:
            member.positions = None

    def _spot_check(self, step: int, output: Any, requests: Mapping[str, Any]) -> bool:
        """Compare one decoding sequence with the engine, another one each step."""
        keys = output.scheduled_cached_reqs.req_ids
        if not keys:
            return True
        key = keys[step % len(keys)]
        member = self._decoding.get(key)
        if member is None:
            return True
        before: int = requests[key].num_computed_tokens - output.num_scheduled_tokens[key]
        return before == member.computed + self._ticks

    def _left_out(
        self,
        made: Composition,
        group: Dict[str, Member],
        scheduled: Mapping[str, int],
        requests: Mapping[str, Any],
        in_flight: Container[int],
    ) -> None:
        """Find out why those of a group that should run are not in the step."""
        for key in [key for key in group if key not in scheduled]:
            member = group[key]
            request = requests.get(key)
            status = _status(request)
            if request is not None and status == _RUNNING:
                member.computed = request.num_computed_tokens
                if member.last_step not in in_flight:
                    made.waits.append(member)
                continue
            del group[key]
            if request is None:
                continue
            # Preempted; or between two inputs of a session, or waiting for KV from elsewhere.
            self._waiting[key] = member
            made.waits.append(member)
            if status == _PREEMPTED:
                made.preempted.append(member.number)
            elif getattr(request, "num_prompt_tokens", member.prompt) != member.prompt:
                member.positions = None

    def _follow_engine(self, scheduled: Mapping[str, int], requests: Mapping[str, Any]) -> None:
        """Take the contexts of those that decode from the engine: speculative tokens come and go."""
        self._context = 0
        for key, member in self._decoding.items():
            after: int = requests[key].num_computed_tokens
            self._context += after - scheduled[key]
            member.computed = after - self._ticks

    def _join(self, made: Composition, step: int, key: str, tokens: int, output: Any, request: Any) -> None:
        """Add one that is not among those which decoded in the step before: a chunk of its prompt, or a decode."""
        member = self._prefilling.pop(key, None) or self._stalled.pop(key, None)
        if member is None:
            member = self._waiting.pop(key)
            member.target = request.num_tokens
        after: int = request.num_computed_tokens
        start = after - tokens
        positions = self._positions(member, request)
        # Always: whether it waited is known when the steps before this one have ended.
        made.queued.append(member)
        member.last_step = step
        member.computed = after
        if after > max(start + 1, member.target):
            self._exact = False
        if start >= member.target:
            made.decode_requests += 1
            made.decode_tokens += tokens
            made.decode_context += start
            made.decode_visual += positions.visual_before(start)[0]
            self._start_ticking(key, member)
            return
        stop = min(after, member.target)
        visual_before, pairs_before = positions.visual_before(start)
        visual, pairs = positions.visual_before(stop)
        made.chunks.append(
            Chunk(
                member.number,
                stop - start,
                visual - visual_before,
                start,
                0 if member.admitted else start,
                causal_pairs(start, stop),
                pairs - pairs_before,
                int(after >= member.target),
            )
        )
        hits = positions.first_needed(start, stop, output.scheduled_encoder_inputs.get(key, ()))
        if hits:
            made.hits.append((member.number, hits))
        member.admitted = True
        if after >= member.target:
            self._start_ticking(key, member)
        else:
            self._prefilling[key] = member

    def _positions(self, member: Member, request: Any) -> Positions:
        if member.positions is None:
            member.prompt = request.num_prompt_tokens
            try:
                member.positions = read_positions(request.mm_features if self._has_media else ())
            except Exception:
                member.positions = Positions([], [])
                self.unread += 1
        return member.positions

    def _start_ticking(self, key: str, member: Member) -> None:
        self._context += member.computed
        if member.positions is not None:
            self._visual += member.positions.visual_before(member.computed)[0]
        member.computed -= self._ticks
        self._decoding[key] = member

    def _stop_ticking(self, key: str, member: Member) -> Member:
        """Take one out of those that decode; the last step held it."""
        del self._decoding[key]
        member.computed += self._ticks
        member.last_step = self._last_step
        self._context -= member.computed
        if member.positions is not None:
            self._visual -= member.positions.visual_before(member.computed)[0]
        return member

    # --- From the engine's own state -----------------------------------------------------------------------

    def _rebuild(
        self, made: Composition, output: Any, requests: Mapping[str, Any], running: Iterable[Any]
    ) -> None:
        """Read from the engine who ran when the step began, and how far each one was."""
        scheduled, admitted = output.num_scheduled_tokens, set(_admissions(output))
        queued = set(self._waiting)
        known: Dict[str, Member] = {}
        for group in (self._decoding, self._prefilling, self._stalled, self._waiting):
            for key in list(group):
                known[key] = self.leave(key) or Member(key)
        self._context = self._visual = 0
        for request in running:
            key = request.request_id
            member = known.pop(key, None) or Member(key)
            if key in admitted:
                self._waiting[key] = member
            else:
                self._adopt(key, member, request, scheduled.get(key, 0))
        for key, member in known.items():
            if key in requests:
                self._waiting[key] = member
                if key not in queued:
                    made.waits.append(member)
                    if _status(requests[key]) == _PREEMPTED:
                        made.preempted.append(member.number)
        self._known = self._exact = True

    def _adopt(self, key: str, member: Member, request: Any, tokens: int) -> None:
        """Take up a running request as it was before the step gave it ``tokens``."""
        before = request.num_computed_tokens - tokens
        self._positions(member, request)
        if not member.target:
            # More than one token to compute: its prompt; with what was generated if it was preempted before.
            total = request.num_tokens
            member.target = total if before < total - 1 else member.prompt
        member.admitted = True
        member.computed = before
        if before < member.target:
            self._prefilling[key] = member
        elif tokens:
            self._start_ticking(key, member)
        else:
            self._stalled[key] = member


def _admissions(output: Any) -> List[str]:
    """Return the requests that a step took from the queue, in order."""
    cached = output.scheduled_cached_reqs
    keys = [new.req_id for new in output.scheduled_new_reqs]
    resumed = getattr(cached, "resumed_req_ids", None)
    if resumed:
        keys += resumed
    elif resumed is None and True in getattr(cached, "resumed_from_preemption", ()):  # until 0.11
        keys += [key for key, flag in zip(cached.req_ids, cached.resumed_from_preemption) if flag]
    return keys


def _status(request: Any) -> str:
    return str(getattr(getattr(request, "status", None), "name", ""))
