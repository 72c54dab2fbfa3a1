"""A concept leaves the library as a checkpoint, and comes back with identical pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from inversion.methods.optimize import Optimize
from inversion.spaces.channels import StyleChannels
from inversion.spaces.parameter import LoRA
from inversion.spaces.style import W
from tests.tiny.families import pictures, tiny
from tests.tiny.gan import stylegan
from unified.cli import main
from unified.contract.concept import Concept
from unified.contract.random import Random
from unified.contract.recipe import Recipe, Stage, recipes
from unified.contract.target import Target
from unified.errors import UserError
from unified.exporting import export
from unified.inversion import InvertSettings, invert
from unified.loading import load


def draw(backbone, concept: Concept) -> torch.Tensor:
    with backbone.bound(concept) as view:
        return view.sample(Target(), rng=Random(0))


@pytest.fixture(scope="module")
def pti() -> Concept:
    """Two pivots with their noise, and tuned weights."""
    gan = tiny("stylegan")
    plan = recipes.get("pti").with_overrides(steps=(4, 6), lr=(0.05, 3e-3))
    return invert(gan, pictures(gan, 2), plan, InvertSettings())


@pytest.mark.parametrize("picture", [0, 1])
def test_a_pti_concept_comes_back_with_identical_pictures(pti: Concept, picture: int, tmp_path) -> None:
    gan = tiny("stylegan")
    expected = draw(gan, pti.with_codes([code.pick([picture]) for code in pti.codes]))
    # In a batch of two the same picture is rounded differently.
    assert torch.allclose(expected, draw(gan, pti)[picture : picture + 1], atol=1e-5)
    written = export(gan, pti, tmp_path / "me.pt", picture=picture)
    assert [path.name for path in written] == ["me.pt", "me.npz", "me.safetensors"]
    back = load(tmp_path / "me.pt")
    assert back.fingerprint != gan.fingerprint
    assert torch.equal(draw(back, Concept.load(tmp_path / "me.safetensors")), expected)
    # Any tool that reads the two public formats makes the same picture.
    with np.load(tmp_path / "me.npz") as file:
        styles = torch.from_numpy(file["w"])
    assert styles.shape == (1, 8, 16)
    assert torch.equal((back.synthesis(styles) / 2 + 0.5).clamp(0, 1), expected)


def test_low_rank_changes_are_written_in_too(tmp_path) -> None:
    gan = tiny("stylegan")
    stages = (Stage((W(),), Optimize(steps=2)), Stage((LoRA(rank=2),), Optimize(steps=4, lr=0.05)))
    concept = invert(gan, pictures(gan, 1), Recipe("t", stages, "", ""), InvertSettings()).scaled(0.5)
    export(gan, concept, tmp_path / "me.pt")
    back = load(tmp_path / "me.pt")
    assert torch.equal(draw(back, Concept.load(tmp_path / "me.safetensors")), draw(gan, concept))


def test_what_cannot_be_written_is_refused_before_anything_is(pti: Concept, tmp_path) -> None:
    gan = tiny("stylegan")
    stages = (Stage((StyleChannels(),), Optimize(steps=1)),)
    channels = invert(gan, pictures(gan, 1), Recipe("t", stages, "", ""), InvertSettings())
    with pytest.raises(UserError, match="style channels"):
        export(gan, channels, tmp_path / "me.pt")
    with pytest.raises(UserError, match=r"can be written as \.pt"):
        export(gan, pti, tmp_path / "me.ckpt")
    with pytest.raises(UserError, match="no other format"):
        export(tiny("emu3"), Concept(pti.codes), tmp_path / "me.pt")
    with pytest.raises(UserError, match="the concept has 2"):
        export(gan, pti, tmp_path / "me.pt", picture=2)
    with pytest.raises(UserError, match="inverted on"):
        export(stylegan(seed=7), pti, tmp_path / "me.pt")
    assert not list(tmp_path.iterdir())


def test_as_a_command(pti: Concept, tmp_path, capsys) -> None:
    from backbones.stylegan.formats.tensors import save_networks

    save_networks(tmp_path / "gan.safetensors", tiny("stylegan").generator)
    file = pti.save(tmp_path / "concept.safetensors")
    with pytest.raises(SystemExit) as end:
        main(["export", str(file), "--model", str(tmp_path / "gan.safetensors"), "--to", str(tmp_path / "me.pt")])
    assert not end.value.code
    assert capsys.readouterr().out.split() == [str(tmp_path / f"me.{s}") for s in ("pt", "npz", "safetensors")]
