"""FID and KID of folders, and the network of published values."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from unified.errors import UserError
from unified.evaluation import distributions, inception
from unified.images import save_image


def grey(folder: Path, levels: list[int], *, side: int = 8) -> Path:
    for number, level in enumerate(levels):
        save_image(torch.full((3, side, side), level / 255), folder / "sub" / f"{number}.png")
    return folder


def brightness(images: torch.Tensor) -> torch.Tensor:
    return images.mean((1, 2, 3))[:, None] * 255


def test_fid_and_kid_of_one_number_by_hand(tmp_path: Path) -> None:
    """FID of one number is (difference of means)^2 + (difference of deviations)^2: 10^2 + (20 - 10)^2."""
    real, generated = grey(tmp_path / "real", [80, 100, 120]), grey(tmp_path / "made", [100, 110, 120])
    found = distributions.evaluate(real, generated, brightness, name="brightness", run="made").scores
    assert found["fid"].score.value == pytest.approx(10**2 + 10**2, rel=1e-5)
    a, b = [80.0, 100.0, 120.0], [100.0, 110.0, 120.0]

    def kernel(x: float, y: float) -> float:
        return (x * y + 1) ** 3

    within = [sum(kernel(x, y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j) / 6 for s in (a, b)]
    across = sum(kernel(x, y) for x in a for y in b) / 9
    assert found["kid"].score.value == pytest.approx(sum(within) - 2 * across, rel=1e-4)
    assert "3 real, 3 generated" in found["fid"].score.extractor
    assert "100 subsets of 3" in found["kid"].score.extractor


def test_other_counts_are_other_columns(tmp_path: Path) -> None:
    real = grey(tmp_path / "real", [80, 100, 120])
    few, many = grey(tmp_path / "few", [90, 100]), grey(tmp_path / "many", [90, 100, 110, 100])
    first, second = (
        distributions.evaluate(real, folder, brightness, name="brightness", run=folder.name).scores["fid"].score
        for folder in (few, many)
    )
    assert not first.comparable_with(second)


def test_pictures_of_several_sizes_and_too_few(tmp_path: Path) -> None:
    folder = grey(tmp_path / "a", [10, 20])
    save_image(torch.full((3, 8, 12), 30 / 255), folder / "wide.png")
    assert sorted(distributions.features_of(folder, brightness)[:, 0].round().tolist()) == [10, 20, 30]
    with pytest.raises(UserError, match="1 pictures"):
        distributions.pictures_below(grey(tmp_path / "b", [10]))


def test_averages_leave_out_the_padding_and_the_last_block_takes_maxima() -> None:
    torch.manual_seed(0)
    network = inception.build().eval()
    with torch.no_grad():
        first, last = network.Mixed_5b, network.Mixed_7c
        branch = first(torch.ones(1, 192, 9, 9))[0, -32:]
        assert torch.allclose(branch, branch[:, :1, :1].expand_as(branch), atol=1e-6)  # the same at the border
        x = torch.randn(1, 2048, 5, 5)
        expected = last.branch_pool(functional.max_pool2d(x, 3, stride=1, padding=1))
        torch.testing.assert_close(last(x)[:, -192:], expected)
        assert last(x).shape == (1, 2048, 5, 5)


def test_published_weights_fit_and_others_do_not(tmp_path: Path) -> None:
    """The published file has the names of torchvision's network and a classifier of 1008 rows, which is left out."""
    network = inception.build()
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    path = tmp_path / "weights.safetensors"
    save_file({**state, "fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}, path)
    found = inception.load(path)
    assert found(torch.rand(1, 3, 40, 40)).shape == (1, 2048)
    save_file({"conv.weight": torch.zeros(1)}, path)
    with pytest.raises(UserError, match="does not hold the Inception"):
        inception.load(path)
    with pytest.raises(UserError, match="Inception v3 of FID"):
        inception.load(tmp_path / "missing.pth")
