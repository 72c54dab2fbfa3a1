"""The three trainings on coloured squares: they learn, resume exactly, and export what loads offline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline
from safetensors.torch import load_file
from transformers import CLIPModel, CLIPTokenizer

from backbones.diffusion.train import autoencoder, clip, unet
from backbones.diffusion.train.tokenizer import build_tokenizer
from tests.backbones.diffusion.stand_in import VOCABULARY, squares
from unified.errors import UserError
from unified.zoo.training import BuildSettings

PICTURES = squares(4)
CLIP_SIZES = clip.Sizes(
    text_width=32, text_layers=2, text_heads=2, picture_width=32, picture_layers=2, picture_heads=2,
    patch=4, picture=16, shared=16,
)  # fmt: skip
AUTOENCODER_SIZES = autoencoder.Sizes(channels=(8, 8, 8), groups=4, picture=16)
UNET_SIZES = unet.Sizes(channels=(8, 16), attention=(False, True), heads=2, groups=4)


def _settings(folder: Path, name: str, *, steps: int, batch: int = 8) -> BuildSettings:
    return BuildSettings(out=folder / "zoo" / name, work=folder / "work" / name, steps=steps, batch=batch)


CLIP_RECIPE = clip.Recipe(learning_rate=3e-3, warmup=10, half_life=10.0, attributes_per_step=2)
GRADIENTS = ("gradient differences", autoencoder.gradient_distance)


def train_clip(settings: BuildSettings) -> None:
    clip.train(
        settings,
        pictures=PICTURES,
        validation=PICTURES,
        vocabulary=VOCABULARY,
        sizes=CLIP_SIZES,
        recipe=CLIP_RECIPE,
    )


def train_autoencoder(settings: BuildSettings) -> None:
    autoencoder.train(
        settings,
        pictures=PICTURES,
        validation=PICTURES,
        sizes=AUTOENCODER_SIZES,
        recipe=autoencoder.Recipe(learning_rate=6e-3, warmup=5, half_life=10.0),
        perceptual=GRADIENTS,
    )


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a barely trained "clip" and "autoencoder"."""
    folder = tmp_path_factory.mktemp("trained")
    train_clip(_settings(folder, "clip", steps=3))
    train_autoencoder(_settings(folder, "autoencoder", steps=3))
    return folder / "zoo"


def train_unet(settings: BuildSettings, zoo: Path) -> None:
    unet.train(
        settings,
        pictures=PICTURES,
        validation=PICTURES,
        clip=zoo / "clip",
        autoencoder=zoo / "autoencoder",
        sizes=UNET_SIZES,
        recipe=unet.Recipe(warmup=2),
    )


@pytest.mark.parametrize("name", ["clip", "autoencoder", "unet"])
def test_resuming_changes_nothing(name: str, tmp_path: Path, zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainings: dict[str, Callable[[BuildSettings], None]] = {
        "clip": train_clip,
        "autoencoder": train_autoencoder,
        "unet": lambda settings: train_unet(settings, zoo),
    }
    train = trainings[name]
    module = {"clip": clip, "autoencoder": autoencoder, "unet": unet}[name]
    monkeypatch.setattr(module, "export", lambda *args, **kwargs: None)
    monkeypatch.setattr(module, "evaluate", lambda *args, **kwargs: {})
    whole = _settings(tmp_path / "whole", name, steps=4, batch=4)
    parts = _settings(tmp_path / "parts", name, steps=4, batch=4)
    train(whole)
    original = module.train_loop

    def interrupted(step_fn, **options):  # type: ignore[no-untyped-def]
        def step(number: int) -> dict[str, float]:
            if number == 2:
                raise KeyboardInterrupt
            return step_fn(number)

        return original(step, **options)

    with monkeypatch.context() as patch:
        patch.setattr(module, "train_loop", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(parts)
    train(parts)
    first, second = (torch.load(folder.work / "checkpoint.pt", weights_only=True) for folder in (whole, parts))
    assert first["step"] == second["step"] == 4
    for part in ("model", "average"):
        assert first["state"][part].keys() == second["state"][part].keys()
        for key, value in first["state"][part].items():
            assert torch.equal(value, second["state"][part][key]), (part, key)


def test_clip_learns_the_colours_and_loads_offline(tmp_path: Path) -> None:
    settings = _settings(tmp_path, "clip", steps=150, batch=16)
    train_clip(settings)
    model = CLIPModel.from_pretrained(settings.out, local_files_only=True).eval()
    tokenizer = CLIPTokenizer.from_pretrained(settings.out, local_files_only=True)
    assert model.dtype == torch.float32
    assert model.config.text_config.eos_token_id == tokenizer.eos_token_id
    assert load_file(settings.out / "model.safetensors")["logit_scale"].dtype == torch.float16
    scores = clip.evaluate(model, tokenizer, PICTURES, gallery=9)
    assert scores["mean_accuracy"] > 0.9
    assert scores["picture_to_text_recall_at_5"] > 0.8
    assert "zero-shot" in (settings.out / "card.md").read_text()


def test_clip_pools_at_the_first_end_token() -> None:
    tokenizer = build_tokenizer(VOCABULARY)
    model = clip.make_model(tokenizer, CLIP_SIZES).eval()
    ids = clip.tokenize(tokenizer, ["a red square"], full=True)
    output = model.text_model(input_ids=ids)
    end = ids[0].tolist().index(tokenizer.eos_token_id)
    torch.testing.assert_close(output.pooler_output[0], output.last_hidden_state[0, end])


def test_alike_batches_hold_near_relatives_but_no_twins() -> None:
    generator = torch.Generator().manual_seed(0)
    indices = clip.alike_batch(PICTURES, 16, alike=1.0, generator=generator)
    labels = torch.as_tensor(PICTURES.labels)[indices]
    anchors, relatives = labels[:4], labels[4:].reshape(4, 3, 2)
    assert ((relatives == anchors[:, None]).sum(2) == 1).all()


def test_autoencoder_learns_and_loads_offline(tmp_path: Path) -> None:
    settings = _settings(tmp_path, "autoencoder", steps=100)
    train_autoencoder(settings)
    model = AutoencoderKL.from_pretrained(settings.out, local_files_only=True).eval()
    scores = autoencoder.evaluate(model, PICTURES, perceptual=GRADIENTS)
    assert scores["psnr"] > 14  # one colour for all: 8 dB
    with torch.no_grad():
        latents = autoencoder.encode(model, PICTURES)
    assert latents.shape == (36, 4, 4, 4)
    assert (latents * model.config.scaling_factor).std().item() == pytest.approx(1, abs=0.01)
    assert (settings.out / "reconstructions.png").exists()


def test_peak_signal_to_noise_of_a_known_error() -> None:
    # An error of 0.1 on 0..1 is 0.2 on -1..1: 20 dB.
    first = torch.zeros(2, 3, 8, 8)
    torch.testing.assert_close(autoencoder.peak_signal_to_noise(first, first + 0.2), torch.full((2,), 20.0))


def test_gradient_distance_ignores_a_constant_and_sees_an_edge() -> None:
    flat, edge = torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16)
    edge[..., 8:] = 1
    assert autoencoder.gradient_distance(flat, flat + 0.5).item() == pytest.approx(0, abs=1e-6)
    # One column of 15, 7 and 3 differences is 1 at the three scales.
    assert autoencoder.gradient_distance(flat, edge).item() == pytest.approx(1 / 15 + 1 / 7 + 1 / 3)


def test_pipeline_is_complete_and_loads_offline(tmp_path: Path, zoo: Path) -> None:
    settings = _settings(tmp_path, "unet", steps=2)
    train_unet(settings, zoo)
    pipeline = StableDiffusionPipeline.from_pretrained(settings.out, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    for part in (pipeline.unet, pipeline.text_encoder, pipeline.vae):
        assert part.dtype == torch.float32
    assert isinstance(pipeline.scheduler, DDIMScheduler)
    assert pipeline.scheduler.config.steps_offset == 1
    assert not pipeline.scheduler.config.clip_sample and not pipeline.scheduler.config.set_alpha_to_one
    assert pipeline.safety_checker is None
    expected = AutoencoderKL.from_pretrained(zoo / "autoencoder", local_files_only=True)
    assert pipeline.vae.config.scaling_factor == expected.config.scaling_factor
    images = unet.sample(pipeline, ["a red square", ""], steps=2)
    assert images.shape == (2, 3, 16, 16)
    torch.testing.assert_close(images, unet.sample(pipeline, ["a red square", ""], steps=2), rtol=0, atol=0)
    assert "trained together" in " ".join((settings.out / "card.md").read_text().split())


def test_missing_parts_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="avatars/clip"):
        train_unet(_settings(tmp_path, "unet", steps=1), tmp_path)


def test_latents_are_computed_once_for_an_autoencoder(zoo: Path, tmp_path: Path) -> None:
    model = AutoencoderKL.from_pretrained(zoo / "autoencoder", local_files_only=True)
    first = unet.cached_latents(model, PICTURES, work=tmp_path)
    (file,) = tmp_path.iterdir()
    changed = file.stat().st_mtime_ns
    torch.testing.assert_close(unet.cached_latents(model, PICTURES, work=tmp_path), first, rtol=0, atol=0)
    assert file.stat().st_mtime_ns == changed
    with torch.no_grad():
        model.encoder.conv_in.weight.add_(0.1)
    unet.cached_latents(model, PICTURES, work=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_min_snr_weights() -> None:
    # Hang et al. 2023, section 3.4, epsilon prediction: min(SNR, gamma) / SNR.
    alphas = torch.tensor([0.5, 0.9, 0.99])  # SNR 1, 9, 99
    torch.testing.assert_close(
        unet.min_snr_weights(alphas, limit=5.0), torch.tensor([1.0, 5 / 9, 5 / 99]), rtol=1e-4, atol=0
    )
    torch.testing.assert_close(unet.min_snr_weights(alphas, limit=float("inf")), torch.ones(3))


def test_timesteps_fill_every_stratum() -> None:
    times = unet.stratified_timesteps(10, 1000, generator=torch.Generator().manual_seed(1))
    assert sorted(int(time) // 100 for time in times) == list(range(10))
    drawn = torch.cat(
        [unet.stratified_timesteps(4, 1000, generator=torch.Generator().manual_seed(seed)) for seed in range(500)]
    )
    assert drawn.min() < 5 and drawn.max() > 994
    assert drawn.float().mean().item() == pytest.approx(499.5, abs=10)
