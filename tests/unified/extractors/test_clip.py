"""The CLIP scorer against transformers' own way through a folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

from unified.errors import UserError
from unified.extractors import clip
from unified.extractors.clip import Preparation, load

SIZE = 16
MEAN, DEVIATION = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random CLIP as save_pretrained leaves it, in fp16, with a tokenizer of letters."""
    path = tmp_path_factory.mktemp("weights") / "clip"
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = [*letters, *(c + "</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=[], model_max_length=12)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = CLIPTextConfig(
        vocab_size=len(tokens),
        max_position_embeddings=12,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **sizes,
    )
    vision = CLIPVisionConfig(image_size=SIZE, patch_size=8, **sizes)
    torch.manual_seed(0)
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=8)
    CLIPModel(config).half().save_pretrained(path)
    tokenizer.save_pretrained(path)
    CLIPImageProcessor(
        size={"shortest_edge": SIZE}, crop_size=SIZE, image_mean=list(MEAN), image_std=list(DEVIATION)
    ).save_pretrained(path)
    return path


def smooth(height: int, width: int, count: int = 2) -> torch.Tensor:
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    return functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)


@pytest.mark.parametrize("shape", [(16, 16), (40, 40), (40, 64), (64, 40), (9, 12)])
def test_images_as_transformers_prepares_them(folder: Path, shape: tuple[int, int]) -> None:
    scorer, processor = load(folder), CLIPImageProcessor.from_pretrained(folder)
    images = (smooth(*shape) * 255).round() / 255
    pixels = processor((images * 255).to(torch.uint8), return_tensors="pt")["pixel_values"]
    ours = scorer.preparation(images)
    assert ours.shape == pixels.shape == (2, 3, SIZE, SIZE)
    # transformers scales bytes, one axis after the other, rounding and clamping each time.
    torch.testing.assert_close(ours, pixels, atol=0.06, rtol=0)
    model = CLIPModel.from_pretrained(folder, dtype=torch.float32)
    pooled = model.vision_model(pixel_values=ours).pooler_output
    expected = functional.normalize(model.visual_projection(pooled), dim=1)
    torch.testing.assert_close(scorer.image_features(images), expected)


def test_normalisation_closed_form() -> None:
    images = smooth(8, 8)
    ready = Preparation(8, MEAN, DEVIATION)(images)
    for channel in range(3):
        torch.testing.assert_close(ready[:, channel], (images[:, channel] - MEAN[channel]) / DEVIATION[channel])
    grey = Preparation(8, (0.5,) * 3, (0.5,) * 3)(torch.full((1, 3, 31, 17), 0.75))
    torch.testing.assert_close(grey, torch.full((1, 3, 8, 8), 0.5))


def test_texts_do_not_depend_on_their_neighbours(folder: Path) -> None:
    scorer = load(folder)
    texts = ["abc", "a b c d e", "zz"]
    together = scorer.text_features(texts)
    for text, row in zip(texts, together, strict=True):
        torch.testing.assert_close(scorer.text_features([text])[0], row)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(3))
    assert scorer.text_features(["a " * 100]).shape == (1, 8)  # cut, not refused
    images = smooth(20, 20)
    torch.testing.assert_close(scorer.similarity(images, texts), scorer.image_features(images) @ together.T)


def test_the_text_that_pools_is_the_end_token(folder: Path) -> None:
    scorer, texts = load(folder), ["abc", "a b"]
    tokens = scorer.tokenizer(texts, padding=True, return_tensors="pt")
    hidden = scorer.model.text_model(**tokens).last_hidden_state
    ends = (tokens["input_ids"] == scorer.tokenizer.eos_token_id).int().argmax(1)
    expected = functional.normalize(scorer.model.text_projection(hidden[torch.arange(2), ends]), dim=1)
    torch.testing.assert_close(scorer.text_features(texts), expected)


def test_gradient_reaches_the_picture_and_not_the_model(folder: Path) -> None:
    scorer = load(folder)
    scorer.model.double()
    images = smooth(24, 24, 1).double().requires_grad_()
    text = scorer.text_features(["abc"])[0]
    (gradient,) = torch.autograd.grad((scorer.image_features(images) @ text).sum(), [images])
    direction = torch.randn_like(images)
    step = 1e-5
    with torch.no_grad():
        ahead, behind = (scorer.image_features(images + s * direction)[0] @ text for s in (step, -step))
    assert float((gradient * direction).sum()) == pytest.approx(float(ahead - behind) / (2 * step), rel=1e-4)
    assert not any(p.requires_grad for p in scorer.model.parameters())


def test_tokens_are_what_leaves_a_layer(folder: Path) -> None:
    """The hidden states of the vision model, without the first token, and differentiable."""
    scorer, images = load(folder), smooth(SIZE, SIZE)
    pixels = scorer.preparation(images)
    hidden = scorer.model.vision_model(pixel_values=pixels, output_hidden_states=True).hidden_states
    assert torch.equal(scorer.image_tokens(images), hidden[1][:, 1:])  # a quarter of two layers, at least one
    assert torch.equal(scorer.image_tokens(images, layer=2), hidden[2][:, 1:])
    images.requires_grad_()
    assert bool(torch.autograd.grad(scorer.image_tokens(images).square().sum(), [images])[0].any())
    for layer in (0, 3):
        with pytest.raises(UserError, match="1 to 2"):
            scorer.image_tokens(images, layer=layer)


def test_weights_are_widened_and_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    scorer = load(folder)
    assert "%" not in capfd.readouterr().err  # no bar of transformers'
    assert scorer.model.visual_projection.weight.dtype == torch.float32
    assert scorer.name == "clip"
    monkeypatch.setattr(clip, "WEIGHTS", folder.parent)
    assert load().name == "avatars/clip" and clip.present()


def test_a_folder_without_preparation_gets_the_released_one(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        if "processor" not in file.name:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    assert load(tmp_path).preparation == Preparation(SIZE)


def test_refusals(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="holds no CLIP"):
        load(tmp_path)
    monkeypatch.setattr(clip, "WEIGHTS", tmp_path)
    with pytest.raises(UserError, match="unified zoo build avatars/clip"):
        load()
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"short")
    with pytest.raises(UserError, match="cannot be loaded"):
        load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UserError, match="cannot be loaded"):
        load(tmp_path)
    scorer = load(folder)
    for bad in (torch.rand(3, 16, 16), torch.rand(1, 1, 16, 16), torch.zeros(1, 3, 16, 16, dtype=torch.uint8)):
        with pytest.raises(UserError, match="N, 3"):
            scorer.image_features(bad)
    with pytest.raises(UserError, match="no text"):
        scorer.text_features([])
