"""Picture encoders: a few steps of training change what is trained alone, and what is written can be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from backbones.diffusion import e4t, elite
from backbones.diffusion.ip_adapter import FILE, load
from backbones.diffusion.stable_diffusion import StableDiffusion
from backbones.diffusion.train import e4t as e4t_training
from backbones.diffusion.train import elite as elite_training
from backbones.diffusion.train import ip_adapter
from backbones.diffusion.train.pairs import Pairs
from backbones.diffusion.train.words import Speaker, with_name
from tests.backbones.diffusion.stand_in import squares
from tests.tiny.diffusion import stable_diffusion_pipeline
from tests.tiny.picture_adapters import vision
from unified.zoo.training import BuildSettings


def pairs(repeats: int = 2) -> Pairs:
    """Squares of one colour are one person; the ground differs."""
    pictures = squares(repeats, side=64)
    order = np.argsort(pictures.labels[:, 0], kind="stable")
    sorted_pictures = type(pictures)(
        pictures.images[order], pictures.labels[order], pictures.attributes, pictures.caption, pictures.prompt
    )
    return Pairs(sorted_pictures, sorted_pictures.labels[:, 0], ("ground",))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    stable_diffusion_pipeline().save_pretrained(root / "stable-diffusion")
    torch.manual_seed(0)
    vision().save_pretrained(root / "clip")
    return root


def settings(out: Path, steps: int) -> BuildSettings:
    return BuildSettings(out=out, work=out.parent / f".{out.name}-work", steps=steps, batch=4)


def test_pairs_are_two_pictures_of_one_person_and_captions_say_what_differs() -> None:
    data = pairs()
    references, targets = data.draw(40, generator=torch.Generator().manual_seed(0))
    assert (data.person[references] == data.person[targets]).all()
    assert bool((references != targets).all())
    captions = data.captions(targets, generator=torch.Generator().manual_seed(0))
    assert all("ground" in text and "square" not in text for text in captions)
    assert data.person[data.people(3)].tolist() == [0, 1, 2]


def test_ip_adapter_is_trained_and_read_by_diffusers(folders: Path, tmp_path: Path) -> None:
    out = tmp_path / "ip-adapter"
    options = {
        "pairs": pairs(),
        "validation": pairs(1),
        "base": folders / "stable-diffusion",
        "clip": folders / "clip",
        "sizes": ip_adapter.Sizes(tokens=2, width=8),
    }
    ip_adapter.train(settings(out, 2), **options)
    ip_adapter.train(settings(out, 3), **options)  # goes on from the checkpoint
    assert (out / "card.md").read_text().count("3 steps of 4") == 1
    pipeline = stable_diffusion_pipeline()
    untouched = stable_diffusion_pipeline().unet.state_dict()
    backbone = StableDiffusion("t", stable_diffusion_pipeline())
    own = load(backbone, str(out / FILE))
    pipeline.load_ip_adapter(str(out), subfolder="", weight_name=FILE, local_files_only=True)
    theirs = pipeline.unet.encoder_hid_proj.image_projection_layers[0]
    assert all(torch.equal(a, b) for a, b in zip(own.projection.parameters(), theirs.parameters(), strict=True))
    for name, (key, value) in own.matrices.items():
        before = untouched[f"{name}.to_k.weight"]
        assert 0 < (key - before).abs().max() < 0.1  # began as the text's, and moved
        assert torch.equal(pipeline.unet.attn_processors[f"{name}.processor"].to_v_ip[0].weight, value)
    after = pipeline.unet.state_dict()
    assert all(torch.equal(after[name], value) for name, value in untouched.items())


def test_rows_without_a_picture_get_the_features_of_none() -> None:
    features, absent = torch.ones(3, 2, 4), torch.zeros(1, 2, 4)
    found = ip_adapter.without(features, absent, torch.tensor([False, True, False]))
    assert found.sum((1, 2)).tolist() == [8, 0, 8]


def test_elite_is_trained_in_two_stages(folders: Path, tmp_path: Path) -> None:
    options = {"pairs": pairs(), "base": folders / "stable-diffusion", "clip": folders / "clip"}
    kept = []
    for share in (0.0, 1.0):
        out = folders / f"elite-{share}"
        recipe = elite_training.Recipe(hidden=6, learning_rate=0.02, warmup=1, first=share, half_life=1e-6)
        elite_training.train(settings(out, 2), subject="a square", recipe=recipe, **options)
        kept.append(elite.load(StableDiffusion("t", stable_diffusion_pipeline()), str(out)).networks.state_dict())
        assert "2 steps of 4" in (out / "card.md").read_text()
    local, whole = kept
    torch.manual_seed(0)
    network = stable_diffusion_pipeline().unet
    text = {name: network.get_submodule(name).to_k.weight for name in elite.cross_shapes(network)}
    for number, matrix in enumerate(text.values()):
        assert torch.allclose(local[f"whole.keys.{number}"], matrix, atol=1e-3)  # frozen in the second stage
        assert torch.allclose(whole[f"local.keys.{number}"], matrix, atol=1e-3)  # not trained in the first
        assert (local[f"local.keys.{number}"] - matrix).abs().max() > 5e-3
        assert (whole[f"whole.keys.{number}"] - matrix).abs().max() > 5e-3


def test_prompts_hold_each_lines_own_rows() -> None:
    pipeline = stable_diffusion_pipeline()
    speaker = Speaker(pipeline.text_encoder, pipeline.tokenizer)
    rows = torch.cat([speaker.class_row("a"), speaker.class_row("b")]).unsqueeze(1)
    found, said = speaker(["x <me> y", "x <me> y"], rows)
    expected, _ = speaker(["x a y", "x b y"], rows)
    assert torch.allclose(found, expected, atol=1e-6) and said.sum(1).tolist() == [1, 1]
    assert with_name(["a person smiling", "a red ground"], "a person") == ["<me> smiling", "<me>, a red ground"]


def test_e4t_is_trained_with_its_weight_offsets(folders: Path) -> None:
    out = folders / "e4t"
    options = {"pairs": pairs(), "base": folders / "stable-diffusion", "clip": folders / "clip"}
    recipe = e4t_training.Recipe(learning_rate=0.02, warmup=1, half_life=1e-6)
    e4t_training.train(settings(out, 3), subject="a square", recipe=recipe, **options)
    found = e4t.load(StableDiffusion("t", stable_diffusion_pipeline()), str(out))
    parts = found.offsets()
    assert all(value.abs().max() > 5e-3 for name, value in parts.items() if name.endswith((".column", ".bias")))
    assert "3 steps of 4" in (out / "card.md").read_text()
