"""Loading with a quantisation, and with networks that lie elsewhere than they compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import PipelineQuantizationConfig

import unified
from inversion.methods.optimize import Optimize
from inversion.spaces.parameter import LoRA
from inversion.spaces.textual import Word
from tests.tiny import diffusion as tiny_diffusion
from tests.tiny.families import pictures
from unified.contract.recipe import Recipe, Stage
from unified.contract.space import Space
from unified.errors import UserError
from unified.inversion import InvertSettings, invert

SD = "stable-diffusion"
MAKE = {SD: tiny_diffusion.stable_diffusion_pipeline, "flux": tiny_diffusion.flux_pipeline}
FOUR_BITS = {"quant_backend": "bitsandbytes_4bit", "quant_kwargs": {"load_in_4bit": True}}


def saved(folder: Path, family: str = SD) -> Path:
    MAKE[family]().save_pretrained(folder / family)
    return folder / family


@pytest.mark.parametrize("given", [FOUR_BITS, PipelineQuantizationConfig(**FOUR_BITS)])
def test_a_quantisation_reaches_diffusers(given: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def from_pretrained(cls: Any, path: Path, **options: Any) -> Any:
        asked.append(options)
        return MAKE[SD]()

    path = saved(tmp_path)
    monkeypatch.setattr(diffusers.StableDiffusionPipeline, "from_pretrained", classmethod(from_pretrained))
    backbone = unified.load(path, settings={"quantization": given, "dtype": "bfloat16"})
    (options,) = asked
    config = options["quantization_config"]
    assert isinstance(config, PipelineQuantizationConfig) and config.quant_backend == "bitsandbytes_4bit"
    assert config.quant_kwargs == {"load_in_4bit": True}
    assert options["dtype"] == torch.bfloat16 and options["use_safetensors"] and options["local_files_only"]
    assert backbone.name == SD


def test_without_the_quantising_package_it_says_what_to_install(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        with pytest.raises(UserError, match=r"could not be loaded quantised \(.*bitsandbytes.*install"):
            unified.load(saved(tmp_path), settings={"quantization": FOUR_BITS})


def plan(space: Space) -> Recipe:
    return Recipe("t", (Stage((space,), Optimize(steps=2, lr=1e-2)),), "", "")


@pytest.mark.parametrize("family", MAKE)
def test_offloaded_networks_give_the_same(family: str, tmp_path: Path) -> None:
    """On a machine with one device they go to where they came from, by the same way."""
    path = saved(tmp_path, family)
    here, away = unified.load(path), unified.load(path, settings={"offload": "cpu"})
    network = away.components[away.tunable()[0]]
    assert all(value.device.type == "meta" for value in network.parameters())
    assert away.fingerprint == here.fingerprint
    options = {"prompt": "a hat", "sampling": {"steps": 2}, "output": "pt"}
    assert torch.equal(here.generate(**options), away.generate(**options))
    found = [invert(each, pictures(here, 1), plan(Word()), InvertSettings()) for each in (here, away)]
    for component, rows in found[0].codes[0].tensors.items():
        assert torch.equal(rows, found[1].codes[0].tensors[component])
    assert all(value.device.type == "meta" for value in network.parameters())
    with pytest.raises(UserError, match="No weight of the generator"):
        invert(away, pictures(here, 1), plan(LoRA()), InvertSettings())
