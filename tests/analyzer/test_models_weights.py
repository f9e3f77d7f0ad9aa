"""Bytes of stored weights in every quantised format, and the parts that a format leaves alone."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtprof_analyzer.cost.capacity import weights_bytes
from vtprof_analyzer.cost.work import Precision
from vtprof_analyzer.models.quantizers import _READERS
from vtprof_analyzer.models.registry import load_spec
from vtprof_analyzer.models.weights import Quantization, canonical_dtype, dtype_bytes, quantization
from vtprof_schemas.errors import DataError


def compressed(
    weights: dict[str, Any], ignore: list[str], inputs: dict[str, Any] | None = None
) -> dict[str, Any]:
    group = {
        "targets": ["Linear"],
        "weights": weights,
        "input_activations": inputs,
        "output_activations": None,
    }
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}, "ignore": ignore}


INT4_GROUPS = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128, "symmetric": True}
FLOAT8_ROWS = {"num_bits": 8, "type": "float", "strategy": "channel", "group_size": None, "symmetric": True}
INT8_ROWS = {**FLOAT8_ROWS, "type": "int"}
NVFP4 = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16, "symmetric": True}
ALL = ("vision", "audio", "head")
# Sections as the checkpoints on the hub have them; bits of a weight with its scales, by hand.
SECTIONS: dict[str, tuple[dict[str, Any], float, tuple[str, ...], str | None]] = {
    # 4 bits; a 16-bit scale and a packed 4-bit zero point for 128 weights.
    "gptq": ({"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True}, 4 + 20 / 128, ALL, None),
    "gptq rows": ({"quant_method": "gptq", "bits": 8, "group_size": -1}, 8, ALL, None),
    "gptq with head": ({"quant_method": "gptq", "bits": 4, "lm_head": True}, 4 + 20 / 128, ("vision", "audio"), None),
    "awq": (
        {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "modules_to_not_convert": ["visual"]},
        4 + 20 / 128, ALL, None,
    ),
    "awq as first written": ({"quant_method": "awq", "w_bit": 4, "q_group_size": 64}, 4 + 20 / 64, ALL, None),
    "auto-round": ({"quant_method": "auto-round", "bits": 2, "group_size": 32}, 2 + 18 / 32, ALL, None),
    # NF4: a float32 scale for 64 weights.
    "nf4": (
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, 4 + 32 / 64, ("head",), None,
    ),
    # Doubly quantised: an 8-bit scale for 64 weights, a float32 one for 256 of these.
    "nf4 double": (
        {"load_in_4bit": True, "bnb_4bit_use_double_quant": True, "llm_int8_skip_modules": ["lm_head", "vision_tower"]},
        4 + 8 / 64 + 32 / 64 / 256, ("vision", "head"), None,
    ),
    "llm.int8": ({"quant_method": "bitsandbytes", "load_in_8bit": True, "load_in_4bit": False}, 8, ("head",), "int8"),
    # One float32 scale for a block of 128 x 128.
    "fp8 blocks": (
        {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128], "activation_scheme": "dynamic",
         "modules_to_not_convert": ["model.visual.blocks.0.attn.proj", "lm_head"]},
        8 + 32 / 16384, ("vision", "head"), "float8",
    ),
    "fp8 whole matrices": ({"quant_method": "fp8", "ignored_layers": ["lm_head"]}, 8, ("head",), "float8"),
    "fbgemm": ({"quant_method": "fbgemm_fp8", "modules_to_not_convert": ["vision_model"]}, 8, ("vision", "head"), "float8"),
    "w4a16": (compressed(INT4_GROUPS, ["re:.*lm_head", "re:visual.*"]), 4 + 16 / 128, ("vision", "head"), None),
    "w4a16 asymmetric": (compressed({**INT4_GROUPS, "symmetric": False}, ["lm_head"]), 4 + 20 / 128, ("head",), None),
    "w8a8 float": (
        compressed(FLOAT8_ROWS, ["re:.*lm_head", "re:vision_model.*"], {"num_bits": 8, "type": "float"}),
        8, ("vision", "head"), "float8",
    ),
    "w8a8 integer": (compressed(INT8_ROWS, [], {"num_bits": 8, "type": "int"}), 8, (), "int8"),
    "w8 blocks": (
        compressed({"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [128, 128]}, ["lm_head"]),
        8 + 32 / 16384, ("head",), None,
    ),
    # NVFP4: an 8-bit scale for 16 weights.
    "nvfp4": (compressed(NVFP4, ["lm_head"], {"num_bits": 4, "type": "float"}), 4.5, ("head",), "float4"),
    "nvfp4 weights": (compressed(NVFP4, ["lm_head"]), 4.5, ("head",), None),
    "modelopt nvfp4": (
        {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16, "ignore": ["lm_head", "model.vision_tower*"]},
        4.5, ("vision", "head"), "float4",
    ),
    "modelopt fp8": ({"quant_algo": "FP8", "exclude_modules": ["lm_head"]}, 8, ("head",), "float8"),
    "modelopt nested": ({"quantization": {"quant_algo": "w4a16_awq", "group_size": 64}}, 4 + 16 / 64, (), None),
    # MXFP4: an 8-bit exponent for 32 weights; routed experts alone are converted.
    "mxfp4": ({"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]}, 4.25, ALL, None),
    "mxfp8": ({"quant_method": "mxfp8"}, 8.25, ("head",), "float8"),
    "torchao old": (
        {"quant_method": "torchao", "quant_type": "int4_weight_only", "quant_type_kwargs": {"group_size": 64}},
        4 + 32 / 64, ("head",), None,
    ),
    "torchao": (
        {"quant_method": "torchao",
         "quant_type": {"default": {"_type": "Int8DynamicActivationInt4WeightConfig", "_data": {"group_size": 32}}}},
        5, ("head",), "int8",
    ),
    "torchao float8": (
        {"quant_method": "torchao", "quant_type": {"default": {"_type": "Float8WeightOnlyConfig", "_data": {}}}},
        8, ("head",), None,
    ),
    "torchao by type": (
        {"quant_method": "torchao",
         "quant_type": {"default": {"_type": "IntxWeightOnlyConfig", "_data": {
             "weight_dtype": {"_type": "torch.dtype", "_data": "int3"}, "group_size": 32}}}},
        3 + 32 / 32, ("head",), None,
    ),
    "hqq": (
        {"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4, "group_size": 64}}},
        4.5, ("head",), None,
    ),
    "hqq by layer": (
        {"quant_method": "hqq",
         "quant_config": {"self_attn.q_proj": {"weight_quant_params": {"nbits": 3, "group_size": 32}}}},
        4, ("head",), None,
    ),
    "quanto": ({"quant_method": "quanto", "weights": "int4"}, 4.25, ("head",), None),
    "quanto int8": (
        {"quant_method": "quanto", "weights": "int8", "modules_to_not_convert": ["audio_tower"]}, 8, ("audio",), None,
    ),
    "quark": (
        {"quant_method": "quark", "exclude": ["lm_head"],
         "global_quant_config": {"weight": {"dtype": "fp8_e4m3"}, "input_tensors": {"dtype": "fp8_e4m3"}}},
        8, ("head",), "float8",
    ),
    # Two codebooks of 8 bits for 8 weights.
    "aqlm": (
        {"quant_method": "aqlm", "num_codebooks": 2, "nbits_per_codebook": 8, "in_group_size": 8}, 2, ("head",), None,
    ),
    "eetq": ({"quant_method": "eetq"}, 8, ("head",), None),
}  # fmt: skip


@pytest.mark.parametrize("name", SECTIONS)
def test_bytes_of_a_weight_with_its_scales(name: str) -> None:
    section, bits, kept, arithmetic = SECTIONS[name]
    found = quantization(section)
    assert found is not None
    assert found.bytes_per_param == pytest.approx(bits / 8, abs=1e-12)
    assert (set(found.kept), found.compute_dtype) == (set(kept), arithmetic)


@pytest.mark.parametrize(
    "section",
    [
        None,
        {},
        {"quant_method": "bitsandbytes", "load_in_8bit": False, "load_in_4bit": False},
        # Only the cache is quantised.
        {"quant_method": "compressed-tensors", "kv_cache_scheme": {"num_bits": 8, "type": "float"}},
        {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"targets": ["Attention"]}}},
    ],
)
def test_weights_that_are_not_quantised(section: Any) -> None:
    assert quantization(section) is None


@pytest.mark.parametrize(
    ("section", "field"),
    [
        ([], "quantization_config"),
        ("gptq", "quantization_config"),
        ({"bits": 4}, "quant_method"),
        ({"quant_method": "magic"}, "quant_method"),
        ({"quant_method": 4}, "quant_method"),
        ({"quant_method": "gptq"}, "bits"),
        ({"quant_method": "gptq", "bits": 0}, "bits"),
        ({"quant_method": "gptq", "bits": 64}, "bits"),
        ({"quant_method": "gptq", "bits": 4, "group_size": "all"}, "group_size"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": 1}, "load_in_4bit"),
        ({"quant_method": "fp8", "weight_block_size": [128]}, "weight_block_size"),
        ({"quant_method": "fp8", "weight_block_size": [0, 128]}, "weight_block_size"),
        ({"quant_method": "fp8", "modules_to_not_convert": "lm_head"}, "modules_to_not_convert"),
        ({"quant_method": "fp8", "modules_to_not_convert": [1]}, "modules_to_not_convert"),
        ({"quant_method": "modelopt", "quant_algo": "INT3"}, "quant_algo"),
        ({"quant_method": "modelopt"}, "quant_algo"),
        ({"quant_method": "torchao", "quant_type": "best"}, "quant_type"),
        ({"quant_method": "torchao"}, "quant_type"),
        ({"quant_method": "quanto", "weights": "int3"}, "weights"),
        ({"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "bf16"}}}, "dtype"),
        ({"quant_method": "aqlm", "num_codebooks": 2**39}, "nbits_per_codebook"),
        (
            {"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"num_bits": 99}}}},
            "num_bits",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"g": {"targets": True, "weights": {"num_bits": 4}}},
            },
            "targets",
        ),
    ],
)
def test_a_section_at_fault_is_one_line_with_the_field(section: Any, field: str) -> None:
    with pytest.raises(DataError) as caught:
        quantization(section)
    assert field in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


ODD = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=5),
        st.sampled_from(["int4", "fp8", "NVFP4"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
KEYS = sorted(
    {key for section, *_ in SECTIONS.values() for key in section} | {"config_groups", "quant_config"}
)


@given(st.sampled_from(sorted(_READERS)), st.dictionaries(st.sampled_from(KEYS), ODD, max_size=5))
def test_any_section_gives_sizes_or_one_line(method: str, section: dict[str, Any]) -> None:
    try:
        found = quantization({"quant_method": method, **section})
    except DataError as error:
        assert "\n" not in str(error)
    else:
        assert found is None or 0 < found.bytes_per_param <= 8


def test_a_model_keeps_what_its_config_says_of_its_weights() -> None:
    section = {"quant_method": "awq", "bits": 4, "group_size": 128}
    spec = load_spec({"model_type": "llama", "torch_dtype": "float16", "quantization_config": section})
    assert spec.quantization == Quantization("awq", 4, 128, 20, ALL)
    assert spec.dtype == "float16"


@pytest.mark.parametrize(
    ("sizes", "published_gigabytes"),
    [
        # The files of Llama-2-7B and Llama-3-8B in AWQ as hosted, embedding and head in 16 bit.
        ({"intermediate_size": 11008, "num_key_value_heads": 32, "vocab_size": 32000}, 3.89),
        ({"intermediate_size": 14336, "num_key_value_heads": 8, "vocab_size": 128256}, 5.73),
    ],
)
def test_bytes_of_a_quantised_model_are_those_of_its_files(
    sizes: dict[str, Any], published_gigabytes: float
) -> None:
    section = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}
    spec = load_spec(
        {"model_type": "llama", **sizes, "torch_dtype": "float16", "quantization_config": section}
    )
    precision = Precision.of(spec.dtype, None, spec.quantization)
    assert precision is not None
    assert weights_bytes(spec, precision) / 1e9 == pytest.approx(published_gigabytes, abs=0.005)


def test_names_of_data_types() -> None:
    assert [canonical_dtype(name) for name in ("torch.bfloat16", "BF16", "float8_e4m3fn", "nvfp4", "complex64")] == [
        "bfloat16", "bfloat16", "float8", "float4", None,
    ]  # fmt: skip
    assert (dtype_bytes("fp8"), dtype_bytes("int4"), dtype_bytes(None)) == (1.0, 0.5, None)
