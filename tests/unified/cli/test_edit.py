"""`unified edit` on a tiny generator in a file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from backbones.stylegan.formats.tensors import save_networks
from tests.editing.conftest import styled
from tests.tiny import gan
from unified.cli import main
from unified.contract.concept import Concept
from unified.images import read_images, save_image

Command = Callable[..., tuple[int, str, str]]


class Warmth:
    """Says whether a picture's red is above its blue."""

    vocabulary = {"warmth": ("cold", "warm")}

    def logits(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        warm = 100 * (images[:, 0] - images[:, 2]).mean((1, 2))
        return {"warmth": torch.stack([-warm, warm], 1)}


@pytest.fixture
def unified_(
    capsys: pytest.CaptureFixture[str], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Command:
    from editing.find import finder
    from editing.find.judging import Judge

    monkeypatch.setenv("UNIFIED_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(finder, "embedded_judge", lambda: Judge("warmth", Warmth()))

    def run(*arguments: Any) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        streams = capsys.readouterr()
        return int(end.value.code or 0), streams.out, streams.err

    return run


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "gan.safetensors"
    save_networks(path, gan.stylegan().generator)
    return path


@pytest.fixture(scope="module")
def me(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import unified

    backbone = unified.load(str(model))
    concept = styled(backbone, 1, space="w+")
    concept.backbone, concept.fingerprint = backbone.id, backbone.fingerprint
    return concept.save(tmp_path_factory.mktemp("concept") / "me.safetensors")


def refused(outcome: tuple[int, str, str], *words: str) -> None:
    code, out, err = outcome
    assert code == 2 and err.strip().splitlines()[-1].startswith("Error: ") and "Traceback" not in err and not out, err
    for word in words:
        assert word in err


def test_find_list_edit_store_and_again(unified_: Command, model: Path, me: Path, tmp_path: Path) -> None:
    refused(unified_("edit", "-m", model, "--list"), "--find", "interfacegan", "sefa", "styleclip")
    refused(unified_("edit", me, "--set", "warm=2", "-o", tmp_path / "a.png"), "--find")
    code, _, err = unified_("edit", "-m", model, "--find", "centres", "--samples", 400)
    assert code == 0 and "2 directions by centres, judged by warmth" in err
    code, out, _ = unified_("edit", "-m", model, "--find", "sefa", "--samples", 50, "--list")
    lines = out.splitlines()
    assert code == 0 and any(line.startswith("sefa:coarse-0") and "judged by warmth" in line for line in lines)
    (warm,) = [line for line in lines if line.startswith("warmth=warm ")]
    assert "accuracy" in warm and "by centres" in warm and "400 random samples" in warm

    edited, stored, kept = tmp_path / "a.png", tmp_path / "warm.json", tmp_path / "kept.safetensors"
    arguments = ("--set", "warmth=warm=2", "--set", "sefa:coarse-0@0-1=-1", "--save-edit", stored, "--save", kept)
    code, out, _ = unified_("edit", me, *arguments, "-o", edited)
    assert code == 0 and out.split() == [str(kept), str(edited)]
    assert json.loads(stored.read_text())["steps"][0] == {"direction": "warmth=warm", "strength": 2.0}

    code, _, _ = unified_("edit", me, "--edit", stored, "-o", tmp_path / "b.png")
    assert code == 0
    again, shown = read_images(tmp_path / "b.png"), read_images(edited)
    assert torch.equal(again, shown)
    concept = Concept.load(kept)
    assert concept.name == "<me>" and concept.fingerprint == Concept.load(me).fingerprint
    code, _, _ = unified_("generate", kept, "-o", tmp_path / "c.png")
    assert code == 0 and torch.equal(read_images(tmp_path / "c.png"), shown)
    refused(unified_("edit", me, "--set", "warm@7-9=1", "-o", edited), "0-7")
    refused(unified_("edit", me, "--set", "smile=1", "-o", edited), "no direction 'smile'")
    refused(unified_("edit", me, "--find", "sifa"), "nearest", "sefa")


def test_drag(unified_: Command, me: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.safetensors"
    code, _, err = unified_("edit", me, "--drag", "10,10:10,10", "--save", kept, "-o", tmp_path / "a.png")
    assert code == 0, err
    dragged = Concept.load(kept)
    assert dragged.meta["drag"]["drags"] == [{"start": [10.0, 10.0], "goal": [10.0, 10.0]}]
    assert torch.equal(dragged.codes[0].tensors["w"], Concept.load(me).codes[0].tensors["w"])
    refused(unified_("edit", me, "--drag", "10,10"), "--drag", "from:to")
    refused(unified_("edit", me, "--drag", "10,10:40,10"), "outside of the picture")
    mask = save_image(torch.zeros(1, 3, 32, 32), tmp_path / "mask.png")
    refused(unified_("edit", me, "--drag", "10,10:12,10", "--mask", mask), "outside of the mask")
    refused(unified_("edit", me, "--set", "smile=1", "--mask", mask), "--drag")


def test_what_makes_no_sense(unified_: Command, me: Path, tmp_path: Path) -> None:
    refused(unified_("edit", me), "no edit")
    refused(unified_("edit", "--set", "a=1"), "--model")
    refused(unified_("edit", me, "--edit", tmp_path / "absent.json"), "no stored edit")
