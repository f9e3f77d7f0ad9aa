"""Runs the encoder runner of vLLM's model runner V2 under the probe and writes what was recorded; for vLLM's own Python.

    PYTHONPATH=agent:schemas:tests/probe python worker_encoder_v2.py OUTPUT

Runner V2 needs Triton and with it a GPU. Its encoder part does not: vLLM's own EncoderRunner, cache, inputs and
``ModelState.execute_mm_encoder`` run here around a model that only counts; the step around them is a stand-in.
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

from vtprof_probe import install
from vtprof_probe.engines.vllm_shared import STEP_ATTRIBUTE

GRIDS: Final = {"first": ((4, 6), (2, 2)), "second": ((8, 4),)}
"""Rows and columns of patches of each request's images."""
PATCH_VALUES: Final = 1176
MERGE: Final = 4


class CountingModel:
    """A model whose encoder gives zeros of the right lengths."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []

    def embed_multimodal(self, **inputs: Any) -> list[Any]:
        """Return one embedding for each image."""
        import torch

        patches = [int(grid.prod()) for grid in inputs["image_grid_thw"]]
        assert inputs["pixel_values"].shape == (sum(patches), PATCH_VALUES)
        self.calls.append(patches)
        return [torch.zeros(count // MERGE, 8) for count in patches]


def features() -> dict[str, list[Any]]:
    """Return the items of all requests in vLLM's own classes."""
    import torch
    from vllm.multimodal.inputs import (
        MultiModalFeatureSpec,
        MultiModalFieldConfig,
        MultiModalKwargsItem,
        PlaceholderRange,
    )

    made: dict[str, list[Any]] = {}
    for request, grids in GRIDS.items():
        sizes = torch.tensor([rows * columns for rows, columns in grids])
        grid_elems = MultiModalFieldConfig.batched("image", keep_on_cpu=True).build_elems(
            "image_grid_thw", torch.tensor([[1, *grid] for grid in grids])
        )
        pixel_elems = MultiModalFieldConfig.flat_from_sizes("image", sizes).build_elems(
            "pixel_values", torch.zeros(int(sizes.sum()), PATCH_VALUES)
        )
        made[request] = [
            MultiModalFeatureSpec(
                data=MultiModalKwargsItem({"pixel_values": pixels, "image_grid_thw": grid}),
                modality="image",
                identifier=f"{request}-{index}",
                mm_position=PlaceholderRange(offset=10 * index, length=int(sizes[index]) // MERGE),
            )
            for index, (pixels, grid) in enumerate(zip(pixel_elems, grid_elems, strict=True))
        ]
    return made


def run() -> list[list[int]]:
    """Encode in two steps, the second with one item cached; return the patches of each call of the model."""
    import torch
    from vllm.v1.worker.gpu.mm.encoder_cache import EncoderCache
    from vllm.v1.worker.gpu.mm.encoder_runner import EncoderRunner
    from vllm.v1.worker.gpu.model_runner import GPUModelRunner
    from vllm.v1.worker.gpu.model_states.interface import ModelState

    model, cache = CountingModel(), EncoderCache()
    cache.mm_features.update(features())
    device = torch.device("cpu")
    encoder = EncoderRunner(model, 64, 8, cache, torch.float32, device)  # type: ignore[arg-type]
    # Profiling runs the encoder, too.
    encoder.execute_mm_encoder([("image", cache.mm_features["first"][0].data)])
    runner = SimpleNamespace(
        device=device,
        model_config=SimpleNamespace(dtype=torch.float32, hf_config=None),
        model_state=SimpleNamespace(encoder_runner=encoder, encoder_cache=cache),
        encode=ModelState.execute_mm_encoder,
    )
    for step, wanted in ((1, {"first": [0]}), (2, {"first": [0, 1], "second": [0]})):
        output = SimpleNamespace(
            scheduled_encoder_inputs=wanted,
            num_scheduled_tokens=dict.fromkeys(wanted, 5),
            total_num_scheduled_tokens=5 * len(wanted),
        )
        setattr(output, STEP_ATTRIBUTE, step)
        GPUModelRunner.execute_model(runner, output)
    return model.calls


def _execute_model(
    self: Any, scheduler_output: Any, intermediate_tensors: Any = None, dummy_run: bool = False
) -> str:
    self.encode(self.model_state, scheduler_output.scheduled_encoder_inputs)
    return "output"


def main() -> None:
    """Run and write the output."""
    from probe_doubles import ListRing
    from vllm.v1.worker.gpu.model_runner import GPUModelRunner

    GPUModelRunner.execute_model = _execute_model
    ring = ListRing()
    install.enable(open_ring=lambda: ring)
    calls = run()
    Path(sys.argv[1]).write_text(
        json.dumps(
            {"records": ring.rows, "info": ring.info, "hook_errors": ring.hook_errors, "calls": calls},
            default=str,
        )
    )


if __name__ == "__main__":
    main()
