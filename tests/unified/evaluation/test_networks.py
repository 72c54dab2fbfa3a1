"""The real extractors' code, on tiny weights of the real formats."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional

from unified.errors import UserError
from unified.evaluation import networks
from unified.evaluation.networks import Crop, VisionTransformer, load_dino, load_lpips_squeeze, structure_distance
from unified.extractors import clip
from unified.images import to_pil


@pytest.fixture(scope="module")
def model() -> Any:
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=224,
        patch_size=56,
        initializer_range=0.5,
    )
    return ViTModel(config, add_pooling_layer=False).eval()


@pytest.mark.parametrize("shape", [(300, 300), (200, 331), (517, 260), (64, 64)])
def test_crops_are_those_of_the_published_code(shape: tuple[int, int]) -> None:
    from torchvision import transforms

    picture = torch.rand(3, *shape)
    published = transforms.Compose(
        [
            transforms.Resize(256, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(*networks.IMAGENET),
        ]
    )
    found = networks.DINO_CROP([picture])[0]
    torch.testing.assert_close(found, published(to_pil(picture)[0]))


def test_a_picture_of_the_right_size_is_not_touched() -> None:
    pixels = torch.randint(0, 256, (3, 32, 32))
    crop = Crop(32, 32, (0.0,) * 3, (1.0,) * 3)
    assert torch.equal((crop([pixels / 255])[0] * 255).round().long(), pixels)
    assert isinstance(to_pil(pixels / 255)[0], Image.Image)


def test_dino_is_the_class_token_and_comes_from_a_folder(model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "dino-tiny")
    found = load_dino(str(tmp_path / "dino-tiny"))
    pictures = [torch.rand(3, 300, 260), torch.rand(3, 100, 100)]
    with torch.no_grad():
        expected = model(pixel_values=networks.DINO_CROP(pictures)).last_hidden_state[:, 0]
    torch.testing.assert_close(found.images(pictures), expected)
    assert found.name.endswith("dino-tiny, 256 > 224")


def test_keys_are_those_of_the_last_layer(model: Any) -> None:
    pixels = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        states = model(pixel_values=pixels, output_hidden_states=True).hidden_states
        last = model.layers[-1]
        expected = last.attention.k_proj(last.layernorm_before(states[-2]))
        found = VisionTransformer("tiny", model).keys(pixels)
    torch.testing.assert_close(found, expected)


def test_structure_distance_by_its_definition(model: Any) -> None:
    network = VisionTransformer("tiny", model)
    a, b = torch.rand(1, 3, 224, 224), torch.rand(1, 3, 224, 224)
    mean, deviation = (torch.tensor(values).view(1, 3, 1, 1) for values in networks.IMAGENET)
    maps = []
    with torch.no_grad():
        for picture in (a, b):
            keys = network.keys((picture * 255 - mean) / deviation)[0]
            maps.append([[float(functional.cosine_similarity(x, y, dim=0)) for y in keys] for x in keys])
        expected = (torch.tensor(maps[0]) - torch.tensor(maps[1])).square().mean()
        assert float(structure_distance(network, a, b)) == pytest.approx(float(expected), rel=1e-4)
        assert float(structure_distance(network, a, a)) == 0
        assert float(structure_distance(network, a, b, pixels=1)) != pytest.approx(float(expected), rel=1e-2)


def test_lpips_squeeze_is_that_of_the_lpips_package(tmp_path: Path) -> None:
    import lpips
    from torchvision.models import squeezenet1_1

    trunk = squeezenet1_1(weights=None)
    save_file(trunk.state_dict(), tmp_path / "squeezenet.safetensors")
    ours = load_lpips_squeeze(tmp_path / "squeezenet.safetensors")
    theirs = lpips.LPIPS(net="squeeze", pnet_rand=True, verbose=False)
    for part in (getattr(theirs.net, f"slice{number}") for number in range(1, 8)):
        for name, layer in part.named_children():
            layer.load_state_dict(trunk.features[int(name)].state_dict())
    a, b = (2 * torch.rand(1, 3, 64, 64) - 1 for _ in range(2))
    with torch.no_grad():
        assert float(ours(a, b)) == pytest.approx(float(theirs(a, b)), rel=1e-4)
        assert float(ours(a, a)) == 0


@pytest.mark.parametrize("load", [networks.load_dino, networks.load_clip, networks.load_lpips_squeeze])
def test_weights_that_cannot_be_had_are_said_to_be(load: object, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give a folder or file"):
        load(str(tmp_path / "nothing-here"))  # type: ignore[operator]


def test_offline_a_hub_id_is_a_clear_error() -> None:
    with pytest.raises(UserError, match="facebook/dino-vits16"):
        load_dino("facebook/dino-vits16")


def test_no_picture_is_refused(model: Any) -> None:
    with pytest.raises(UserError, match="at least one"):
        VisionTransformer("tiny", model).images([])


def test_clip_of_a_folder_gives_the_features_of_that_folder() -> None:
    """The embedded CLIP is a folder as any other; its own reader finds the same directions."""
    embedded, ours = clip.load(), networks.load_clip(str(clip.WEIGHTS / "clip"))
    pictures = (torch.rand(3, 3, 64, 64) * 255).round() / 255
    size = ours.crop.size
    if size == 64:
        found = functional.normalize(ours.images(list(pictures)), dim=1)
        torch.testing.assert_close(found, embedded.image_features(pictures), atol=1e-4, rtol=1e-4)
    texts = ["a portrait of a person", "red hair"]
    found = functional.normalize(ours.texts(texts), dim=1)
    torch.testing.assert_close(found, embedded.text_features(texts), atol=1e-5, rtol=1e-5)
