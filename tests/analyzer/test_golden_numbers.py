"""The golden numbers: every row of kind exact arithmetic by its id, computed by the cost model wherever it has the formula.

Rows that the sources state consistently are in `ROWS`; for those that are flagged `CORRECTED` has the value as printed and,
beside it, what is right and why.
"""

import statistics
from collections.abc import Callable
from typing import Any

import pytest
from qwen_configs import QWEN2_5_VL_7B, QWEN2_5_VL_72B

from vtprof_analyzer.cost import metrics
from vtprof_analyzer.cost.capacity import capacity, context_share, items_that_fit
from vtprof_analyzer.cost.estimate import Workload, estimate
from vtprof_analyzer.cost.kv import kv_bytes_per_token, request_cache
from vtprof_analyzer.cost.parallel import Parallel
from vtprof_analyzer.cost.parts import StepCosts
from vtprof_analyzer.cost.work import Precision
from vtprof_analyzer.devices.catalogue import find_device
from vtprof_analyzer.devices.roofs import Roof, datasheet_roof
from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.registry import load_counter, load_spec
from vtprof_analyzer.models.spec import ModelSpec
from vtprof_analyzer.models.tokens.audio import f5_tokens
from vtprof_analyzer.models.tokens.item import ItemTokens
from vtprof_analyzer.models.tokens.patches import patch_grid, patch_values, video_tokens
from vtprof_analyzer.models.tokens.tiling import tiles_and_thumbnail

LLAMA3_70B: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80,
    "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}  # fmt: skip
HALF = Precision(2.0, 2.0, 2.0)
TTFT_TOKENS, TTFT_SECONDS = (500, 1100, 3000, 12000, 30000), (0.3, 0.6, 1.5, 6.0, 15.0)
DRAFTS = 10
"""Draft tokens of a cycle in the speculative decoding pilot."""


def roof(name: str = "NVIDIA A100-SXM4-80GB") -> Roof:
    device = find_device(name)
    assert device is not None
    found = datasheet_roof(device, "float16")
    assert isinstance(found, Roof)
    return found


def qwen(billions: int) -> ModelSpec:
    return load_spec(QWEN2_5_VL_72B if billions == 72 else QWEN2_5_VL_7B)


def kv(billions: int) -> float:
    return kv_bytes_per_token(qwen(billions).language, 2)


def kv_gb(billions: int, tokens: int) -> float:
    return request_cache(qwen(billions).language, 2, tokens).bytes / 1e9


def cost(billions: int, tokens: int) -> StepCosts:
    """Return the cost of a prompt of so many tokens and of one decode step behind it, in FP16."""
    return estimate(qwen(billions), HALF, Workload(text_tokens=tokens))


def patches(side: int, patch: int) -> int:
    rows, columns = patch_grid(side, side, patch)
    return rows * columns


def visual(height: int, width: int) -> int:
    """Return Qwen2.5-VL's tokens of an image, with the pixel limits of its checkpoints."""
    limits = {"min_pixels": 56 * 56, "max_pixels": 28 * 28 * 16384}
    return load_counter(ModelFiles("qwen", QWEN2_5_VL_7B, limits)).image(height, width).tokens


def video(frames: int) -> int:
    """Return Qwen2.5-VL's tokens of 720p frames without a pixel cap."""
    limits = {"size": {"shortest_edge": 3136, "longest_edge": 2**31}}
    return load_counter(ModelFiles("qwen", QWEN2_5_VL_7B, None, limits)).video(frames, 720, 1280).tokens


def prompt(text: int, image: int) -> int:
    request = Workload(text_tokens=text, visual_items=(ItemTokens(image),))
    return request.text_tokens + request.visual_tokens


def equal_length(billions: int) -> float:
    """Return the length at which causal attention costs as much as all GEMMs: linear in it against quadratic."""
    language = qwen(billions).language
    pair = sum(group.layers * group.attention.pair_flops for group in language.groups)
    return 2 * language.linear_params / (pair / 2)


def group_intensity(billions: int) -> float:
    """Return FLOP/B of decode attention over the cache (C7)."""
    attention = qwen(billions).language.groups[0].attention
    return attention.pair_flops / (attention.kv_values_per_token * 2)


def kv_crossing(billions: int) -> float:
    """Return the length from which causal attention takes longer than writing its keys and values."""
    attention = qwen(billions).language.groups[0].attention
    return attention.kv_values_per_token * 2 * roof().ridge / (attention.pair_flops / 2)


def table8(memory: float, latency: float) -> metrics.BudgetRetention:
    return metrics.budget_retention(memory, 1.73, latency, 58.94)


def retention(accuracy: float, score: float, base: tuple[float, float] = (31.27, 1.93)) -> float:
    return 100 * metrics.quality_retention([accuracy / base[0], score / base[1]])


def cycle(accepted: float, speedup: float) -> float:
    return metrics.speculative_cycle_cost(accepted, speedup)


def draft(accepted: float, speedup: float) -> float:
    return metrics.draft_step_cost(cycle(accepted, speedup), DRAFTS)


SAME = (28.7, 1.81)
"""Reference of the 7B pair."""
Row = tuple[Callable[[], float], float, float]
"""How it is computed, the golden value, and the absolute tolerance (0: exact but for rounding)."""
ROWS: dict[str, Row] = {
    # Roofs
    "G001": (lambda: roof().peak_flops_per_s / 1e12, 312, 0),
    "G002": (lambda: roof().bandwidth_bytes_per_s / 1e9, 2039, 0),
    "G003": (lambda: roof().ridge, 153.016, 0.05),
    "G004": (lambda: roof().times(8).bandwidth_bytes_per_s / 1e9, 16312, 0),
    "G005": (lambda: roof().times(8).ridge, 153.016, 0.05),
    "G007": (lambda: 1.0 / roof().ridge, 0.00654, 0.0000654),
    "G009": (lambda: 160 / roof().ridge, 1.046, 0.01046),
    "G011": (lambda: 1200 / roof().ridge, 7.84, 0.0784),
    # Patches and tiles
    "G012": (lambda: patches(224, 16), 196, 0),
    "G013": (lambda: patch_grid(224, 224, 16)[0], 14, 0),
    "G014": (lambda: patch_values(16), 768, 0),
    "G016": (lambda: patches(512, 16), 1024, 0),
    "G017": (lambda: patches(256, 16), 256, 0),
    "G018": (lambda: tiles_and_thumbnail(2048, 2048, 512, 16, None).grids[0].count, 16, 0),
    "G020": (lambda: patches(336, 14), 576, 0),
    "G021": (lambda: patches(224, 14), 256, 0),
    "G022": (lambda: patch_grid(1024, 1024, 14, "floor")[0] ** 2, 5329, 0),
    "G030": (lambda: prompt(100, 1000), 1100, 0),
    "G031": (lambda: prompt(100, 2000), 2100, 0),
    # Context window
    "G039": (lambda: 100 * context_share(2900, 5, 32768), 44.25, 0.05),
    "G042": (lambda: 100 * context_share(2900, 1, 4096), 70.8, 0.05),
    "G044": (lambda: items_that_fit(16640, 32768), 1, 0),
    # Video and audio
    "G045": (lambda: video_tokens(60, 1, 256), 15360, 0),
    "G046": (lambda: video_tokens(60, 0.5, 256), 7680, 0),
    "G047": (lambda: video_tokens(60, 0.25, 256), 3840, 0),
    "G048": (lambda: video_tokens(60, 1, 64), 3840, 0),
    "G049": (lambda: video_tokens(30, 1, 256), 7680, 0),
    "G052": (lambda: f5_tokens(30.0)[0], 1500, 0),
    # KV cache of the 72B and of Llama 3 70B
    "G059": (lambda: 40_000 / 20, 2000, 0),
    "G060": (lambda: kv(72), 325_000, 0.03 * 327_680),
    "G063": (lambda: kv(72), 320_000, 0.03 * 327_680),
    "G066": (lambda: request_cache(load_spec(LLAMA3_70B).language, 2, 30_000).bytes / 1e9, 9.8304, 0),
    # A table of TTFT
    "G075": (lambda: 1e3 * metrics.ttft(0.0, 0.3) / 500, 0.6, 0.001),
    "G076": (lambda: 1e3 * metrics.ttft(0.0, 0.6) / 1100, 0.5455, 0.001),
    "G077": (lambda: 1e3 * metrics.ttft(0.0, 1.5) / 3000, 0.5, 0.001),
    "G078": (lambda: 1e3 * metrics.ttft(0.0, 6.0) / 12000, 0.5, 0.001),
    "G079": (lambda: 1e3 * metrics.ttft(0.0, 15.0) / 30000, 0.5, 0.001),
    "G080": (lambda: 1e3 * metrics.linear_fit(TTFT_TOKENS, TTFT_SECONDS)[0], 0.4986, 0.0005),
    "G082": (lambda: 30000 / 500, 60, 0),
    "G084": (lambda: 12000 / 4, 3000, 0),
    "G085": (lambda: 30000 / 5, 6000, 0),
    # The patches of the image, of which the table's 1100 - 100 tokens are 3 % short.
    "G086": (lambda: patches(512, 16), 1000, 0.03 * 1000),
    "G088": (lambda: 5 * 3000 * 0.5e-3, 7.5, 0),
    # Budget lines
    "G100": (lambda: metrics.budget_cost(1, 50, 576) / metrics.budget_cost(1, 50, 1), 12.275, 0.0005),
    "G101": (lambda: metrics.budget_cost(1, 0, 576) / metrics.budget_cost(1, 0, 1), 576, 0),
    # KV budgets
    "G111": (lambda: table8(0.40, 42.08).memory_ratio, 0.2312, 0.002),
    "G112": (lambda: table8(0.22, 38.65).memory_ratio, 0.1272, 0.002),
    "G113": (lambda: table8(0.40, 42.08).speedup, 1.4007, 0.001),
    "G114": (lambda: table8(0.22, 38.65).speedup, 1.525, 0.001),
    "G115": (lambda: 100 * table8(0.40, 42.08).latency_cut, 28.61, 0.05),
    "G116": (lambda: 100 * table8(0.22, 38.65).latency_cut, 34.42, 0.05),
    "G117": (lambda: 1.73e9 / kv(7), 30169, 0.005 * 30169),
    "G118": (lambda: statistics.fmean([3.06, 3.15, 3.52, 2.24, 2.69]), 2.932, 0.001),
    "G119": (lambda: statistics.fmean([2.99, 3.05, 3.47, 2.15, 2.57]), 2.846, 0.001),
    # Speculative decoding
    "G123": (lambda: cycle(3.4, 1.4), 2.4286, 0.01),
    "G126": (lambda: cycle(5.55, 2.04), 2.7206, 0.01),
    "G129": (lambda: cycle(7.42, 2.61), 2.8429, 0.01),
    "G141": (lambda: cycle(5.31, 1.26), 4.2143, 0.01),
    "G144": (lambda: cycle(7.2, 1.61), 4.472, 0.01),
    "G147": (lambda: cycle(8.45, 1.8), 4.6944, 0.01),
    "G148": (lambda: retention(29.5, 1.87), 95.6, 0.06),
    "G149": (lambda: retention(28.74, 1.84), 93.6, 0.06),
    "G150": (lambda: retention(25.61, 1.68), 84.5, 0.06),
    "G151": (lambda: retention(24.84, 1.61), 81.4, 0.06),
    "G152": (lambda: retention(27.53, 1.79, SAME), 97.4, 0.06),
    "G156": (lambda: 4 * 30, 120, 0),
    # Quantised caches
    "G161": (lambda: metrics.compression_ratio(16, 1.58), 10.127, 0.01),
    "G162": (lambda: metrics.compression_ratio(16, 2), 8, 0),
    "G163": (lambda: metrics.compression_ratio(16, 1), 16, 0),
    # Published configurations
    "G164": (lambda: kv(72), 327_680, 0),
    "G165": (lambda: kv_gb(72, 40_000), 13.1072, 0),
    "G166": (lambda: kv_gb(72, 50_000), 16.384, 0),
    "G167": (lambda: kv(7), 57_344, 0),
    "G168": (lambda: kv_gb(7, 30_000), 1.72032, 0),
    "G170": (lambda: 1e3 * cost(72, 40_000).prefill.bytes_kv_written[0] / roof().bandwidth_bytes_per_s, 6.43, 0.01),
    "G171": (lambda: cost(72, 40_000).prefill.flops_attention[0] / roof().peak_flops_per_s, 6.722, 0.001),
    "G172": (
        lambda: (cost(72, 40_000).prefill.flops[0] - cost(72, 40_000).prefill.flops_attention[0])
        / roof().peak_flops_per_s,
        18.0,
        0.05,
    ),
    "G173": (lambda: equal_length(7), 65_024, 65.024),
    "G174": (lambda: equal_length(72), 107_136, 107.136),
    "G175": (lambda: 100 * cost(72, 40_000).decode.bytes_kv[0] / cost(72, 40_000).decode.bytes[0], 8.3, 0.5),
    "G176": (lambda: cost(72, 40_000).decode.bytes_weights[0] / (1e9 * kv_gb(72, 40_000)), 11.1, 0.2),
    "G177": (lambda: group_intensity(72), 8, 0),
    "G178": (lambda: group_intensity(7), 7, 0),
    "G179": (lambda: visual(1024, 1024), 1369, 0),
    "G180": (lambda: visual(512, 512), 324, 0),
    "G181": (lambda: visual(2048, 2048), 5329, 0),
    "G182": (lambda: video(2), 1196, 0),
    "G183": (lambda: next(frames for frames in range(2, 200, 2) if video(frames) >= 50_000), 84, 0),
}  # fmt: skip


@pytest.mark.parametrize("golden", ROWS)
def test_golden(golden: str) -> None:
    computed, value, tolerance = ROWS[golden]
    assert computed() == pytest.approx(value, rel=1e-9 if not tolerance else 0, abs=tolerance or None)


def g006() -> None:
    """Elsewhere decode is "much less than 1": weights alone are 1.0 at FP16 and batch 1, the cache is apart."""
    decode = estimate(qwen(72), HALF, Workload(text_tokens=1)).decode
    # Norms and biases are read and multiply nothing.
    assert decode.flops[0] / decode.bytes_weights[0] == pytest.approx(1.0, abs=1e-3)
    long = cost(72, 40_000).decode
    assert long.flops_attention[0] / long.bytes_kv_read[0] == pytest.approx(8, rel=1e-3)


def g015() -> None:
    """4096 raw patches, against 1000 to 3000 tokens in the same source: merging by 2 leaves 1369 (37 x 37 of 28 px)."""
    assert patches(1024, 16) == 4096
    assert visual(1024, 1024) == 37**2 == 1369


def g019() -> None:
    """The arithmetic of tiles holds; laid to the Qwen line it does not, which has native resolution: 5329."""
    assert tiles_and_thumbnail(2048, 2048, 512, 16, 256).tokens == 16 * 1024 + 256 == 16_640
    assert visual(2048, 2048) == 5329


def g038() -> None:
    """The text says 30 % for three images: 8700 of 32,768 are 26.55 %, of 32,000 27.2 %."""
    assert 100 * context_share(2900, 3, 32_768) == pytest.approx(26.55, abs=0.05)
    assert 100 * context_share(2900, 3, 32_000) == pytest.approx(27.2, abs=0.05)


def g043() -> None:
    """Only a few high-resolution images in 32k: eleven of 2900 tokens, one of 16,640; and fewer with output reserved."""
    assert items_that_fit(2900, 32_768) == 11
    assert items_that_fit(16_640, 32_768) == 1
    assert items_that_fit(2900, 32_768, text_tokens=100, output_tokens=1000) == 10


def g050() -> None:
    """256 tokens a second or 10,000 (50K in 5 s): frame rate, resolution and merging decide, so all are inputs."""
    assert video_tokens(1, 1, 256) == 256
    # 84 frames of 720p in 5 s, pairs merged: 16.8 frames a second reach 50,000.
    assert video(84) / 5 == pytest.approx(10_046.4)


def g064() -> None:
    """The 320 KB a token are 320 KiB, 327.68 kB."""
    stored = kv_bytes_per_token(load_spec(LLAMA3_70B).language, 2)
    assert stored == 327_680 == 320 * 2**10 == pytest.approx(327.68e3)


def g065() -> None:
    """30,000 x 320e3 printed as 9.6 GB takes KiB for kB: it is 9.830 GB or 9.155 GiB, 2.3 % more."""
    stored = request_cache(load_spec(LLAMA3_70B).language, 2, 30_000).bytes
    printed = 30_000 * 320e3
    assert printed / 1e9 == pytest.approx(9.6)
    assert stored / 1e9 == pytest.approx(9.830, abs=0.001)
    assert stored / 2**30 == pytest.approx(9.155, abs=0.001)
    assert 1 - printed / stored == pytest.approx(0.023, abs=0.001)


def g067() -> None:
    """Two requests fit only with 70e9 parameters and all memory: with 70.6e9 it is one, at 90 % of memory none."""
    assert int((160 - 2 * 70) / 9.83) == 2

    def fit(memory_ratio: float) -> int:
        pair = Parallel(tensor=2)
        spec = load_spec(LLAMA3_70B)
        return capacity(spec, HALF, 80e9, 30_000, parallel=pair, memory_ratio=memory_ratio).requests

    assert load_spec(LLAMA3_70B).params.total == pytest.approx(70.6e9, rel=0.001)
    assert (fit(1.0), fit(0.9)) == (1, 0)


def g081() -> None:
    """Called linear: 60 times the tokens take 50 times as long, for the line has an intercept of 33 ms."""
    assert TTFT_SECONDS[-1] / TTFT_SECONDS[0] == pytest.approx(50)
    assert TTFT_TOKENS[-1] / TTFT_TOKENS[0] == 60
    slope, intercept = metrics.linear_fit(TTFT_TOKENS, TTFT_SECONDS)
    assert intercept == pytest.approx(0.0328, abs=0.0005)
    assert (slope * 30_000 + intercept) / (slope * 500 + intercept) == pytest.approx(53, abs=0.5)


def g083() -> None:
    """2000 tokens/s for a 7B model on an H100 are a few percent of its peak: the roofline's floor is 13 to 45 times less."""
    assert 30_000 / 15 == 2000
    floor = cost(7, 30_000).prefill.floor_seconds(roof("NVIDIA H100 80GB HBM3"))[0]
    assert 13 < 15 / floor < 45


def g087() -> None:
    """3000 - 100 tokens for 1024 x 1024: 4096 by patches of 16, 1369 by merged cells of 28."""
    assert 3000 - 100 == 2900
    assert (patches(1024, 16), visual(1024, 1024)) == (4096, 1369)


def prefill_ratio() -> float:
    return float(cost(7, 10_000).prefill.flops[0] / cost(7, 1000).prefill.flops[0])


def g089() -> None:
    """Ten times the tokens, ten times the cost if linear; attention adds a little: 11.4 for the 7B."""
    assert 10_000 / 1000 == 10
    # GEMMs 10 times; attention is 1.5 % of them at 1000 tokens and 15 % at 10,000.
    assert prefill_ratio() == pytest.approx(10 * (1 + 10_000 / 65_024) / (1 + 1000 / 65_024), rel=0.01)


def g090() -> None:
    """A hundred times if quadratic, which holds for attention alone: the whole is within 15 % of linear."""
    short, long = cost(7, 1000).prefill, cost(7, 10_000).prefill
    assert long.flops_attention[0] / short.flops_attention[0] == pytest.approx(100, rel=0.002)
    assert prefill_ratio() < 11.5


def g120() -> None:
    """ "Consistently better" is a tie in this cell."""
    assert 83.50 - 83.50 == 0.0


def g132() -> None:
    """A draft of 3B costs more a step than one of 7B (0.208 against 0.143), and the pair is slower than plain decoding."""
    assert cycle(2.99, 0.97) == pytest.approx(3.0825, abs=0.01)
    assert draft(2.99, 0.97) == pytest.approx(0.208, abs=0.001)
    assert draft(2.99, 0.97) > draft(3.4, 1.4)
    assert metrics.speculative_speedup(2.99, 3.0825) < 1


def g135() -> None:
    """As above at 50 % relaxation: 0.223 against 0.172 of a target step."""
    assert cycle(5.3, 1.64) == pytest.approx(3.2317, abs=0.01)
    assert draft(5.3, 1.64) == pytest.approx(0.223, abs=0.001)
    assert draft(5.3, 1.64) > draft(5.55, 2.04)


def g138() -> None:
    """As above at 75 % relaxation: 0.247 against 0.184 of a target step."""
    assert cycle(7.33, 2.11) == pytest.approx(3.4739, abs=0.01)
    assert draft(7.33, 2.11) == pytest.approx(0.247, abs=0.001)
    assert draft(7.33, 2.11) > draft(7.42, 2.61)


def g153() -> None:
    """More relaxation keeps more quality than less (97.6 over 97.4): 120 samples, noise."""
    assert retention(27.96, 1.77, SAME) == pytest.approx(97.6, abs=0.06)
    assert 0 < retention(27.96, 1.77, SAME) - retention(27.53, 1.79, SAME) < 0.3


def g169() -> None:
    """Past 306 x r_kv tokens the KV write never is the larger one, and the GEMMs that eq. 4 leaves out outweigh both."""
    shared = 1 / 8  # 8 KV heads for 64 query heads
    assert kv_crossing(72) / shared == pytest.approx(306, abs=1)
    assert kv_crossing(72) == pytest.approx(38, abs=0.5)
    prefill = cost(72, 306).prefill
    gemm = prefill.flops[0] - prefill.flops_attention[0]
    assert gemm > 100 * prefill.flops_attention[0]
    assert gemm / roof().peak_flops_per_s > 100 * prefill.bytes_kv_written[0] / roof().bandwidth_bytes_per_s


CORRECTED: dict[str, Callable[[], None]] = {
    test.__name__.upper(): test
    for test in (
        g006, g015, g019, g038, g043, g050, g064, g065, g067, g081, g083, g087, g089, g090, g120, g132, g135, g138, g153,
        g169,
    )
}  # fmt: skip


@pytest.mark.parametrize("golden", CORRECTED)
def test_golden_corrected(golden: str) -> None:
    CORRECTED[golden]()


EXACT_ARITHMETIC = {
    *(f"G{number:03}" for number in (
        3, 4, 5, 6, 7, 9, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 30, 31, 38, 39, 42, 43, 44, 45, 46, 47, 48,
        49, 50, 52, 59, 60, 63, 65, 66, 67, 75, 76, 77, 78, 79, 80, 81, 82, 83, 84, 85, 86, 87, 88, 89, 90, 100, 101,
        111, 112, 113, 114, 115, 116, 117, 118, 119, 120, 123, 126, 129, 132, 135, 138, 141, 144, 147, 148, 149, 150,
        151, 152, 153, 156, 161, 162, 163, 164, 165, 166, 167, 168, 169, 170, 171, 172, 173, 174, 175, 176, 177, 178,
        179, 180, 181, 182, 183,
    )),
}  # fmt: skip
"""Rows of this kind in the list of golden numbers."""


def test_every_exact_row_has_its_test() -> None:
    assert len(EXACT_ARITHMETIC) == 105
    assert not EXACT_ARITHMETIC - {*ROWS, *CORRECTED}
    assert not {*ROWS} & {*CORRECTED}


def test_the_rounding_of_patches_is_explicit() -> None:
    """1024 / 14 is 73.14: 5329 rounded down (G022), 5476 up, and no answer where nobody chose."""
    assert patch_grid(1024, 1024, 14, "ceil")[0] ** 2 == 5476
    with pytest.raises(ValueError, match="floor or ceil"):
        patch_grid(1024, 1024, 14)
