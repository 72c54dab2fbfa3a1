import torch

from unified.extractors import augment


def pictures(count: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 8, 8, generator=generator)
    return torch.nn.functional.interpolate(coarse, (64, 64), mode="bilinear")


def test_same_generator_same_pictures_in_range() -> None:
    first = augment.augment(pictures(), torch.Generator().manual_seed(1))
    second = augment.augment(pictures(), torch.Generator().manual_seed(1))
    other = augment.augment(pictures(), torch.Generator().manual_seed(2))
    assert torch.equal(first, second) and not torch.equal(first, other)
    assert first.shape == (8, 3, 64, 64) and first.min() >= 0 and first.max() <= 1


def test_pictures_stay_like_themselves_and_are_never_mirrored() -> None:
    images = pictures(64)
    for seed in range(5):
        changed = augment.augment(images, torch.Generator().manual_seed(seed))
        near = (changed - images).square().mean(dim=(1, 2, 3))
        mirrored = (changed - images.flip(3)).square().mean(dim=(1, 2, 3))
        assert (near < 0.02).all() and (near < 0.3 * mirrored).all()


def test_shift_moves_by_less_than_two_pixels_and_leaves_some() -> None:
    ramp = torch.arange(64.0).expand(1, 3, 64, 64).repeat(300, 1, 1, 1) / 64
    moved = augment.shift(ramp, torch.Generator().manual_seed(0))
    pixels = (moved - ramp)[:, 0, 32, 8:-8].mean(dim=1) * 64
    assert pixels.abs().max() <= 1.5 + 1e-3 and pixels.abs().max() > 1.3
    assert 0.2 < (pixels.abs() < 1e-4).float().mean() < 0.5


def test_cosine_basis_is_orthonormal_and_its_first_row_is_the_mean() -> None:
    basis = augment.cosine_basis(8)
    assert torch.allclose(basis @ basis.T, torch.eye(8), atol=1e-6)
    assert torch.allclose(basis[0], torch.full((8,), 8**-0.5))


def test_block_compress_rounds_blocks_alone() -> None:
    images = pictures(2)
    assert torch.allclose(augment.block_compress(images, 1e-6), images, atol=1e-4)
    rough = augment.block_compress(images, 0.2)
    # Each coefficient moves by at most half of its step: the block's energy bounds the change.
    frequency = torch.arange(8)
    steps = 0.2 * (1 + 0.5 * (frequency[:, None] + frequency[None, :]))
    blocks = (rough - images).reshape(2, 3, 8, 8, 8, 8).square().sum(dim=(3, 5))
    assert blocks.max() <= (steps / 2).square().sum() + 1e-4
    # A change within one block stays in it.
    images2 = images.clone()
    images2[:, :, :8, :8] += 0.3
    changed = (augment.block_compress(images2, 0.2) - rough).abs().amax(dim=(0, 1)) > 1e-6
    assert changed[:8, :8].any() and not changed[8:].any() and not changed[:, 8:].any()


def test_resample_keeps_flat_pictures_and_blurs_edges() -> None:
    flat = torch.full((1, 3, 64, 64), 0.3)
    assert torch.allclose(augment.resample(flat, 0.6), flat, atol=1e-6)
    edge = torch.zeros(1, 3, 64, 64)
    edge[..., 31:] = 1
    steepest = augment.resample(edge, 0.6).diff(dim=3).max()
    assert 0.2 < steepest < 0.8
