"""What a ``quantization_config`` says of stored weights: bits, groups that share a scale, and the parts left alone.

One reader per method; the layouts are those of the libraries that write them (scale and zero-point types included).
"""

import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.weights import Quantization

_LISTS = (
    "modules_to_not_convert",
    "ignore",
    "ignored_layers",
    "exclude_modules",
    "exclude",
    "skip_modules",
    "llm_int8_skip_modules",
    "linear_weights_not_to_quantize",
)
"""Fields that list modules left alone, by the names that the methods give them."""
_PARTS = {
    "vision": re.compile(r"visual|vision|\bvit\b|\bvpm\b|img_processor|image_encoder"),
    "audio": re.compile(r"audio|speech"),
    "head": re.compile(r"lm_head|output_layer|embed_out|\bhead\b"),
}
_ALL_BUT_LAYERS = ("vision", "audio", "head")
_FLOAT8_BLOCK = 128
_SCALE = 16
"""Bits of a scale of the model's own 16-bit type."""


def read(section: Mapping[str, Any]) -> Quantization | None:
    """Read a ``quantization_config``; None where it quantises no weights. Raises `DataError` of one line."""
    fields = Fields(section, "quantization_config")
    nested = fields.section("quantization")
    if nested is not None:
        fields = nested
    method = fields.text("quant_method") or _guess(fields)
    if method is None:
        raise fields.missing("quant_method")
    reader = _READERS.get(method.lower().replace("-", "_"))
    if reader is None:
        raise fields.fault(
            "quant_method", f"is {reprlib.repr(method)}, not one of {', '.join(sorted(_READERS))}"
        )
    found = reader(fields)
    return None if found is None else replace(found, method=method)


def _guess(fields: Fields) -> str | None:
    """Return the method of files from before ``quant_method``, by the fields that only it has."""
    telling = (
        ("load_in_4bit", "bitsandbytes"),
        ("load_in_8bit", "bitsandbytes"),
        ("config_groups", "compressed_tensors"),
        ("quant_algo", "modelopt"),
    )
    return next((method for key, method in telling if key in fields.values), None)


def _kept(fields: Fields, unspoken: Sequence[str] = ("head",)) -> tuple[str, ...]:
    """Return the parts that the lists of modules name; ``unspoken`` are those left alone where there is no list.

    A list that names single layers of a tower counts as naming the tower.
    """
    key = next((key for key in _LISTS if fields.first(key) is not None), None)
    if key is None:
        return tuple(unspoken)
    value = fields.first(key)
    if not isinstance(value, (list, tuple)) or not all(isinstance(name, str) for name in value):
        raise fields.fault(key, f"is {reprlib.repr(value)} instead of a list of module names")
    return tuple(part for part, pattern in _PARTS.items() if any(pattern.search(name) for name in value))


def _group(fields: Fields, *keys: str, default: int | None = None) -> int | None:
    """Return weights that share a scale; None where a row or a matrix does (-1 and 0 in files)."""
    value = fields.integer(*keys, default=default or -1, minimum=-1)
    return value if value > 0 else None


def _bits(fields: Fields, *keys: str, default: int | None = None) -> int:
    bits = fields.integer(*keys, default=default)
    if bits > 16:
        raise fields.fault(keys[0], f"is {bits}, more than 16")
    return bits


def _packed(fields: Fields) -> Quantization:
    """Read GPTQ, AWQ and AutoRound: layers of the decoder only; a 16-bit scale and a packed zero point for each group."""
    bits = _bits(fields, "bits", "w_bit")
    kept = ("vision", "audio") if fields.flag("lm_head", False) else _ALL_BUT_LAYERS
    return Quantization(
        "", bits, _group(fields, "group_size", "q_group_size", default=128), _SCALE + bits, kept
    )


def _bitsandbytes(fields: Fields) -> Quantization | None:
    """Read bitsandbytes: 4 bit with a scale per 64 weights (float32, or 8 bit with double quantisation), or 8 bit by row."""
    if fields.flag("load_in_4bit", False):
        double = fields.flag("bnb_4bit_use_double_quant", False)
        # The scales of 256 groups share a float32 one.
        return Quantization("", 4, 64, 8 + 32 / 256 if double else 32, _kept(fields))
    if fields.flag("load_in_8bit", False):
        return Quantization("", 8, None, 0, _kept(fields), "int8")
    return None


def _float8(fields: Fields) -> Quantization:
    """Read FP8 weights: a float32 scale per block, per row or per matrix; the head is never converted."""
    block = fields.first("weight_block_size")
    group = None
    if block is not None:
        sides = fields.integers("weight_block_size", ())
        if len(sides) != 2 or not all(1 <= side <= 2**20 for side in sides):
            raise fields.fault("weight_block_size", f"is {reprlib.repr(block)} instead of two sides")
        group = sides[0] * sides[1]
    kept = dict.fromkeys((*_kept(fields), "head"))
    return Quantization("", 8, group, 32, tuple(kept), "float8")


def _targets_linear(scheme: Fields) -> bool:
    targets = scheme.first("targets")
    if targets is not None and not isinstance(targets, (str, list, tuple)):
        raise scheme.fault("targets", f"is {reprlib.repr(targets)} instead of a list of module names")
    return "Linear" in (targets or ())


def _compressed_tensors(fields: Fields) -> Quantization | None:
    """Read llm-compressor's groups: the one for all linear layers, else the first that has weights."""
    groups = fields.section("config_groups")
    if groups is None:
        return None
    schemes = [scheme for key in groups.values if (scheme := groups.section(str(key))) is not None]
    with_weights = [
        (scheme, weights) for scheme in schemes if (weights := scheme.section("weights")) is not None
    ]
    if not with_weights:
        return None
    of_all = ((scheme, weights) for scheme, weights in with_weights if _targets_linear(scheme))
    scheme, weights = next(of_all, with_weights[0])
    bits = _bits(weights, "num_bits", default=8)
    floating = weights.text("type", default="int") == "float"
    strategy = weights.text("strategy")
    group, scale = None, _SCALE
    if strategy == "block":
        sides = weights.integers("block_structure", (_FLOAT8_BLOCK, _FLOAT8_BLOCK))
        group, scale = (sides[0] * sides[1] if len(sides) == 2 and all(sides) else None), 32
    elif weights.first("group_size") is not None and strategy in (None, "group", "tensor_group"):
        group = _group(weights, "group_size")
        if floating and bits == 4:
            scale = 8  # NVFP4 and MXFP4
        elif not weights.flag("symmetric", True):
            scale += bits
    inputs = scheme.section("input_activations")
    return Quantization(
        "", bits, group, scale, _kept(fields, ()), None if inputs is None else _arithmetic(inputs)
    )


def _arithmetic(inputs: Fields) -> str | None:
    """Return the data type of the arithmetic for quantised activations; None where no device has it."""
    bits = _bits(inputs, "num_bits", default=8)
    floating = inputs.text("type", default="int") == "float"
    return {(8, True): "float8", (8, False): "int8", (4, True): "float4"}.get((bits, floating))


_MODELOPT: dict[str, tuple[int, int | None, int, str | None]] = {
    "NVFP4": (4, 16, 8, "float4"),
    "NVFP4_AWQ": (4, 16, 8, "float4"),
    "W4A16_NVFP4": (4, 16, 8, None),
    "MXFP4": (4, 32, 8, "float4"),
    "MXFP8": (8, 32, 8, "float8"),
    "FP8": (8, None, 0, "float8"),
    "FP8_PER_CHANNEL_PER_TOKEN": (8, None, 0, "float8"),
    "FP8_PB_WO": (8, _FLOAT8_BLOCK**2, 32, None),
    "W8A8_SQ_PER_CHANNEL": (8, None, 0, "int8"),
    "W8A16": (8, None, 0, None),
    "W4A16": (4, None, 0, None),
    "W4A16_AWQ": (4, 128, _SCALE, None),
    "W4A8_AWQ": (4, 128, _SCALE, "float8"),
}
"""ModelOpt's algorithms: bits, group, bits of a group's scale, data type of the arithmetic."""


def _modelopt(fields: Fields) -> Quantization | None:
    algorithm = fields.text("quant_algo")
    if algorithm is None:
        if fields.first("config_groups") is None:
            raise fields.missing("quant_algo")
        return _compressed_tensors(fields)
    known = _MODELOPT.get(algorithm.upper())
    if known is None:
        raise fields.fault("quant_algo", f"is {reprlib.repr(algorithm)}, not one of {', '.join(_MODELOPT)}")
    bits, group, scale, arithmetic = known
    if group is not None and fields.first("group_size") is not None:
        group = _group(fields, "group_size")
    return Quantization("", bits, group, scale, _kept(fields, ()), arithmetic)


def _torchao(fields: Fields) -> Quantization:
    """Read torchao: the old names (``int4_weight_only``) and the classes written now (``Int4WeightOnlyConfig``)."""
    value, options = fields.first("quant_type"), fields.section("quant_type_kwargs")
    if isinstance(value, Mapping):
        kind = fields.section("quant_type")
        kind = kind and (kind.section("default") or kind)
        value = kind and kind.text("_type")
        options = kind and kind.section("_data")
    name = value.lower().replace("_", "") if isinstance(value, str) else ""
    dtype = (
        options.section("weight_dtype")
        if options and isinstance(options.first("weight_dtype"), Mapping)
        else None
    )
    weight_dtype = (dtype.text("_data") if dtype else None) or ""
    found = re.search(r"(int|float|fp)(\d)weight", name) or re.search(r"(int|float|fp)(\d)", weight_dtype)
    if found is None:
        raise fields.fault(
            "quant_type", f"is {reprlib.repr(fields.first('quant_type'))}, whose bits are not known"
        )
    bits = int(found[2])
    dynamic = "dynamicactivation" in name
    arithmetic = None
    if dynamic:
        integer = "int8dynamic" in name
        arithmetic = "int8" if integer else ("float4" if bits == 4 else "float8")
    group, scale = None, 0
    if bits < 8:
        group = _group(options or Fields({}), "group_size", default=32 if dynamic else 128)
        scale = 8 if found[1] != "int" else 2 * _SCALE  # scale and zero point, both 16 bit
    return Quantization("", bits, group, scale, _kept(fields), arithmetic)


def _hqq(fields: Fields) -> Quantization:
    """Read HQQ: a scale and a zero point of 16 bit for each group; of several settings the first."""
    options = fields.section("quant_config") or fields
    parts = (options.section(key) for key, value in options.values.items() if isinstance(value, Mapping))
    inside = options.section("weight_quant_params") or next(filter(None, parts), None)
    options = (inside and inside.section("weight_quant_params")) or inside or options
    bits = _bits(options, "nbits", default=4)
    return Quantization("", bits, _group(options, "group_size", default=64), 2 * _SCALE, _kept(fields))


def _quanto(fields: Fields) -> Quantization:
    stored = {"int8": 8, "float8": 8, "int4": 4, "int2": 2}
    weights = (fields.text("weights", default="int8") or "").removeprefix("q")
    if weights not in stored:
        raise fields.fault("weights", f"is {reprlib.repr(weights)}, not one of {', '.join(stored)}")
    bits = stored[weights]
    group, scale = (None, 0) if bits == 8 else (128, 2 * _SCALE)
    return Quantization("", bits, group, scale, _kept(fields))


def _quark(fields: Fields) -> Quantization | None:
    whole = fields.section("global_quant_config")
    weight = whole and whole.section("weight")
    if whole is None or weight is None:
        return None
    name = weight.text("dtype", default="") or ""
    found = re.search(r"(int|fp)(\d)", name)
    if found is None:
        raise weight.fault("dtype", f"is {reprlib.repr(name)}, whose bits are not known")
    bits, floating = int(found[2]), found[1] == "fp"
    group = _group(weight, "group_size") if weight.first("group_size") is not None else None
    inputs = whole.first("input_tensors")
    arithmetic = {(8, True): "float8", (8, False): "int8", (4, True): "float4"}.get((bits, floating))
    scale = 8 if bits == 4 and floating else _SCALE
    return Quantization("", bits, group, scale, _kept(fields, ()), None if inputs is None else arithmetic)


def _aqlm(fields: Fields) -> Quantization:
    """Read AQLM: codes of some codebooks for each group of weights; the codebooks themselves are small."""
    codes = fields.integer("num_codebooks", default=1) * fields.integer("nbits_per_codebook", default=16)
    weights = fields.integer("in_group_size", default=8) * fields.integer("out_group_size", default=1)
    if codes > 16 * weights:
        raise fields.fault("nbits_per_codebook", "makes more than 16 bits of a weight")
    return Quantization("", codes / weights, None, 0, _kept(fields))


def _fixed(
    bits: int, group: int | None = None, scale: int = 0, arithmetic: str | None = None
) -> Callable[[Fields], Quantization]:
    """Return the reader of a method with one layout."""
    return lambda fields: Quantization("", bits, group, scale, _kept(fields), arithmetic)


def _experts(bits: int, group: int | None = None, scale: int = 0) -> Callable[[Fields], Quantization]:
    """Return the reader of a method that converts routed experts alone: nearly all weights of the models that have them."""
    return lambda fields: Quantization(
        "", bits, group, scale, tuple(dict.fromkeys((*_ALL_BUT_LAYERS, *_kept(fields))))
    )


def _grouped(key: str, group: int | None, scale: int) -> Callable[[Fields], Quantization]:
    """Return the reader of a method with bits under ``key``, 4 by default, and a group size."""
    return lambda fields: Quantization(
        "", _bits(fields, key, default=4), _group(fields, "group_size", default=group), scale, _kept(fields)
    )


_READERS: dict[str, Callable[[Fields], Quantization | None]] = {
    "aqlm": _aqlm,
    "auto_awq": _packed,
    "auto_gptq": _packed,
    "auto_round": _packed,
    "awq": _packed,
    "awq_marlin": _packed,
    "bitnet": _fixed(2),
    "bitsandbytes": _bitsandbytes,
    "compressed_tensors": _compressed_tensors,
    "eetq": _fixed(8),
    "experts_int8": _experts(8),
    "fbgemm_fp8": _float8,
    "fp8": _float8,
    "fp_quant": _fixed(4, 16, 8, "float4"),
    "gemma": _grouped("num_bits", None, 0),
    "gptq": _packed,
    "gptq_marlin": _packed,
    "higgs": _grouped("bits", 256, _SCALE),
    "hqq": _hqq,
    "inc": _packed,
    "intel/auto_round": _packed,
    "metal": _grouped("bits", 64, 2 * _SCALE),
    "modelopt": _modelopt,
    "modelopt_fp4": _modelopt,
    "mxfp4": _experts(4, 32, 8),
    "mxfp8": _fixed(8, 32, 8, "float8"),
    "nvfp4": _fixed(4, 16, 8, "float4"),
    "quanto": _quanto,
    "quark": _quark,
    "sinq": _grouped("nbits", 64, 2 * _SCALE),
    "torchao": _torchao,
}
