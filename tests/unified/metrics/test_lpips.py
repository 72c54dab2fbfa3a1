"""LPIPS: agreement with the `lpips` package, and the properties a distance for optimisation needs."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from unified.errors import UserError
from unified.metrics.convert_alexnet import bundled_heads, read_checkpoint
from unified.metrics.lpips import LPIPS


@pytest.fixture(scope="module")
def ours() -> LPIPS:
    return LPIPS()


def pictures(count: int, size: int, *, seed: int = 0) -> Tensor:
    """Smooth pictures with flat areas, [count,3,size,size] in 0..1."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 6, 6, generator=rng)
    smooth = nn.functional.interpolate(coarse, size=(size, size), mode="bicubic").clamp(0, 1)
    smooth[:, :, : size // 4] = torch.rand(count, 3, 1, 1, generator=rng)
    return smooth


@pytest.fixture(scope="module")
def theirs(ours: LPIPS) -> nn.Module:
    """The network of the lpips package, its own heads, with our trunk's values put in."""
    lpips = pytest.importorskip("lpips")
    network = lpips.LPIPS(net="alex", pretrained=True, pnet_rand=True, verbose=False)
    trunk = [module for module in network.net.modules() if isinstance(module, nn.Conv2d)]
    for module, source in zip(trunk, ours.convolutions, strict=True):
        module.load_state_dict(source.state_dict())
    return network.eval()


@pytest.mark.parametrize("size", [64, 97, 128])
def test_agrees_with_the_lpips_package(ours: LPIPS, theirs: nn.Module, size: int) -> None:
    a, b = pictures(4, size), pictures(4, size, seed=1)
    for x, y in ((a, b), (a, (a + 0.02).clamp(0, 1)), (torch.rand_like(a), torch.zeros_like(a))):
        expected = theirs(x, y, normalize=True).flatten()
        torch.testing.assert_close(ours(x, y), expected, atol=1e-6, rtol=0)


def test_trunk_is_the_trained_one(ours: LPIPS) -> None:
    """Gabor-like first filters: a trained filter has its energy in few frequencies, unlike noise."""
    filters = ours.convolutions[0].weight.mean(dim=1)
    power = torch.fft.fft2(filters).abs().square().flatten(1)
    power = power / power.sum(dim=1, keepdim=True)
    peaks = power.topk(6, dim=1).values.sum(dim=1).median()
    noise = torch.randn(filters.shape, generator=torch.Generator().manual_seed(0))
    noise_power = torch.fft.fft2(noise).abs().square().flatten(1)
    noise_peaks = (noise_power / noise_power.sum(1, keepdim=True)).topk(6, dim=1).values.sum(1).median()
    assert peaks > 2 * noise_peaks


def test_heads_are_those_of_the_lpips_package(ours: LPIPS) -> None:
    for name, head in bundled_heads().items():
        assert torch.equal(getattr(ours, name), head)
        assert (head >= 0).all()


def test_zero_for_equal_images_and_symmetric(ours: LPIPS) -> None:
    a, b = pictures(3, 64), pictures(3, 64, seed=1)
    assert torch.equal(ours(a, a), torch.zeros(3))
    assert torch.equal(ours(a, b), ours(b, a))


def test_order_of_known_distortions(ours: LPIPS) -> None:
    """Brighter by as much as noise deviates disturbs less than noise, and noise less than a stranger."""
    a = pictures(4, 64)
    noise = 0.05 * torch.randn(a.shape, generator=torch.Generator().manual_seed(3))
    brighter, noisy, stranger = a + 0.05, a + noise, pictures(4, 64, seed=9)
    assert (ours(a, brighter) < ours(a, noisy)).all()
    assert (ours(a, noisy) < ours(a, a + 4 * noise)).all()
    assert (ours(a, noisy) < ours(a, stranger)).all()


def test_cached_features_give_the_same_distance(ours: LPIPS) -> None:
    target, candidates = pictures(1, 64), pictures(5, 64, seed=1)
    kept = ours.features(target)
    torch.testing.assert_close(LPIPS.distance(ours.features(candidates), kept), ours(candidates, target))


def test_batch_does_not_change_the_result(ours: LPIPS) -> None:
    a, b = pictures(5, 64), pictures(5, 64, seed=1)
    one_by_one = torch.cat([ours(a[i : i + 1], b[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(ours(a, b), one_by_one, atol=1e-6, rtol=1e-5)


def test_gradient_agrees_with_finite_differences() -> None:
    network = LPIPS().double()
    rng = torch.Generator().manual_seed(1)  # noise: flat areas have ties in the pooling, where there is no slope
    a = torch.rand(1, 3, 40, 40, dtype=torch.float64, generator=rng).requires_grad_()
    b = torch.rand(1, 3, 40, 40, dtype=torch.float64, generator=rng)
    (gradient,) = torch.autograd.grad(network(a, b).sum(), a)
    direction = torch.randn(a.shape, dtype=a.dtype, generator=torch.Generator().manual_seed(5))
    step = 1e-7
    with torch.no_grad():
        slope = (network(a + step * direction, b) - network(a - step * direction, b)) / (2 * step)
    torch.testing.assert_close((gradient * direction).sum(), slope.sum(), rtol=1e-4, atol=1e-8)


def test_gradient_is_finite_at_equal_and_flat_images(ours: LPIPS) -> None:
    for a in (torch.zeros(1, 3, 64, 64), pictures(1, 64)):
        x = a.clone().requires_grad_()
        ours(x, a).sum().backward()
        assert x.grad is not None and torch.isfinite(x.grad).all()


def test_frozen(ours: LPIPS) -> None:
    assert not ours.training
    assert not any(parameter.requires_grad for parameter in ours.parameters())


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 1, 64, 64), (1, 3, 30, 64)])
def test_refuses_wrong_shapes(ours: LPIPS, shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="expects"):
        ours.features(torch.zeros(shape))


def test_refuses_two_sizes_and_missing_weights(ours: LPIPS, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="one size"):
        ours(torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 32, 32))
    with pytest.raises(UserError, match="missing"):
        LPIPS(tmp_path / "none.safetensors")


def test_conversion_refuses_foreign_names(tmp_path: Path) -> None:
    """A pickle that names anything but plain numpy arrays is refused before that is called."""
    import pickle

    class Harmful:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "touched",))  # type: ignore[return-value]

    file = tmp_path / "harmful.ckpt"
    file.write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(UserError, match="only plain numpy arrays"):
        read_checkpoint(file)
    assert not (tmp_path / "touched").exists()


def test_conversion_reads_numpy_pickles(tmp_path: Path) -> None:
    """A small file of the checkpoint's layout is read back transposed to out, in, height, width."""
    numpy = pytest.importorskip("numpy")
    import pickle

    rng = numpy.random.default_rng(0)
    kernel = rng.standard_normal((3, 2, 4, 5)).astype("f4")
    tree: dict[str, object] = {
        "AlexNet_0": {f"Conv_{i}": {"kernel": kernel, "bias": kernel[0, 0, 0].copy()} for i in range(5)}
    }
    for i in range(5):
        tree[f"NetLinLayer_{i}"] = {"Conv_0": {"kernel": kernel[:1, :1, :, :1].copy()}}
    data = pickle.dumps(tree, protocol=3)
    file = tmp_path / "small.ckpt"
    # numpy 2 writes another module name than the checkpoint has.
    file.write_bytes(data.replace(b"cnumpy._core.multiarray", b"cnumpy.core.multiarray"))
    weights = read_checkpoint(file)
    expected = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
    assert torch.equal(weights["convolutions.4.weight"], expected)
    assert torch.equal(weights["head_2"], torch.from_numpy(kernel[0, 0, :, 0].copy()))


def test_import_is_offline() -> None:
    """The weights are a file of the package, not of a cache."""
    found = importlib.util.find_spec("unified")
    assert found is not None and found.origin is not None
    assert (Path(found.origin).parent / "zoo" / "weights" / "lpips-alex" / "model.safetensors").is_file()
