"""`unified invert` and `generate` with noise recipes on a saved tiny pipeline."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.tiny import diffusion as tiny_diffusion
from unified.cli import main
from unified.contract.concept import Concept
from unified.images import read_images, save_images


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return int(end.value.code or 0), capsys.readouterr().err


def test_invert_shows_the_measured_error_and_generate_takes_a_source(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "flux"
    tiny_diffusion.flux_pipeline().save_pretrained(model)
    picture = save_images(torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)), tmp_path / "pictures")[0]
    exact, latents = tmp_path / "exact.safetensors", tmp_path / "latents.safetensors"
    code, said = run(
        capsys,
        "invert",
        picture,
        "-m",
        model,
        "--recipe",
        "ddpm-inversion",
        "--steps",
        4,
        "--category",
        "a",
        "-o",
        exact,
    )
    assert code == 0 and "reconstruction error (root mean square): latents" in said, said
    assert max(Concept.load(exact).meta["error"]["latents"]) < 1e-4
    code, said = run(capsys, "generate", exact, "--prompt", "a dog", "--output", tmp_path / "dog.png")
    assert code == 0, said
    asked = ("--prompt", "a dog", "--source", "a cat", "--scheme", "masactrl")
    code, said = run(capsys, "generate", exact, *asked, "-o", tmp_path / "no.png")
    assert code == 2 and "reads the prompt in each of several layers" in said
    code, said = run(capsys, "invert", picture, "-m", model, "--recipe", "flow-edit", "-o", latents)
    assert code == 0, said
    asked = ("--prompt", "a dog", "--source", "a cat", "--sampling", "steps=4")
    code, said = run(capsys, "generate", latents, *asked, "--output", tmp_path / "edited.png")
    assert code == 0, said
    assert read_images(tmp_path / "edited.png", size=8).shape == (1, 3, 8, 8)
