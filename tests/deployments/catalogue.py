"""A deployment for each rule whose symptom traces can show, and what rules must find there; and healthy ones."""

from dataclasses import replace
from typing import Any, NamedTuple

from audio_configs import QWEN2_AUDIO_7B
from qwen_configs import QWEN2_VL_7B
from synthetic.models import QWEN_3B, Device

from deployments.deployment import Deployment, Engine, Frontend, Gpu, Traffic

L4 = Device("NVIDIA L4", 121e12, 300e9)
PCIE = Device("NVIDIA A100-PCIE-40GB", 312e12, 1.555e12)


class Expected(NamedTuple):
    """A deployment and the rules that fire there: the one that it was built for first, then those that cannot but join."""

    deployment: Deployment
    rules: tuple[str, ...]
    why: str = ""
    """Why other rules join."""


def _only(rule: str, *, also: tuple[str, ...] = (), why: str = "", **parts: Any) -> tuple[str, Expected]:
    """Return a deployment with these parts that are not ordinary."""
    return rule, Expected(Deployment(**parts), (rule, *also), why)


TEXT = Traffic(image_every=0)
BUILT_FOR: dict[str, Expected] = dict(
    [
        _only("PRE001", frontend=Frontend(text_ms=25.0, wait_ms=1.0)),
        _only("PRE002", frontend=Frontend(ms_per_mpix=40.0, slow_every=5)),
        _only(
            "PRE003", traffic=Traffic(received_ratio=5.0), frontend=Frontend(ms_per_mpix=4.0, wait_ms=12.0)
        ),
        _only("PRE004", frontend=Frontend(fetch_ms=250.0)),
        _only("PRE005", traffic=Traffic(distinct_images=8)),
        _only(
            "PRE006",
            traffic=Traffic(requests=104, image_every=1, images=20, grids=((8, 8),)),
            settings={"limit_per_prompt": {"image": 20, "video": 0}},
        ),
        _only("PRE007", frontend=Frontend(transfer_ms=8.0)),
        _only(
            "ENC001",
            model=QWEN_3B,
            traffic=Traffic(image_every=1, images=4, grids=((48, 64),), image_text_tokens=1000),
            frontend=Frontend(ms_per_mpix=2.0),
            engine=Engine(encode_ratio=2.1, prefill_ratio=2.3),
        ),
        _only(
            "ENC002",
            traffic=Traffic(image_every=1, images=3, image_text_tokens=600),
            frontend=Frontend(ms_per_mpix=4.0),
            engine=Engine(tp=2),
        ),
        _only("ENC003", engine=Engine(encode_ratio=6.0, encode_host_ratio=0.4)),
        _only(
            "ENC004",
            model_config=QWEN2_VL_7B,
            traffic=Traffic(grids=((80, 80),), image_text_tokens=800),
            frontend=Frontend(ms_per_mpix=6.0),
            engine=Engine(encode_ratio=3.0),
            settings={"mm_encoder_attn_backend": "TORCH_SDPA"},
        ),
        _only(
            "ENC005",
            traffic=Traffic(images=3, distinct_images=8, image_text_tokens=600),
            frontend=Frontend(hit_share=1.0),
            engine=Engine(encoder_hits=False),
        ),
        _only(
            "ENC006",
            traffic=Traffic(grids=((64, 80),), image_text_tokens=500),
            frontend=Frontend(ms_per_mpix=6.0),
            engine=Engine(chunk_tokens=1024),
        ),
        _only(
            "ENC007",
            model_config=QWEN2_AUDIO_7B,
            traffic=Traffic(audio_seconds=6.0, text_tokens=60),
            engine=Engine(encode_ratio=2.0, prefill_ratio=1.2),
        ),
        _only(
            "MM001",
            traffic=Traffic(image_every=1, grids=((128, 136),), image_text_tokens=1500),
            frontend=Frontend(ms_per_mpix=4.0),
            engine=Engine(prefill_ratio=2.4),
        ),
        _only(
            "MM002",
            traffic=Traffic(image_every=1, images=4, image_text_tokens=200),
            frontend=Frontend(ms_per_mpix=6.0),
            engine=Engine(prefill_ratio=2.4),
        ),
        _only(
            "MM003",
            traffic=Traffic(requests=63, image_every=0, video_every=3, frames=64, video_grid=(32, 64)),
            frontend=Frontend(ms_per_mpix=1.0, wait_ms=10.0),
            engine=Engine(chunk_tokens=32768, prefill_ratio=2.4),
            settings={"limit_per_prompt": {"image": 1, "video": 1}},
            also=("MM002",),
            why="videos of a third of the requests are most of all prompt tokens",
        ),
        _only("MM004", traffic=Traffic(rejected_every=20)),
        _only(
            "MM006",
            traffic=Traffic(requests=210),
            engine=Engine(kv_capacity_tokens=600_000),
            settings={"limit_per_prompt": {"image": 40, "video": 0}},
        ),
        _only("PF001", traffic=Traffic(image_every=0, text_tokens=7000), engine=Engine(prefill_ratio=1.4)),
        _only("PF002", engine=Engine(prefill_ratio=4.0)),
        _only(
            "PF003",
            traffic=Traffic(group=8, group_ms=1.0, text_tokens=150, output_tokens=3, image_every=0),
            engine=Engine(chunk_tokens=128, most_sequences=4, decode_ratio=2.4),
        ),
        _only(
            "PF004",
            traffic=Traffic(image_every=0, text_tokens=1500),
            engine=Engine(chunk_tokens=256, prefill_ratio=2.4),
        ),
        _only(
            "PF005",
            traffic=Traffic(
                requests=120,
                group=2,
                group_ms=200.0,
                image_every=12,
                image_at=11,
                images=32,
                image_text_tokens=2500,
            ),
            frontend=Frontend(ms_per_mpix=1.0),
            engine=Engine(chunk_tokens=32768, prefill_ratio=2.4),
        ),
        _only(
            "PF006",
            traffic=Traffic(group=2, group_ms=400.0, image_every=6, images=16, image_text_tokens=1000),
            frontend=Frontend(ms_per_mpix=1.0),
            engine=Engine(prefill_ratio=2.4),
        ),
        _only(
            "DEC001",
            traffic=Traffic(group=10),
            engine=Engine(most_sequences=8),
            also=("QUE001",),
            why="what waits before a full limit of sequences is a queue that more replicas shorten too",
        ),
        _only("DEC002", device=L4, gpu=Gpu(power_w=50.0), traffic=Traffic(output_tokens=60, image_every=0)),
        _only(
            "DEC003",
            model=QWEN_3B,
            traffic=Traffic(
                requests=64,
                group=16,
                group_ms=1.0,
                image_every=1,
                images=12,
                image_text_tokens=1500,
                output_tokens=200,
            ),
            frontend=Frontend(ms_per_mpix=1.0),
            engine=Engine(chunk_tokens=131072, prefill_ratio=2.4),
            settings={"limit_per_prompt": {"image": 12, "video": 0}},
        ),
        _only(
            "DEC004",
            device=L4,
            gpu=Gpu(power_w=50.0),
            traffic=Traffic(image_every=0, output_tokens=140),
            engine=Engine(decode_ratio=1.8),
        ),
        _only("DEC005", engine=Engine(drafts=3), settings={"method": "eagle3", "num_speculative_tokens": 3}),
        _only("DEC006", engine=Engine(gap_ms=25.0, window_steps=16)),
        _only("KV001", traffic=Traffic(group=10, output_tokens=50), engine=Engine(kv_capacity_tokens=5_600)),
        _only("KV002", traffic=Traffic(requests=110), engine=Engine(preempt_every=4)),
        _only(
            "KV004",
            traffic=Traffic(group=12, image_every=0, text_tokens=150),
            engine=Engine(hold_ms=900.0, hold_every=3, decode_ratio=2.4),
        ),
        _only(
            "KV007",
            traffic=Traffic(
                group=4, group_ms=1.0, image_every=1, images=8, image_text_tokens=300, output_tokens=700
            ),
            frontend=Frontend(ms_per_mpix=1.0),
            engine=Engine(kv_capacity_tokens=17_500, prefill_ratio=2.4),
            settings={"limit_per_prompt": {"image": 8, "video": 0}},
        ),
        _only(
            "QUE001",
            traffic=Traffic(group=16, image_every=0),
            engine=Engine(most_sequences=4, kv_capacity_tokens=4_000, decode_ratio=2.4),
        ),
        _only("QUE002", engine=Engine(hold_ms=80.0)),
        _only(
            "QUE003",
            traffic=Traffic(requests=150, crowd=20),
            engine=Engine(most_sequences=4),
            replicas=(2, 1, 1, 1),
        ),
        _only(
            "QUE004",
            traffic=Traffic(requests=240, group=40, image_every=0),
            settings={"limit_per_prompt": {"image": 0, "video": 0}},
            engine=Engine(most_sequences=32, kv_capacity_tokens=36_000, decode_ratio=2.4),
        ),
        _only(
            "SLO001",
            traffic=TEXT,
            frontend=Frontend(wait_ms=60.0),
            engine=Engine(prefill_ratio=1.0),
            slo_ttft_ms=84.0,
        ),
        _only(
            "SLO002",
            slo_ttft_ms=35.0,
            also=("SLO001",),
            why="a phase over its budget counts only where objectives are missed",
        ),
        _only(
            "SLO003",
            traffic=Traffic(
                requests=108, group=12, group_ms=1800.0, image_every=0, text_tokens=4000, output_tokens=60
            ),
            replicas=(1, 1),
            engine=Engine(prefill_ratio=2.4),
        ),
        _only(
            "SLO004",
            traffic=Traffic(
                requests=100,
                group=2,
                group_ms=100.0,
                image_every=4,
                images=16,
                image_text_tokens=2500,
                output_tokens=25,
            ),
            frontend=Frontend(ms_per_mpix=1.0),
            engine=Engine(encode_ratio=5.0, prefill_ratio=2.4),
            also=("PF006",),
            why="text that waits for the encoder waits behind an image's prefill too",
        ),
        _only("SYS001", engine=Engine(host_ms=1.6), gpu=Gpu(busy=0.6)),
        _only(
            "SYS002", engine=Engine(host_ms=0.6), settings={"enforce_eager": True, "cudagraph_mode": "NONE"}
        ),
        _only("SYS003", gpu=Gpu(throttled=0.3, clock_mhz=1500)),
        _only("SYS004", gpu=Gpu(power_w=660.0)),
        _only(
            "SYS005",
            device=PCIE,
            traffic=Traffic(image_every=0, text_tokens=3000, output_tokens=10),
            engine=Engine(tp=4, tp_efficiency=0.5),
        ),
        _only("SYS007", traffic=Traffic(requests=110), engine=Engine(cold_ms=500.0)),
        _only("DAT001", engine=Engine(late_ms=40.0)),
        _only("DAT002", engine=Engine(decode_ratio=0.75)),
        _only("DAT003", traffic=Traffic(minutes=4.0)),
    ]
)
LARGE = Traffic(requests=210)
HEALTHY: dict[str, Deployment] = {
    "text only": Deployment(
        traffic=replace(LARGE, image_every=0), settings={"limit_per_prompt": {"image": 0, "video": 0}}
    ),
    "balanced images and text": Deployment(traffic=LARGE),
    "two balanced replicas": Deployment(traffic=replace(LARGE, requests=240), replicas=(1, 1)),
    "objectives met": Deployment(traffic=LARGE, slo_ttft_ms=500.0, slo_tpot_ms=50.0),
    "few requests": Deployment(traffic=Traffic(requests=12)),
}
OTHER_REASONS: dict[str, Expected] = {
    "the API process is full": Expected(Deployment(frontend=Frontend(cores=0.85)), ("PRE001",)),
    "images allowed, none come": Expected(Deployment(traffic=replace(LARGE, image_every=0)), ("MM006",)),
    "records lost": Expected(Deployment(lost_records=500), ("DAT003",)),
    "a tenth of the requests kept": Expected(Deployment(sampling_ratio=0.1), ("DAT003",)),
}
"""Further ways to the same finding."""
