"""What is said of a vLLM engine: KV bytes follow from its cache's layout, settings are the allow-listed ones."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from vllm_config_doubles import (
    EncoderOnlyAttentionSpec,
    FullAttentionSpec,
    MambaSpec,
    MLAAttentionSpec,
    SlidingWindowSpec,
    Tensor,
    kv_config,
    vllm_config,
)

from vtprof_probe.engines.vllm_info import data_parallel_rank, describe_engine, kv_info, model_info, settings
from vtprof_schemas import names

# Keys and values x 2 heads x 64 values x 2 bytes x 16 tokens.
PAGE = 2 * 2 * 64 * 2 * 16


def described(config: Any, kv: Any) -> dict[str, Any]:
    def fault() -> None:
        pytest.fail("a part could not be read")

    return describe_engine(SimpleNamespace(vllm_config=config, kv_cache_config=kv), fault)


def test_a_plain_engine() -> None:
    info = described(vllm_config(), kv_config((FullAttentionSpec(16, PAGE), 4)))
    assert info[names.KV_BYTES_PER_TOKEN] == 4 * PAGE // 16 == 2048
    assert (info[names.KV_BLOCK_TOKENS], info[names.KV_CAPACITY_TOKENS]) == (16, 1600)
    assert (info[names.KV_FIXED_BYTES], info[names.KV_DTYPE]) == (0, "bfloat16")
    assert (info[names.REQUEST_MODEL], info[names.WEIGHTS_DTYPE]) == ("tiny", "bfloat16")
    assert json.loads(info[names.MODEL_CONFIG])["hidden_size"] == 256
    sizes = (names.PARALLEL_TP, names.PARALLEL_PP, names.PARALLEL_DP, names.PARALLEL_EP)
    assert [info[size] for size in sizes] == [1, 1, 1, 1]
    assert info[names.DEVICE_KIND] == "cpu"
    assert all(key in names.ATTRIBUTES for key in info)


def test_a_token_lies_on_all_tensor_parallel_ranks_of_all_stages() -> None:
    config = vllm_config(tensor_parallel_size=4, pipeline_parallel_size=2)
    info = kv_info(config, kv_config((MLAAttentionSpec(16, 1600), 3)))
    assert info[names.KV_BYTES_PER_TOKEN] == 3 * 100 * 4 * 2
    assert info[names.KV_CAPACITY_TOKENS] == 1600


def test_decode_context_parallelism_spreads_tokens_over_the_ranks() -> None:
    config = vllm_config(tensor_parallel_size=4, decode_context_parallel_size=2)
    info = kv_info(config, kv_config((FullAttentionSpec(16, 1600), 3)))
    assert info[names.KV_BYTES_PER_TOKEN] == 3 * 100 * 4 // 2
    assert (info[names.KV_BLOCK_TOKENS], info[names.KV_CAPACITY_TOKENS]) == (32, 3200)


def test_windows_and_states_are_bytes_of_a_sequence() -> None:
    groups = (
        (FullAttentionSpec(16, PAGE), 2),
        (SlidingWindowSpec(16, PAGE, sliding_window=100), 2),
        (MambaSpec(16, 5000), 3),
        (EncoderOnlyAttentionSpec(16, PAGE), 1),
    )
    info = kv_info(vllm_config(tensor_parallel_size=2), kv_config(*groups))
    assert info[names.KV_BYTES_PER_TOKEN] == 2 * PAGE // 16 * 2
    # A window of 100 tokens takes 7 blocks of 16.
    assert info[names.KV_FIXED_BYTES] == (2 * 7 * PAGE + 3 * 5000) * 2
    # Four groups take their blocks from one pool of 100.
    assert info[names.KV_CAPACITY_TOKENS] == 25 * 16


def test_layers_of_one_group_that_differ_are_measured_by_what_was_allocated() -> None:
    tensors = (Tensor(100 * PAGE), Tensor(100 * 3 * PAGE))
    info = kv_info(vllm_config(), kv_config((FullAttentionSpec(16, PAGE), 2), tensors=tensors))
    assert info[names.KV_BYTES_PER_TOKEN] == 4 * PAGE // 16


def test_layers_named_one_by_one() -> None:
    spec = SimpleNamespace(
        kv_cache_specs={"a": FullAttentionSpec(16, PAGE), "b": FullAttentionSpec(16, 2 * PAGE)}
    )
    info = kv_info(vllm_config(), kv_config((spec, 2)))
    assert info[names.KV_BYTES_PER_TOKEN] == 3 * PAGE // 16


def test_a_cache_in_fp8_is_called_so() -> None:
    config = vllm_config()
    config.cache_config.cache_dtype = "fp8_e4m3"
    assert kv_info(config, kv_config((FullAttentionSpec(16, PAGE), 1)))[names.KV_DTYPE] == "fp8_e4m3"


def test_an_engine_without_full_attention_says_no_tokens() -> None:
    info = kv_info(vllm_config(), kv_config((MambaSpec(16, 5000), 3)))
    assert info[names.KV_BYTES_PER_TOKEN] == 0
    assert names.KV_CAPACITY_TOKENS not in info


def test_settings_are_those_of_the_list_that_are_there() -> None:
    config = vllm_config()
    config.scheduler_config.secret = "no"
    config.compilation_config = SimpleNamespace(cudagraph_mode=SimpleNamespace(name="NONE"))
    config.parallel_config.distributed_executor_backend = type("RayExecutor", (), {})
    assert settings(config) == {
        "max_num_batched_tokens": 2048,
        "max_num_seqs": 16,
        "async_scheduling": False,
        "max_model_len": 4096,
        "enforce_eager": True,
        "enable_prefix_caching": True,
        "mm_encoder_tp_mode": "data",
        "mm_processor_cache_gb": 4.0,
        "cudagraph_mode": "NONE",
        "distributed_executor_backend": "RayExecutor",
        "mm_processor_device": "cpu",
    }


@pytest.mark.parametrize(
    ("arguments", "device"),
    [(None, "cpu"), ({"max_pixels": 1}, "cpu"), ({"device": "cuda:1"}, "cuda"), ({"device": "cuda"}, "cuda")],
)
def test_where_images_are_processed_and_by_how_many_servers(
    arguments: dict[str, Any] | None, device: str
) -> None:
    config = vllm_config(_api_process_count=3)
    config.model_config.renderer_num_workers = 2
    config.model_config.multimodal_config.mm_processor_kwargs = arguments
    found = settings(config)
    assert (found["mm_processor_device"], found["api_server_count"], found["renderer_num_workers"]) == (
        device,
        3,
        2,
    )
    config.model_config.multimodal_config = None
    assert "mm_processor_device" not in settings(config), "a model of text alone has no such processor"


def test_a_model_served_by_its_path_is_named_without_it() -> None:
    model = vllm_config().model_config
    model.served_model_name = "/srv/models/private/tiny/"
    assert model_info(model)[names.REQUEST_MODEL] == "tiny"


@pytest.mark.parametrize(
    ("known", "rank"), [({"data_parallel_index": 2, "data_parallel_rank": 0}, 2), ({}, 0)]
)
def test_the_engine_of_a_server_is_told_by_its_index(known: dict[str, int], rank: int) -> None:
    assert data_parallel_rank(SimpleNamespace(**known)) == rank


def test_a_part_that_cannot_be_read_is_counted_and_the_others_are_there() -> None:
    config = vllm_config()
    del config.model_config.hf_config
    faults: list[int] = []
    scheduler = SimpleNamespace(
        vllm_config=config, kv_cache_config=kv_config((FullAttentionSpec(16, PAGE), 1))
    )
    info = describe_engine(scheduler, lambda: faults.append(1))
    assert len(faults) == 1
    assert info[names.PARALLEL_TP] == 1
