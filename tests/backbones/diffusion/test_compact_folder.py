"""Compact pipeline folders: small, shared with others, and the same model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import unified
from backbones.diffusion.compact_folder import FILE, Place, compact
from backbones.diffusion.loading import read_pipeline
from tests.tiny import diffusion as tiny_diffusion
from unified.errors import UserError

VAE, CLIP = "vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"
SHARED = {"vae": Place("../other/autoencoder.safetensors"), "text_encoder": Place("../other/clip.safetensors", "text.")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A plain pipeline folder, and one beside it that holds two of its networks."""
    tiny_diffusion.flux_pipeline().save_pretrained(tmp_path / "model")
    (tmp_path / "other").mkdir()
    save_file(load_file(tmp_path / "model" / VAE), tmp_path / "other" / "autoencoder.safetensors")
    clip = {f"text.{name}": value for name, value in load_file(tmp_path / "model" / CLIP).items()}
    save_file(clip | {"vision.weight": torch.zeros(2)}, tmp_path / "other" / "clip.safetensors")
    return tmp_path / "model"


def weight_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def test_it_is_the_same_model_in_a_quarter_of_the_bytes(folder: Path, tmp_path: Path) -> None:
    plain = unified.load(folder)
    before = sum((folder / part).stat().st_size for part in (VAE, CLIP)), weight_bytes(folder)
    options = {"prompt": "a hat", "sampling": {"steps": 2}, "seed": 1, "output": "pt"}
    expected = plain.generate(**options)
    compact(folder, SHARED)
    assert not (folder / VAE).exists() and not (folder / CLIP).exists()
    assert weight_bytes(folder) < 0.6 * (before[1] - before[0])  # tensors this small are stored in two bytes
    small = unified.load(folder)
    assert small.name == "flux" and torch.allclose(small.generate(**options), expected, atol=2e-2)
    for part in ("vae", "text_encoder"):
        for one, other in zip(small.components[part].parameters(), plain.components[part].parameters(), strict=True):
            assert torch.equal(one, other)
    read_pipeline(folder, "small").save_pretrained(tmp_path / "again")
    assert not (tmp_path / "again" / FILE).exists()
    assert unified.load(tmp_path / "again").fingerprint == small.fingerprint


def test_precision_is_kept_and_quantisation_refused(folder: Path) -> None:
    compact(folder, SHARED)
    half = unified.load(folder, settings={"dtype": "bfloat16"})
    assert {p.dtype for part in half.components.values() for p in part.parameters()} == {torch.bfloat16}
    with pytest.raises(UserError, match="a byte a weight"):
        unified.load(folder, settings={"quantization": {"quant_backend": "torchao", "quant_kwargs": {}}})


def test_a_network_that_is_another_is_not_shared(folder: Path, tmp_path: Path) -> None:
    donor = tmp_path / "other" / "autoencoder.safetensors"
    save_file({name: value + 1 for name, value in load_file(donor).items()}, donor)
    with pytest.raises(UserError, match=r"vae of .* cannot be shared"):
        compact(folder, SHARED)
    assert (folder / VAE).exists() and not (folder / FILE).exists()


def test_damage_is_told(folder: Path, tmp_path: Path) -> None:
    compact(folder, SHARED)
    (tmp_path / "other" / "clip.safetensors").unlink()
    with pytest.raises(UserError, match="cannot be read as a compact pipeline"):
        unified.load(folder)
    places = json.loads((folder / FILE).read_text())
    places["vae"]["file"] = places["transformer"]["file"]
    (folder / FILE).write_text(json.dumps(places))
    with pytest.raises(UserError, match="cannot be read as a compact pipeline"):
        unified.load(folder)
    (folder / FILE).write_text("{")
    with pytest.raises(UserError, match="cannot be read as a compact pipeline"):
        unified.load(folder)
