"""MSE, PSNR and SSIM: closed forms and agreement with torchmetrics."""

import math

import pytest
import torch

from unified.errors import UserError
from unified.metrics.reconstruction import mean_squared_error, psnr, ssim


def pair(size: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    a = torch.rand(3, 3, size, size, generator=rng)
    return a, (a + 0.2 * torch.randn(a.shape, generator=rng)).clamp(0, 1)


def test_psnr_of_a_constant_difference() -> None:
    a = torch.full((2, 3, 16, 16), 0.5)
    assert psnr(a, a + 0.1).tolist() == pytest.approx([20.0, 20.0], abs=1e-4)
    assert psnr(a, a).tolist() == [math.inf, math.inf]
    assert mean_squared_error(a, a + 0.1).tolist() == pytest.approx([0.01, 0.01])


def test_mask_counts_only_its_pixels() -> None:
    a = torch.zeros(2, 3, 8, 8)
    b = a.clone()
    b[:, :, :4] = 0.5
    mask = torch.zeros(2, 8, 8, dtype=torch.bool)
    mask[0, :4], mask[1, 2:6] = True, True
    assert mean_squared_error(a, b, mask=mask).tolist() == pytest.approx([0.25, 0.125])
    assert mean_squared_error(a, b, mask=mask[:, None]).tolist() == pytest.approx([0.25, 0.125])


@pytest.mark.parametrize("size", [11, 64, 65])
def test_ssim_agrees_with_torchmetrics(size: int) -> None:
    """At every position where the window lies inside; torchmetrics also averages over mirrored borders."""
    functional = pytest.importorskip("torchmetrics.functional.image")
    a, b = pair(size)
    _, map_ = functional.structural_similarity_index_measure(b, a, data_range=1.0, return_full_image=True)
    expected = map_[:, :, 5:-5, 5:-5].mean(dim=(1, 2, 3))
    torch.testing.assert_close(ssim(a, b), expected, atol=1e-5, rtol=0)
    expected = functional.peak_signal_noise_ratio(b, a, data_range=1.0, reduction="none", dim=(1, 2, 3))
    torch.testing.assert_close(psnr(a, b), expected)


def test_ssim_closed_forms() -> None:
    """1 for equal images; for two constants only the luminance term is left."""
    a, _ = pair()
    torch.testing.assert_close(ssim(a, a), torch.ones(3))
    x, y = torch.full((1, 3, 16, 16), 0.2), torch.full((1, 3, 16, 16), 0.6)
    expected = (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4)
    assert ssim(x, y).item() == pytest.approx(expected, abs=1e-4)


def test_ssim_is_differentiable() -> None:
    a, b = (x[:1, :1, :12, :12].double() for x in pair())
    assert torch.autograd.gradcheck(ssim, (a.requires_grad_(), b), atol=1e-6)


def test_refusals() -> None:
    with pytest.raises(UserError, match="11x11"):
        ssim(torch.zeros(1, 3, 10, 64), torch.zeros(1, 3, 10, 64))
    for function in (ssim, psnr, mean_squared_error):
        with pytest.raises(UserError, match="one shape"):
            function(torch.zeros(1, 3, 64, 64), torch.zeros(2, 3, 64, 64))
