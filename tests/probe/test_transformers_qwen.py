"""Records of real `generate` calls on the tiny Qwen2.5-VL, against counts made by hand."""

import functools
import io
from collections.abc import Iterator
from typing import Any

import pytest
from probe_doubles import ListRing

import vtprof_probe
from vtprof_probe import recorder
from vtprof_schemas import names, records

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from PIL import Image  # noqa: E402

from vtprof_analyzer.demo import tiny_model  # noqa: E402

pytestmark = pytest.mark.torch

KV_BYTES = 2 * 4 * 2 * 64 * 4
"""Key and value x 4 layers x 2 KV heads x head size 64 x 4 bytes."""
TEXT = tiny_model.TEMPLATE_TOKENS


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model.build_model()


@pytest.fixture(scope="module")
def processor() -> Any:
    return tiny_model.build_processor()


@pytest.fixture
def ring() -> Iterator[ListRing]:
    ring = ListRing()
    assert vtprof_probe.enable(open_ring=lambda: ring)
    yield ring
    vtprof_probe.disable()
    assert ring.hook_errors == 0


def picture(height: int, width: int) -> Any:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (40, 90, 200)).save(file, format="PNG")
    return Image.open(file)


def inputs_of(processor: Any, *rows: tuple[str, list[Any]]) -> Any:
    prompts = [
        "<|im_start|>user\n"
        + "<|vision_start|><|image_pad|><|vision_end|>" * len(images)
        + text
        + "<|im_end|>\n<|im_start|>assistant\n"
        for text, images in rows
    ]
    nested = [images for _, images in rows]
    return processor(text=prompts, images=nested if any(nested) else None, return_tensors="pt", padding=True)


def generate(model: Any, inputs: Any, tokens: int, **options: Any) -> Any:
    with torch.inference_mode():
        return model.generate(**inputs, max_new_tokens=tokens, min_new_tokens=tokens, **options)


def test_text_only_request_has_every_byte_as_a_text_token(model: Any, processor: Any, ring: ListRing) -> None:
    generate(model, inputs_of(processor, ("hello", [])), 4)
    prompt = ring.one("request_input")
    assert (prompt["input_tokens"], prompt["text_tokens"], prompt["image_tokens"]) == (TEXT + 5, TEXT + 5, 0)
    assert prompt["image_items"] == 0
    assert not ring.of("encode")
    assert ring.one("request_finished")["output_tokens"] == 4


def test_image_request_counts_tokens_patches_and_pairs(model: Any, processor: Any, ring: ListRing) -> None:
    # 56 x 84 pixels: 2 x 3 visual tokens, 4 x 6 patches.
    generate(model, inputs_of(processor, ("ab", [picture(56, 84)])), 3)
    total = TEXT + 2 + 2 + 6
    before = 1 + len("user\n") + 1  # <|im_start|>, its role, <|vision_start|>
    prompt = ring.one("request_input")
    assert (prompt["input_tokens"], prompt["text_tokens"], prompt["image_tokens"]) == (total, total - 6, 6)
    assert prompt["image_items"] == 1
    encode, prefill = ring.one("encode"), ring.one("prefill")
    assert (encode["items"], encode["patches"], encode["attention_pairs"]) == (1, 24, 24**2)
    assert (prefill["tokens"], prefill["visual_tokens"], prefill["context_tokens"], prefill["last"]) == (
        total,
        6,
        0,
        1,
    )
    assert prefill["attention_pairs"] == total * (total + 1) // 2
    assert prefill["visual_attention_pairs"] == sum(before + place for place in range(1, 7))
    assert ring.one("preprocess")["pixels"] == 56 * 84


def test_decode_steps_read_the_prompt_and_what_was_generated(
    model: Any, processor: Any, ring: ListRing
) -> None:
    generate(model, inputs_of(processor, ("ab", [picture(56, 84)])), 3)
    total = TEXT + 10
    steps = ring.of("step")
    assert [step["prefill_tokens"] for step in steps] == [total, 0, 0]
    assert [step["decode_requests"] for step in steps] == [0, 1, 1]
    assert [step["decode_context_tokens"] for step in steps] == [0, total, total + 1]
    assert [step["decode_visual_tokens"] for step in steps] == [0, 6, 6]
    assert [step["kv_used_tokens"] for step in steps] == [total, total + 1, total + 2]
    assert [step["kv_visual_tokens"] for step in steps] == [6, 6, 6]


def test_phases_of_a_request_lie_end_to_end(model: Any, processor: Any, ring: ListRing) -> None:
    generate(model, inputs_of(processor, ("ab", [picture(56, 84)])), 3)
    arrived, ran = ring.one("request_arrived")["time_ns"], ring.one("preprocess")
    queue, steps, encode = ring.one("queue"), ring.of("step"), ring.one("encode")
    assert arrived == ran["start_ns"] < ran["end_ns"] == queue["start_ns"]
    assert queue["end_ns"] == steps[0]["start_ns"]
    assert steps[0]["start_ns"] <= encode["start_ns"] < encode["end_ns"] <= steps[0]["end_ns"]
    assert steps[0]["encode_ns"] == encode["end_ns"] - encode["start_ns"]
    assert [step["end_ns"] for step in steps[:-1]] == [step["start_ns"] for step in steps[1:]]
    assert ring.one("first_token")["time_ns"] == steps[0]["end_ns"]
    assert ring.one("request_finished")["time_ns"] == steps[-1]["end_ns"]


def test_parts_of_a_step_are_written_before_the_step(model: Any, processor: Any, ring: ListRing) -> None:
    generate(model, inputs_of(processor, ("ab", [picture(56, 84)])), 2)
    order = [kind for kind, _ in ring.rows]
    assert order.index("encode") < order.index("prefill") < order.index("step") < order.index("first_token")


def test_several_and_repeated_images_count_each_time(model: Any, processor: Any, ring: ListRing) -> None:
    same = picture(56, 56)
    generate(model, inputs_of(processor, ("x", [same, same, picture(112, 56)])), 2)
    prompt, encode = ring.one("request_input"), ring.one("encode")
    assert (prompt["image_items"], prompt["image_tokens"]) == (3, 4 + 4 + 8)
    assert (encode["items"], encode["patches"]) == (3, 16 + 16 + 32)
    assert encode["attention_pairs"] == 16**2 + 16**2 + 32**2


def test_padded_batch_counts_no_padding(model: Any, processor: Any, ring: ListRing) -> None:
    rows = [("a" * 50, []), ("b", [picture(56, 84)]), ("c", [picture(56, 56), picture(56, 56)])]
    generate(model, inputs_of(processor, *rows), 3)
    prompts = [TEXT + 50, TEXT + 1 + 2 + 6, TEXT + 1 + 4 + 8]
    assert [row["input_tokens"] for row in ring.of("request_input")] == prompts
    assert [row["image_tokens"] for row in ring.of("request_input")] == [0, 6, 8]
    assert [row["image_items"] for row in ring.of("request_input")] == [0, 1, 2]
    assert [row["tokens"] for row in ring.of("prefill")] == prompts
    assert [row["attention_pairs"] for row in ring.of("prefill")] == [n * (n + 1) // 2 for n in prompts]
    assert [row["patches"] for row in ring.of("encode")] == [24, 32]
    assert [row["pixels"] for row in ring.of("preprocess")] == [0, 56 * 84, 2 * 56 * 56]
    steps = ring.of("step")
    assert [step["running"] for step in steps] == [3, 3, 3]
    assert [step["decode_context_tokens"] for step in steps] == [0, sum(prompts), sum(prompts) + 3]
    assert [step["decode_visual_tokens"] for step in steps] == [0, 14, 14]
    assert [row["output_tokens"] for row in ring.of("request_finished")] == [3, 3, 3]


def test_output_ends_at_the_first_end_token_of_each_row(model: Any, processor: Any, ring: ListRing) -> None:
    inputs = inputs_of(processor, ("first", []), ("second row", []))
    free = generate(model, inputs, 6, eos_token_id=None)[:, inputs["input_ids"].shape[1] :]
    ends = int(free[0, 1])
    expected = [row.index(ends) + 1 if ends in row else 6 for row in free.tolist()]
    ring.rows.clear()
    with torch.inference_mode():
        model.generate(**inputs, max_new_tokens=6, eos_token_id=ends)
    assert [row["output_tokens"] for row in ring.of("request_finished")] == expected
    assert min(expected) < 6


def test_kv_bytes_are_read_from_the_cache(model: Any, processor: Any, ring: ListRing) -> None:
    generate(model, inputs_of(processor, ("hello", [])), 2)
    assert ring.info[names.KV_BYTES_PER_TOKEN] == KV_BYTES == 4096
    assert ring.info[names.KV_FIXED_BYTES] == 0
    assert ring.info[names.KV_DTYPE] == ring.info[names.WEIGHTS_DTYPE] == "float32"
    assert ring.info[names.ENGINE_NAME] == "transformers"
    assert ring.info[names.REQUEST_MODEL] == tiny_model.MODEL_NAME
    assert '"model_type": "qwen2_5_vl"' in ring.info[names.MODEL_CONFIG]


def test_chunked_prefill_adds_up_to_the_prompt(model: Any, processor: Any, ring: ListRing) -> None:
    generate(model, inputs_of(processor, ("q" * 60, [])), 2, prefill_chunk_size=32)
    total = TEXT + 60
    chunks = ring.of("prefill")
    assert [chunk["tokens"] for chunk in chunks] == [32, 32, total - 64]
    assert [chunk["context_tokens"] for chunk in chunks] == [0, 32, 64]
    assert [chunk["last"] for chunk in chunks] == [0, 0, 1]
    assert sum(chunk["attention_pairs"] for chunk in chunks) == total * (total + 1) // 2
    assert ring.one("first_token")["time_ns"] == ring.of("step")[2]["end_ns"]


def test_prefix_already_in_the_cache_is_context_and_not_work(
    model: Any, processor: Any, ring: ListRing
) -> None:
    inputs = inputs_of(processor, ("hello", []))
    first = generate(model, inputs, 3, return_dict_in_generate=True)
    cached = first.past_key_values.get_seq_length()
    ring.rows.clear()
    generate(model, {"input_ids": first.sequences}, 2, past_key_values=first.past_key_values)
    whole = first.sequences.shape[1]
    assert cached == whole - 1
    prompt, prefill = ring.one("request_input"), ring.one("prefill")
    assert (prompt["input_tokens"], prompt["cached_tokens"]) == (whole, cached)
    assert (prefill["tokens"], prefill["context_tokens"], prefill["cached_tokens"]) == (1, cached, cached)


def test_error_of_the_model_reaches_the_caller_and_ends_the_request(
    model: Any, processor: Any, ring: ListRing
) -> None:
    def fail(input_ids: Any, scores: Any, **_options: Any) -> Any:
        raise ValueError("the user's own")

    with pytest.raises(ValueError, match="the user's own"):
        generate(model, inputs_of(processor, ("hello", [])), 3, stopping_criteria=[fail])
    finished = ring.one("request_finished")
    assert names.STATUSES[finished["status"]] == names.STATUS_ERROR
    assert finished["output_tokens"] == 0
    generate(model, inputs_of(processor, ("hello", [])), 2)
    assert names.STATUSES[ring.of("request_finished")[1]["status"]] == names.STATUS_OK


def test_interrupt_is_an_abort(model: Any, processor: Any, ring: ListRing) -> None:
    def interrupt(input_ids: Any, scores: Any, **_options: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(model, inputs_of(processor, ("hello", [])), 3, stopping_criteria=[interrupt])
    assert names.STATUSES[ring.one("request_finished")["status"]] == names.STATUS_ABORTED


def test_decoding_of_lazy_images_is_timed_within_preprocess(
    model: Any, processor: Any, ring: ListRing
) -> None:
    generate(model, inputs_of(processor, ("x", [picture(700, 700)])), 1)
    ran = ring.one("preprocess")
    assert 0 < ran["decode_ns"] <= ran["end_ns"] - ran["start_ns"]
    assert ran["cpu_ns"] > 0
    assert ran["fetch_ns"] == ran["cache_hits"] == records.UNKNOWN


def test_chat_template_that_tokenizes_is_one_run_of_the_processor(
    model: Any, processor: Any, ring: ListRing
) -> None:
    content = [{"type": "image", "image": picture(56, 84)}, {"type": "text", "text": "ab"}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
    )  # fmt: skip
    generate(model, inputs, 2)
    assert ring.one("preprocess")["pixels"] == 56 * 84
    assert ring.one("request_input")["input_tokens"] == TEXT + 10


def test_several_sequences_for_one_prompt_are_one_request(model: Any, processor: Any, ring: ListRing) -> None:
    inputs = inputs_of(processor, ("ab", [picture(56, 84)]))
    generate(model, inputs, 3, do_sample=True, num_return_sequences=2)
    assert ring.one("request_finished")["output_tokens"] == 6
    assert ring.one("prefill")["tokens"] == 2 * (TEXT + 10)
    assert ring.one("request_input")["input_tokens"] == TEXT + 10
    assert [step["decode_context_tokens"] for step in ring.of("step")] == [
        0,
        2 * (TEXT + 10),
        2 * (TEXT + 11),
    ]


def test_assistant_model_is_not_counted_twice(model: Any, processor: Any, ring: ListRing) -> None:
    generate(model, inputs_of(processor, ("hello hello hello", [])), 4, prompt_lookup_num_tokens=2)
    assert ring.one("request_finished")["output_tokens"] == 4
    assert len(ring.of("first_token")) == 1
    assert sum(step["prefill_tokens"] for step in ring.of("step")) == TEXT + 17


@pytest.mark.parametrize("options", [{}, {"prompt_lookup_num_tokens": 3}, {"num_beams": 2}])
def test_context_of_decode_steps_is_the_caches_own_length(
    model: Any, processor: Any, monkeypatch: pytest.MonkeyPatch, options: dict[str, int]
) -> None:
    plain, lengths, columns = type(model).forward, [], []

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        lengths.append(kwargs["past_key_values"].get_seq_length())
        columns.append(kwargs["input_ids"].shape[1])
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(type(model), "forward", functools.wraps(plain)(watched))
    ring = ListRing()
    vtprof_probe.enable(open_ring=lambda: ring)
    try:
        # Tokens that repeat: some drafts are accepted, others are cut off the cache again, one before a plain step.
        generate(model, inputs_of(processor, ("hello hello hello", [])), 24, **options)
    finally:
        vtprof_probe.disable()
    beams = options.get("num_beams", 1)
    assert len(lengths) > 4
    assert [step["decode_context_tokens"] for step in ring.of("step")] == [
        beams * length for length in lengths
    ]
    computed = [step["decode_tokens"] for step in ring.of("step")]
    assert computed == [0, *(columns[1:] if beams == 1 else [-1] * (len(lengths) - 1))]
    assert "prompt_lookup_num_tokens" not in options or max(columns[1:]) > 1, "nothing was drafted"


def test_forward_outside_generate_is_a_step_without_requests(
    model: Any, processor: Any, ring: ListRing
) -> None:
    inputs = inputs_of(processor, ("ab", [picture(56, 84)]))
    with torch.inference_mode():
        model(**inputs)
    step = ring.one("step")
    assert (step["prefill_tokens"], step["decode_requests"]) == (TEXT + 10, 0)
    assert step["encode_ns"] > 0
    assert not ring.of("request_arrived")


def test_detail_zero_keeps_phases_and_leaves_decode_steps_out(
    model: Any, processor: Any, ring: ListRing
) -> None:
    ring.word = (0, False)
    generate(model, inputs_of(processor, ("ab", [picture(56, 84)])), 4)
    assert [step["prefill_tokens"] for step in ring.of("step")] == [TEXT + 10]
    assert ring.one("request_finished")["output_tokens"] == 4


def test_detach_restores_everything_and_the_call_goes_on(model: Any, processor: Any, ring: ListRing) -> None:
    inputs = inputs_of(processor, ("hello", []))
    ring.word = (3, True)
    assert generate(model, inputs, 3).shape[1] == TEXT + 8
    assert not vtprof_probe.enabled()
    assert ring.closed


def test_detach_is_heeded_between_two_steps(
    model: Any, processor: Any, ring: ListRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "CONTROL_INTERVAL_NS", 0)

    def ask(input_ids: Any, scores: Any, **_options: Any) -> Any:
        ring.word = (3, input_ids.shape[1] >= TEXT + 5 + 2)
        return torch.zeros(1, dtype=torch.bool)

    assert (
        generate(model, inputs_of(processor, ("hello", [])), 5, stopping_criteria=[ask]).shape[1] == TEXT + 10
    )
    assert not vtprof_probe.enabled()
    assert len(ring.of("step")) == 1


def test_context_names_requests_and_keeps_the_callers_trace(
    model: Any, processor: Any, ring: ListRing
) -> None:
    header = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    with vtprof_probe.request(id="cmpl-81", traceparent=header, arrived_ns=5):
        generate(model, inputs_of(processor, ("hello", [])), 1)
    assert ring.one("request_label")["text"] == b"cmpl-81"
    assert ring.one("request_parent")["trace_id"].hex() == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert ring.one("request_arrived")["time_ns"] == ring.one("preprocess")["start_ns"] == 5


def test_disable_restores_every_attribute_exactly(model: Any, processor: Any) -> None:
    import transformers
    from PIL import ImageFile

    owners = [
        transformers.ProcessorMixin,
        transformers.PreTrainedModel,
        transformers.GenerationMixin,
        ImageFile.ImageFile,
    ]
    owners += [*type(model).__mro__[:3], *type(model.model).__mro__[:3], *type(processor).__mro__[:3]]
    before = [dict(vars(owner)) for owner in owners]
    vtprof_probe.enable(open_ring=ListRing)
    changed = [dict(vars(owner)) for owner in owners]
    assert changed != before
    assert vtprof_probe.disable()
    for owner, attributes in zip(owners, before, strict=True):
        assert {k: v for k, v in vars(owner).items() if k in attributes} == attributes
        assert set(vars(owner)) == set(attributes)
