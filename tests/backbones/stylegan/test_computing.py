"""How the networks compute: kernels, prepared weights, low precision, recomputed activations."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from backbones.stylegan import Generator, GeneratorConfig
from backbones.stylegan.backbone import stylegan
from backbones.stylegan.formats.networks import load_file
from backbones.stylegan.ops import dispatch, make_filter, native
from backbones.stylegan.ops.modulated_conv import modulated_conv2d, modulated_mix, styled_conv2d
from backbones.stylegan.ops.prepared import PreparedWeight, bounded, prepare
from backbones.stylegan.runtime import Runtime
from backbones.stylegan.stylegan3.config import AliasFreeConfig
from backbones.stylegan.stylegan3.synthesis import AliasFreeSynthesis
from inversion.spaces.parameter import LoRA, Weights
from tests.perf.stylegan_peers import modulated, plain
from unified.contract.concept import Concept
from unified.contract.random import Random
from unified.contract.reference import Reference
from unified.contract.shadow import shadow

FIXTURES = Path(__file__).parents[2] / "fixtures" / "stylegan"
NAMES = ("sg2_64", "sg2_32_cond", "sg2_32_resnet", "sg3t_64", "sg3r_64")


@pytest.fixture(params=["torch", "kernels"])
def kernels(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Both ways of computing; the second where the kernels were built before."""
    if request.param == "torch":
        with native.disabled():
            yield False
        return
    with native.disabled():
        if not native.load("cpu", compile=False):
            pytest.skip("the kernels are not built: make kernels")
        yield True


def expected(name: str) -> dict[str, torch.Tensor]:
    with np.load(FIXTURES / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file}


def small(*, conv_clamp: float | None = None, dtype: torch.dtype = torch.float32) -> Generator:
    torch.manual_seed(0)
    config = GeneratorConfig(32, (12, 12, 8, 8), w_dim=8, z_dim=8, mapping_layers=2, conv_clamp=conv_clamp)
    generator = Generator(config).to(dtype).eval().requires_grad_(False)
    for name, value in generator.named_parameters():
        if name.endswith(("noise_strength", "bias")):
            value.add_(0.1 * torch.randn_like(value))
    return generator


def small3() -> Generator:
    torch.manual_seed(0)
    config = AliasFreeConfig(16, (6, 6, 5, 4), w_dim=8, z_dim=8, critical_layers=1, margin=4, conv_clamp=256.0)
    return Generator(config).eval().requires_grad_(False)


# --- kernels ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_official_pictures_either_way(name, kernels):
    want = expected(name)
    generator, _ = load_file(FIXTURES / f"{name}.pkl")
    with torch.no_grad():
        got = generator.synthesis(want["wplus"])
    assert ((got - want["img_wplus"]).abs().max() / (want["img_wplus"].max() - want["img_wplus"].min())) <= 1e-4
    # Recorded by autograd other functions run; the picture is the same.
    recorded = generator.synthesis(want["wplus"].clone().requires_grad_()).detach()
    torch.testing.assert_close(recorded, got, rtol=0, atol=1e-5 * float(got.abs().max()))


def test_a_backbone_uses_kernels_that_are_there_and_compiles_none(monkeypatch):
    monkeypatch.setattr(native.build, "build", lambda *a, **k: pytest.fail("compiled"))
    with native.disabled():
        native.unload("cpu")  # as in a new process
        stylegan("tiny", small())
        assert native.loaded("cpu") == (native.build.find("cpu") is not None)


def test_kernels_that_appear_later_change_nothing(monkeypatch):
    with native.disabled():
        native.unload("cpu")
        monkeypatch.setattr(native.build, "find", lambda device: None)
        stylegan("tiny", small())
        monkeypatch.undo()
        stylegan("tiny", small())
        assert not native.loaded("cpu")


@pytest.mark.parametrize("make", [small, small3], ids=["stylegan2", "stylegan3"])
@pytest.mark.parametrize("trained", [False, True])
def test_plain_formula_and_its_gradients(make, trained, kernels):
    """Weights built per picture, zeros inserted, nothing shared with the network but its weights."""
    generator = make(conv_clamp=256.0).double() if make is small else make().double()
    synthesis = generator.synthesis.requires_grad_(trained)
    ws = torch.randn(3, synthesis.num_ws, 8, dtype=torch.float64)
    weights = list(synthesis.parameters()) if trained else []
    results = []
    for draw in (synthesis, lambda ws: plain(synthesis, ws, None)):
        leaf = ws.clone().requires_grad_()
        image = draw(leaf)
        picture = torch.randn(image.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        grads = torch.autograd.grad((image * picture).sum(), [leaf, *weights], allow_unused=True)
        results.append((image.detach(), *grads))
        if draw is synthesis:
            with torch.no_grad():
                torch.testing.assert_close(torch.cat([draw(one[None]) for one in ws]), image, rtol=1e-9, atol=1e-9)
    for ours, theirs in zip(*results, strict=True):
        if ours is not None or theirs is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7 * max(1.0, float(theirs.abs().max())))


@pytest.mark.parametrize("make", [small, small3], ids=["stylegan2", "stylegan3"])
@pytest.mark.parametrize("trained", [False, True])
def test_no_pictures(make, trained, kernels):
    synthesis = make().synthesis.requires_grad_(trained)
    ws = torch.zeros(0, synthesis.num_ws, 8, requires_grad=True)
    image = synthesis(ws)
    assert image.shape == (0, 3, synthesis.config.resolution, synthesis.config.resolution)
    (gradient,) = torch.autograd.grad(image.sum(), ws)
    assert gradient.shape == ws.shape


@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize("trained", [False, True])
def test_a_trained_weight_is_convolved_in_the_order_its_gradient_is_fast_in(up, trained, kernels):
    x = torch.randn(2, 8, 6, 6).contiguous(memory_format=torch.channels_last)
    weight = torch.nn.Parameter(torch.randn(8, 8, 3, 3), requires_grad=trained)
    y = styled_conv2d(x, weight, torch.rand(2, 8), up=up, resample_filter=make_filter())
    assert y.is_contiguous(memory_format=torch.contiguous_format if trained else torch.channels_last)
    with torch.no_grad():
        again = styled_conv2d(x, weight, torch.rand(2, 8), up=up, resample_filter=make_filter())
    assert again.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize("last", [False, True])
def test_one_picture_modulates_its_weights(up, last, kernels):
    x, styles = torch.randn(1, 4, 40, 40), torch.randn(1, 4)
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    weight, filter = torch.randn(5, 4, 3, 3), make_filter()
    alone = styled_conv2d(x, weight, styles, up=up, resample_filter=filter)
    both = styled_conv2d(torch.cat([x, x]), weight, torch.cat([styles, styles]), up=up, resample_filter=filter)
    torch.testing.assert_close(alone, both[:1], rtol=1e-4, atol=1e-4)
    want = modulated(x, weight, styles, demodulate=True, padding=1)
    torch.testing.assert_close(modulated_conv2d(x, weight, styles), want, rtol=1e-4, atol=1e-4)
    rgb = weight[:3, :, :1, :1]
    want = modulated(x, rgb, styles, demodulate=False, padding=0)
    torch.testing.assert_close(modulated_mix(x, rgb, styles), want, rtol=1e-4, atol=1e-4)


def test_memory_is_used_again_only_where_no_gradient_needs_it(kernels):
    x, scale = torch.randn(2, 3, 4, 4), torch.rand(2, 3)
    want = dispatch.modulated_epilogue(x.clone(), scale)
    with torch.no_grad():
        torch.testing.assert_close(dispatch.modulated_epilogue(x.clone(), scale, overwrite=True), want)
        torch.testing.assert_close(dispatch.modulate(x.clone(), scale, overwrite=True), x * scale[..., None, None])
    kept = x.clone()
    y = dispatch.modulated_epilogue(kept, scale.clone().requires_grad_(), overwrite=True)
    torch.testing.assert_close(y.detach(), want)
    assert torch.equal(kept, x)
    kept = x.clone()
    dispatch.modulate(kept, scale.clone().requires_grad_(), overwrite=True)
    assert torch.equal(kept, x)
    crop = torch.randn(2, 3, 5, 5)[:, :, 1:, 1:]
    torch.testing.assert_close(
        dispatch.modulated_epilogue(crop, scale, overwrite=True), dispatch.modulated_epilogue(crop.clone(), scale)
    )


# --- prepared weights -------------------------------------------------------------------------------------------


def test_a_frozen_weight_is_prepared_once_and_again_when_it_changes():
    weight = torch.nn.Parameter(torch.randn(4, 3, 3, 3), requires_grad=False)
    prepared = PreparedWeight()
    with torch.inference_mode():
        first = prepared(weight, torch.float32)
    assert prepared(weight, torch.float32) is first
    styles = torch.ones(1, 3, requires_grad=True)
    torch.autograd.grad((styles.square() @ first.energy.t()).sum(), styles)  # no inference tensor

    def right() -> None:
        torch.testing.assert_close(prepared(weight, torch.float32).energy, weight.detach().square().sum((2, 3)))

    with torch.no_grad():
        weight.mul_(2)
        right()
        torch.nn.Module.load_state_dict(holder := torch.nn.ParameterDict({"w": weight}), {"w": torch.randn(4, 3, 3, 3)})
        assert holder["w"] is weight
        right()
    weight.data = torch.randn(4, 3, 3, 3)
    right()
    assert prepared(weight, torch.bfloat16).weight.dtype == torch.bfloat16
    assert prepared(weight, torch.float32).weight.dtype == torch.float32
    weight.requires_grad_(True)
    assert prepared(weight, torch.float32) is not prepared(weight, torch.float32)
    (gradient,) = torch.autograd.grad(prepared(weight, torch.float32).energy.sum(), weight)
    torch.testing.assert_close(gradient, 2 * weight.detach())


def test_shadows_share_what_is_prepared_and_copies_do_not():
    generator = small()
    ws = torch.randn(1, generator.config.num_ws, 8)
    layer = generator.synthesis.b8.conv0
    with torch.no_grad():
        before = generator.synthesis(ws)
        kept = layer._prepared(layer.weight, torch.float32)
        view = shadow(generator).synthesis.b8.conv0
        assert view._prepared(view.weight, torch.float32) is kept
        other = copy.deepcopy(generator)
        other.synthesis.b8.conv0.weight.mul_(torch.rand(8 + 4, 12, 1, 1) * 3)
        assert (other.synthesis(ws) - before).abs().max() > 1e-3
        assert torch.equal(generator.synthesis(ws), before)
        assert torch.equal(pickle.loads(pickle.dumps(generator)).synthesis(ws), before)


@pytest.mark.parametrize("space", [Weights(), LoRA(rank=2)], ids=["weights", "lora"])
def test_a_view_reads_weights_late(space, kernels):
    """A picture through a view is that of a network with the view's weights, however often they change."""
    backbone = stylegan("tiny", small())
    if not kernels:
        native.unload("cpu")
    ws = torch.randn(2, backbone.config.num_ws, 8)
    reference = Reference(torch.rand(1, 3, 32, 32))
    with torch.no_grad():
        pristine = backbone.generator.synthesis(ws)
    with backbone.bound() as view:
        code = space.initial(view, reference, rng=Random(0))
    concept = Concept([code], name="<me>", carrier="", category="", backbone=backbone.id, fingerprint="", meta={})
    with backbone.bound(concept) as view:
        for step in range(3):
            for key, tensor in code.tensors.items():
                noise = 0.3 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(step))
                if step == 1:
                    code.tensors[key] = tensor + noise  # replaced
                else:
                    tensor.add_(noise)  # in place
            network = view.component("generator")
            with torch.no_grad():
                seen = network.synthesis(ws)
                explicit = small()
                for name, value in explicit.named_parameters():
                    owner, _, leaf = name.rpartition(".")
                    value.copy_(getattr(network.get_submodule(owner), leaf))
                torch.testing.assert_close(seen, explicit.synthesis(ws), rtol=1e-4, atol=1e-4)
                assert (seen - pristine).abs().max() > 1e-3
    with torch.no_grad():
        assert torch.equal(backbone.generator.synthesis(ws), pristine)


# --- precision and memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_low_precision(name, dtype, kernels):
    want = expected(name)
    generator, _ = load_file(FIXTURES / f"{name}.pkl")
    backbone = stylegan("fixture", generator)
    if not kernels:
        native.unload("cpu")
    low = backbone.with_runtime(Runtime(dtype=dtype))
    assert low.fingerprint == backbone.fingerprint and backbone.runtime == Runtime()
    full, got = backbone.synthesis(want["ws"]), low.synthesis(want["ws"])
    assert got.dtype == torch.float32 and not torch.equal(full, got)
    # In 0..1 a mean difference below 1/255, of pictures whose values span -1..1 or more; of the faint ones below 1 %.
    span = float(full.max() - full.min())
    assert (full - got).abs().mean() < min(max(span, 2.0) / 255, span / 100)
    ws = want["ws"][:1].clone().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(low.generator.synthesis(ws).sum(), ws)
        (exact,) = torch.autograd.grad(backbone.generator.synthesis(ws).sum(), ws)
    assert torch.nn.functional.cosine_similarity(gradient.flatten(), exact.flatten(), dim=0) > 0.95


def test_half_precision_does_not_overflow():
    weight, styles = torch.randn(6, 5, 3, 3) * 300, torch.randn(2, 5) * 2000
    x = torch.rand(2, 5, 8, 8) * 200
    prepared, factor = prepare(weight, torch.float16), bounded(styles, torch.float16)
    y = styled_conv2d(x.half(), prepared.weight, factor)
    assert y.isfinite().all() and (prepared.weight.float().abs().sum((1, 2, 3)) <= 7).all()
    got = y.float() * (factor.square() @ prepared.energy.t() + 1e-8).rsqrt()[..., None, None]
    want = modulated(x, weight, styles, demodulate=True, padding=1)
    torch.testing.assert_close(got, want, rtol=0, atol=0.01 * float(want.abs().max()))


@pytest.mark.parametrize("make", [small, small3], ids=["stylegan2", "stylegan3"])
@pytest.mark.parametrize("trained", [False, True])
def test_recomputed_activations(make, trained, kernels):
    """The same gradients from less that is kept."""
    generator = make()
    synthesis = generator.synthesis.requires_grad_(trained)
    ws = torch.randn(2, synthesis.num_ws, 8, requires_grad=True)
    leaves = [ws, *(p for p in synthesis.parameters() if trained)]
    results, kept = [], []
    for runtime in (Runtime(), Runtime(checkpoint_from=8)):
        synthesis.runtime = runtime
        storages: dict[int, int] = {}

        def pack(tensor: torch.Tensor, storages: dict[int, int] = storages) -> torch.Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            image = synthesis(ws)
        results.append((image, *torch.autograd.grad(image.square().sum(), leaves, allow_unused=True)))
        kept.append(sum(storages.values()))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * float(a.detach().abs().max()) if a is not None else 0)
    assert kept[1] < 0.6 * kept[0]


def test_tuning_through_a_view_with_recomputed_activations(kernels):
    """Steps of the weights behind a view are the same, whether activations are kept or computed again."""
    plain_one = stylegan("tiny", small())
    if not kernels:
        native.unload("cpu")
    target = torch.rand(1, 3, 32, 32)
    ends = []
    for backbone in (plain_one, plain_one.with_runtime(Runtime(checkpoint_from=8))):
        with backbone.bound() as view:
            code = Weights().initial(view, Reference(target), rng=Random(0))
        leaves = {key: value.clone().requires_grad_() for key, value in code.tensors.items()}
        code.tensors.update(leaves)
        concept = Concept([code], name="<me>", carrier="", category="", backbone=backbone.id, fingerprint="", meta={})
        optimiser = torch.optim.SGD(leaves.values(), lr=1e-2)
        with backbone.bound(concept) as view:
            ws = torch.randn(1, backbone.config.num_ws, 8, generator=torch.Generator().manual_seed(0))
            for _ in range(3):
                optimiser.zero_grad()
                (backbone.render(view, ws) - target).square().mean().backward()
                optimiser.step()
        ends.append({key: value.detach() for key, value in leaves.items()})
    moved = max(float((ends[0][key] - value).abs().max()) for key, value in plain_one.generator.state_dict().items()
                if key in ends[0])  # fmt: skip
    assert moved > 1e-4
    for key, value in ends[0].items():
        torch.testing.assert_close(ends[1][key], value, rtol=1e-5, atol=1e-6)


def test_the_whole_network_goes_through_torch_compile(kernels):
    generator = small(conv_clamp=256.0)
    ws = torch.randn(2, generator.config.num_ws, 8, requires_grad=True)
    compiled = torch.compile(generator.synthesis, fullgraph=True, backend="aot_eager")
    results = [
        (image := draw(ws), *torch.autograd.grad(image.square().sum(), ws)) for draw in (generator.synthesis, compiled)
    ]
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4 * float(theirs.detach().abs().max()))


def test_sizes_of_low_precision():
    """As num_fp16_res of the official networks: the four largest sizes, never 4x4."""
    runtime = Runtime(dtype=torch.bfloat16)
    x = torch.zeros(1, 1, 1, 1)
    low = [size for size in (4, 8, 16, 32, 64, 128, 256, 512, 1024) if runtime.convert(x, size, 1024).dtype != x.dtype]
    assert low == [128, 256, 512, 1024]
    assert runtime.convert(x, 4, 16).dtype == x.dtype
    with pytest.raises(ValueError, match="bfloat16"):
        Runtime(dtype=torch.float64)
    assert isinstance(small3().synthesis, AliasFreeSynthesis)
