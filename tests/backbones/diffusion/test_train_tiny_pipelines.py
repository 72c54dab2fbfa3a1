"""The tiny pipelines run, and survive being saved and loaded without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import diffusion

PIPELINES = {
    "stable-diffusion": (diffusion.stable_diffusion_pipeline, 64),
    "stable-diffusion-xl": (diffusion.stable_diffusion_xl_pipeline, 64),
    "stable-diffusion-3": (diffusion.stable_diffusion_3_pipeline, diffusion.FLUX_SIDE),
    "flux": (diffusion.flux_pipeline, diffusion.FLUX_SIDE),
}


def _sample(pipeline: Any, side: int) -> torch.Tensor:
    extra = (
        {}
        if "XL" in type(pipeline).__name__ or "text_encoder_2" not in pipeline.components
        else {"max_sequence_length": 48}
    )
    return pipeline(
        "a person",
        height=side,
        width=side,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
        **extra,
    ).images


@pytest.mark.parametrize("family", PIPELINES)
def test_saved_and_loaded_pipeline_gives_the_same_picture(family: str, tmp_path: Path) -> None:
    make, side = PIPELINES[family]
    pipeline = make()
    expected = _sample(pipeline, side)
    assert expected.shape == (1, 3, side, side)
    pipeline.save_pretrained(tmp_path)
    loaded = type(pipeline).from_pretrained(tmp_path, local_files_only=True)
    loaded.set_progress_bar_config(disable=True)
    # Loaded tensors may be aligned differently in memory, which changes the last bits.
    torch.testing.assert_close(_sample(loaded, side), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", PIPELINES)
def test_tiny_pipelines_are_tiny_and_frozen(family: str) -> None:
    pipeline = PIPELINES[family][0]()
    values = [
        value
        for component in pipeline.components.values()
        if isinstance(component, torch.nn.Module)
        for value in component.parameters()
    ]
    assert sum(value.numel() for value in values) < 300_000
    assert not any(value.requires_grad for value in values)


def test_backbones_of_the_tiny_pipelines_have_their_dtype() -> None:
    assert diffusion.stable_diffusion(dtype=torch.float64).dtype == torch.float64
    assert diffusion.flux(dtype=torch.float64).dtype == torch.float64
    assert diffusion.flux().resolution == diffusion.FLUX_SIDE
    assert diffusion.stable_diffusion().resolution == 64
