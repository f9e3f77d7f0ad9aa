"""A scheduler with the shape of vLLM's and its rules reduced to the bones, and what it says it did: the ground truth.

Continuous batching with a token budget, chunked prefill, a prefix cache and an encoder cache that are told what they
hold, preemption, stalls and drafts on request, and outputs that may come one step late.
"""

import enum
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from vllm_config_doubles import FullAttentionSpec, kv_config, vllm_config


class Status(enum.IntEnum):
    """The names of vLLM's RequestStatus that matter here."""

    WAITING = 1
    RUNNING = 2
    PREEMPTED = 3
    FINISHED_STOPPED = 4


@dataclass
class Place:
    """A placeholder range; `is_embed` is a mask of its positions."""

    offset: int
    length: int
    is_embed: Any = None


@dataclass
class Feature:
    """One media item of a request."""

    mm_position: Place
    modality: str = "image"
    identifier: str = ""


@dataclass(eq=False)
class Request:
    """What the hooks read of a request, and what the double itself needs."""

    request_id: str
    num_prompt_tokens: int
    mm_features: list[Feature] = field(default_factory=list)
    max_tokens: int = 4
    cached: int = 0
    num_output_tokens: int = 0
    num_computed_tokens: int = 0
    placeholders: int = 0
    lives: int = 0
    target: int = 0
    status: Status = Status.WAITING

    @property
    def num_tokens(self) -> int:
        return self.num_prompt_tokens + self.num_output_tokens


@dataclass
class CachedRequests:
    """The running requests of a step, as 0.12 and later tell of them."""

    req_ids: list[str]
    resumed_req_ids: set[str]


@dataclass
class OldCachedRequests:
    """The same until 0.11."""

    req_ids: list[str]
    resumed_from_preemption: list[bool]


@dataclass
class Output:
    """A SchedulerOutput."""

    scheduled_new_reqs: list[Any]
    scheduled_cached_reqs: Any
    num_scheduled_tokens: dict[str, int]
    total_num_scheduled_tokens: int
    scheduled_encoder_inputs: dict[str, list[int]]
    finished_req_ids: set[str]
    before: dict[str, int] = field(default_factory=dict)
    """Truth: tokens cached for each scheduled request before the step."""
    target: dict[str, int] = field(default_factory=dict)
    lives: dict[str, int] = field(default_factory=dict)
    used: int = 0
    preempted: list[str] = field(default_factory=list)


class Scheduler:
    """The double. `preempt`, `stall` and `drafts` are consulted for each running request in each step."""

    def __init__(self, budget: int = 16, seats: int = 8, late: bool = False, old: bool = False) -> None:
        self.budget, self.seats, self.late, self.old = budget, seats, late, old
        self.requests: dict[str, Request] = {}
        self.running: list[Request] = []
        self.queue: list[Request] = []
        self.finished_req_ids: set[str] = set()
        self.encoder_cache: set[str] = set()
        self.preempt: set[str] = set()
        self.stall: set[str] = set()
        self.drafts: dict[str, int] = {}
        self.accepted: dict[str, int] = {}
        self.vllm_config = vllm_config()
        self.kv_cache_config = kv_config((FullAttentionSpec(16, 4096), 2))
        pool = SimpleNamespace(num_gpu_blocks=101, get_num_free_blocks=lambda: 60)
        self.kv_cache_manager = SimpleNamespace(block_pool=pool)

    def get_request_counts(self) -> tuple[int, int]:
        return len(self.running), len(self.queue)

    def add_request(self, request: Request) -> None:
        self.requests[request.request_id] = request
        self.queue.append(request)

    def finish_requests(self, key: str) -> None:
        request = self.requests[key]
        for group in (self.running, self.queue):
            if request in group:
                group.remove(request)
        self._free_request(request)

    def _free_request(self, request: Request, delay_free_blocks: bool = False) -> None:
        request.status = Status.FINISHED_STOPPED
        del self.requests[request.request_id]
        self.finished_req_ids.add(request.request_id)

    def _preempt_request(self, request: Request) -> None:
        self.running.remove(request)
        self.queue.insert(0, request)
        request.status, request.num_computed_tokens, request.placeholders = Status.PREEMPTED, 0, 0
        request.lives += 1

    def schedule(self, throttle_prefills: bool = False) -> Output:
        budget, tokens, resumed, new = self.budget, {}, set(), []
        output = Output([], None, tokens, 0, {}, self.finished_req_ids)
        for request in list(self.running):
            key = request.request_id
            if key in self.preempt:
                self._preempt_request(request)
                output.preempted.append(key)
                continue
            most = request.num_tokens + request.placeholders - request.num_computed_tokens
            most += self.drafts.get(key, 0) if request.num_computed_tokens >= request.target else 0
            if key in self.stall or not min(most, budget):
                continue
            tokens[key] = min(most, budget)
            budget -= tokens[key]
        cached_ids = list(tokens)
        while self.queue and not output.preempted and budget and len(self.running) < self.seats:
            request = self.queue.pop(0)
            key = request.request_id
            if request.status is Status.PREEMPTED:
                resumed.add(key)
                cached_ids.append(key)
            else:
                new.append(SimpleNamespace(req_id=key))
            request.status, request.target = Status.RUNNING, request.num_tokens
            request.num_computed_tokens = min(request.cached, request.num_tokens - 1)
            tokens[key] = min(request.num_tokens - request.num_computed_tokens, budget)
            budget -= tokens[key]
            self.running.append(request)
        output.scheduled_new_reqs = new
        output.scheduled_cached_reqs = (
            OldCachedRequests(cached_ids, [key in resumed for key in cached_ids])
            if self.old
            else CachedRequests(cached_ids, resumed)
        )
        output.total_num_scheduled_tokens = sum(tokens.values())
        for key, count in tokens.items():
            self._advance(output, self.requests[key], count)
        output.used = sum(request.num_computed_tokens for request in self.running)
        self.finished_req_ids = set()
        return output

    def _advance(self, output: Output, request: Request, count: int) -> None:
        key, start = request.request_id, request.num_computed_tokens
        stop = start + count
        output.before[key], output.target[key], output.lives[key] = start, request.target, request.lives
        needed = [
            index
            for index, item in enumerate(request.mm_features)
            if isinstance(item, Feature)
            and item.mm_position.offset < stop
            and start < item.mm_position.offset + item.mm_position.length
        ]
        new = [i for i in needed if request.mm_features[i].identifier not in self.encoder_cache]
        self.encoder_cache.update(request.mm_features[i].identifier for i in new)
        if new:
            output.scheduled_encoder_inputs[key] = new
        request.num_computed_tokens = stop
        if self.late and stop >= request.num_tokens + request.placeholders:
            request.placeholders += 1

    def update_from_output(self, scheduler_output: Output, model_runner_output: Any = None) -> None:
        for key, count in scheduler_output.num_scheduled_tokens.items():
            request = self.requests.get(key)
            if request is None or scheduler_output.lives[key] != request.lives:
                continue
            if scheduler_output.before[key] + count < scheduler_output.target[key]:
                continue
            drafted = count - 1 if scheduler_output.before[key] >= scheduler_output.target[key] else 0
            accepted = min(self.accepted.get(key, 0), drafted)
            request.num_computed_tokens -= drafted - accepted
            request.placeholders -= self.late
            request.num_output_tokens += 1 + accepted
            if request.num_output_tokens >= request.max_tokens:
                self.running.remove(request)
                self._free_request(request)


def visual_positions(items: list[Feature]) -> list[int]:
    """Return the prompt positions that images and video fill, by a walk over every position."""
    return sorted(
        item.mm_position.offset + cell
        for item in items
        if item.modality in ("image", "video")
        for cell in range(item.mm_position.length)
        if item.mm_position.is_embed is None or item.mm_position.is_embed[cell]
    )
