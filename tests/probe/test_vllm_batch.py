"""The incremental sums of vLLM's batch are those of a walk over all of its requests, whatever the scheduler does."""

import random
from types import SimpleNamespace

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from vllm_scheduler_doubles import Feature, Output, Place, Request, Scheduler, visual_positions

from vtprof_probe.engines.vllm_batch import Batch
from vtprof_probe.engines.vllm_composition import Composition
from vtprof_probe.engines.vllm_positions import read_positions
from vtprof_probe.engines.vllm_shared import number

FEATURES = st.lists(
    st.tuples(
        st.integers(0, 6), st.integers(1, 9), st.sampled_from(["image", "video", "audio"]), st.booleans()
    ),
    max_size=4,
)


def features(drawn: list[tuple[int, int, str, bool]]) -> list[Feature]:
    """Return items one behind the other: (gap before, length, modality, whether every third position is text)."""
    items, position = [], 0
    for index, (gap, length, modality, masked) in enumerate(drawn):
        mask = [cell % 3 != 1 for cell in range(length)] if masked else None
        items.append(Feature(Place(position + gap, length, mask), modality, f"{modality}-{index}-{length}"))
        position += gap + length
    return items


@given(FEATURES, st.integers(0, 60), st.integers(0, 60))
def test_positions_count_what_a_walk_over_the_prompt_counts(drawn: list, one: int, other: int) -> None:
    start, stop = sorted((one, other))
    items = features(drawn)
    positions = read_positions(items)
    queries = [position for position in visual_positions(items) if start <= position < stop]

    (some, some_pairs), (more, more_pairs) = positions.visual_before(start), positions.visual_before(stop)
    assert more - some == len(queries)
    # A query at position p sees itself and the p tokens before it.
    assert more_pairs - some_pairs == sum(position + 1 for position in queries)


def test_masks_that_overlap_in_range_are_told_apart() -> None:
    # Audio within a video: both ranges are 0..6, and each position belongs to one of them.
    video = Feature(Place(0, 6, [True, True, False, False, True, True]), "video")
    audio = Feature(Place(0, 6, [False, False, True, True, False, False]), "audio")
    positions = read_positions([video, audio])
    assert positions.visual_before(6)[0] == 4
    # The chunk 2..4 holds nothing of the video, so only the audio is needed for it.
    assert positions.first_needed(2, 4, ()) == 1
    assert positions.first_needed(0, 6, ()) == 1


def test_torch_masks_are_read_like_lists() -> None:
    torch = pytest.importorskip("torch")
    mask = torch.tensor([False, True, True, False, True])
    assert read_positions([Feature(Place(10, 5, mask))]).visual_before(15)[0] == 3


def check(made: Composition, output: Output, scheduler: Scheduler, held: dict[str, list[int]]) -> None:
    """Compare a step with a walk over all requests; ``held`` are the visual positions of each."""
    decodes = {key: at for key, at in output.before.items() if at >= output.target[key]}
    assert made.decode_requests == len(decodes)
    assert made.decode_tokens == sum(output.num_scheduled_tokens[key] for key in decodes)
    assert made.decode_context == sum(decodes.values())
    assert made.decode_visual == sum(len([p for p in held[key] if p < at]) for key, at in decodes.items())
    chunks = {chunk.request: chunk for chunk in made.chunks}
    assert len(chunks) == len(made.chunks) == len(output.before) - len(decodes)
    for key, start in output.before.items():
        if key in decodes:
            continue
        chunk = chunks[number(key)]
        stop = start + output.num_scheduled_tokens[key]
        queries = [position for position in held[key] if start <= position < stop]
        assert (chunk.tokens, chunk.context_tokens) == (stop - start, start)
        assert chunk.attention_pairs == sum(range(start + 1, stop + 1))
        assert chunk.visual_tokens == len(queries)
        assert chunk.visual_attention_pairs == sum(position + 1 for position in queries)
        assert chunk.last == (stop >= output.target[key])
    assert made.kv_tokens == output.used
    assert made.kv_visual == sum(
        len([p for p in held[request.request_id] if p < request.num_computed_tokens])
        for request in scheduler.running
    )
    assert sorted(made.preempted) == sorted(number(key) for key in output.preempted)


@settings(max_examples=120, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@example(28060, True, True, False, 10)  # attached at the last token of a prompt that is done again
@given(st.integers(0, 2**32), st.booleans(), st.booleans(), st.booleans(), st.integers(0, 12))
def test_sums_are_those_of_a_walk(seed: int, late: bool, old: bool, drafting: bool, attached_at: int) -> None:
    """Random arrivals, aborts, preemptions, stalls and drafts; the batch is watched from any step on."""
    dice = random.Random(seed)
    scheduler = Scheduler(budget=dice.choice([7, 16, 64]), seats=dice.choice([2, 6]), late=late, old=old)
    batch, held, flying = Batch(), {}, {}
    drafting = drafting and not late
    for step in range(1, 60):
        if dice.random() < 0.5:
            items = features([(dice.randrange(4), dice.randrange(1, 9), "image", False) for _ in range(2)])
            key = f"r{step}"
            request = Request(
                key, dice.randrange(24, 40), items, dice.randrange(1, 9), dice.choice([0, 5, 19])
            )
            held[key] = visual_positions(items)
            scheduler.add_request(request)
            if step > attached_at:
                batch.arrive(key, step, request)
        if scheduler.requests and dice.random() < 0.1:
            key = dice.choice(sorted(scheduler.requests))
            scheduler.finish_requests(key)
            batch.leave(key)
        names = [request.request_id for request in scheduler.running]
        scheduler.preempt = {key for key in names if step != attached_at + 1 and dice.random() < 0.04}
        scheduler.stall = {key for key in names if dice.random() < 0.1}
        scheduler.drafts = {key: dice.randrange(3) for key in names} if drafting else {}
        scheduler.accepted = {key: dice.randrange(3) for key in names}
        output = scheduler.schedule()
        if output.total_num_scheduled_tokens:
            if step == attached_at + 1:
                for key, at in output.before.items():
                    # The one last token of a prefill that is done again looks like a decode, and is the same work.
                    request = scheduler.requests[key]
                    if output.lives[key] and request.num_prompt_tokens <= at == request.num_tokens - 1:
                        output.target[key] = at
            if step > attached_at:
                made = batch.step(step, output, scheduler.requests, scheduler.running, flying.keys())
                check(made, output, scheduler, held)
            flying[step] = output
        elif output.preempted:
            # Who is preempted by a schedule of nothing is met again later: not what this test is about.
            for key in output.preempted:
                scheduler.finish_requests(key)
                batch.leave(key)
        if flying and (len(flying) > late or not output.total_num_scheduled_tokens):
            before = set(scheduler.requests)
            scheduler.update_from_output(flying.pop(min(flying)))
            for key in before - set(scheduler.requests):
                batch.leave(key)
    assert batch.recounts == 0


def decoding(count: int) -> tuple[Scheduler, Batch]:
    """Return a scheduler and its batch with this many sequences in decode, each with 3 tokens cached."""
    scheduler, batch = Scheduler(budget=1000, seats=count), Batch()
    for index in range(count):
        request = Request(f"r{index}", 3, max_tokens=100)
        scheduler.add_request(request)
        batch.arrive(f"r{index}", index, request)
    output = scheduler.schedule()
    batch.step(1, output, scheduler.requests, scheduler.running, set())
    scheduler.update_from_output(output)
    return scheduler, batch


def test_a_pure_decode_step_walks_nothing() -> None:
    scheduler, batch = decoding(5)
    output = scheduler.schedule()

    class Counting(dict):
        looked = 0

        def __getitem__(self, key: str) -> Request:
            Counting.looked += 1
            return super().__getitem__(key)

    made = batch.step(2, output, Counting(scheduler.requests), scheduler.running, set())
    assert (made.decode_requests, made.decode_context, made.kv_tokens) == (5, 15, 20)
    assert Counting.looked == 1, "one sequence is compared with the engine"


def test_a_context_that_the_engine_changed_is_recounted_and_counted() -> None:
    scheduler, batch = decoding(3)
    for step in range(2, 6):
        if step == 3:
            scheduler.requests["r1"].num_computed_tokens -= 2
            scheduler.requests["r1"].num_prompt_tokens -= 2
        output = scheduler.schedule()
        made = batch.step(step, output, scheduler.requests, scheduler.running, set())
        scheduler.update_from_output(output)
    assert batch.recounts == 1, "in three steps each of three sequences is compared once"
    # Three contexts of 3 before step 2, 6 after it, one of them less 2: before step 5.
    assert (made.decode_context, made.kv_tokens) == (3 * 6 - 2, 3 * 7 - 2)


def test_tokens_to_be_computed_again_are_seen_at_once() -> None:
    scheduler, batch = decoding(3)
    # The KV of two tokens could not be loaded: the engine gives the request three tokens in the next step.
    scheduler.requests["r1"].num_computed_tokens -= 2
    output = scheduler.schedule()
    made = batch.step(2, output, scheduler.requests, scheduler.running, set())
    assert (made.decode_requests, made.decode_context, made.kv_tokens) == (3, 3 + 1 + 3, 12)


def test_a_request_that_nobody_announced_is_taken_up() -> None:
    scheduler, batch = decoding(2)
    scheduler.seats = 3
    scheduler.add_request(Request("new", 4))
    output = scheduler.schedule()
    made = batch.step(2, output, scheduler.requests, scheduler.running, set())
    assert [chunk.request for chunk in made.chunks] == [number("new")]
    assert (made.decode_requests, made.decode_context) == (2, 6)


def test_an_output_of_requests_that_do_not_exist_is_refused_and_the_next_one_is_right() -> None:
    scheduler, batch = decoding(2)
    output = scheduler.schedule()
    output.num_scheduled_tokens["ghost"] = 1
    output.total_num_scheduled_tokens += 1
    with pytest.raises(RuntimeError):
        batch.step(2, output, scheduler.requests, scheduler.running, set())
    del output.num_scheduled_tokens["ghost"]
    scheduler.update_from_output(output)
    output = scheduler.schedule()
    made = batch.step(3, output, scheduler.requests, scheduler.running, set())
    assert (made.decode_requests, made.decode_context) == (2, 8)


def test_reset_of_running_requests_outside_of_schedule_is_a_preemption() -> None:
    scheduler, batch = decoding(2)
    scheduler._preempt_request(scheduler.requests["r0"])
    output = scheduler.schedule()
    made = batch.step(2, output, scheduler.requests, scheduler.running, set())
    assert made.preempted == [number("r0")]
    # Three tokens of its prompt and the one generated are prefill again.
    assert [(chunk.tokens, chunk.cached_tokens, chunk.last) for chunk in made.chunks] == [(4, 0, 1)]
    assert (made.decode_requests, made.decode_context) == (1, 3)


def test_a_session_that_goes_on_with_more_input_is_in_prefill_for_the_new_part() -> None:
    scheduler, batch = decoding(2)
    session = scheduler.requests["r0"]
    # Its turn ended; the next input comes: five tokens more, of which two are an image.
    scheduler.running.remove(session)
    scheduler.queue.append(session)
    session.num_prompt_tokens, session.num_output_tokens, session.cached = 8, 0, 3
    session.status = type(session.status).WAITING
    session.mm_features.append(Feature(Place(4, 2)))
    output = scheduler.schedule()
    made = batch.step(2, output, scheduler.requests, scheduler.running, set())
    assert made.preempted == []
    (chunk,) = made.chunks
    assert (chunk.tokens, chunk.context_tokens, chunk.visual_tokens) == (5, 3, 2)


def test_media_of_encoder_decoder_models_are_in_no_position_of_the_prompt() -> None:
    scheduler, batch = Scheduler(), Batch(has_decoder_media=False)
    scheduler.add_request(Request("r0", 4, [Feature(Place(0, 1500), "image")]))
    output = scheduler.schedule()
    (chunk,) = batch.step(1, output, scheduler.requests, scheduler.running, set()).chunks
    assert (chunk.tokens, chunk.visual_tokens) == (4, 0)


def test_media_that_cannot_be_read_are_counted_and_the_prompt_is_text() -> None:
    scheduler, batch = Scheduler(), Batch()
    scheduler.add_request(Request("r0", 4, [SimpleNamespace(modality="image")]))
    output = scheduler.schedule()
    (chunk,) = batch.step(1, output, scheduler.requests, scheduler.running, set()).chunks
    assert (chunk.tokens, chunk.visual_tokens, batch.unread) == (4, 0, 1)
