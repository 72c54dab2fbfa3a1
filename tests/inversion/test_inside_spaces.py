"""StyleSpace S and feature space F: what goes on inside the generator."""

from __future__ import annotations

import functools

import pytest
import torch

from backbones.stylegan.anatomy import stylegan2_modulated
from backbones.stylegan.backbone import StyleGAN, StyleGAN2
from backbones.stylegan.config import GeneratorConfig, channel_plan
from backbones.stylegan.generator import Generator
from inversion.methods.optimize import Optimize
from inversion.spaces.channels import StyleChannels
from inversion.spaces.feature_maps import FeatureMaps
from inversion.spaces.parameter import LoRA, Weights
from inversion.spaces.style import NoiseMaps, W, WPlus
from tests.tiny.families import pictures, tiny
from tests.tiny.gan import stylegan3
from unified.contract.backbone import Backbone
from unified.contract.concept import Concept
from unified.contract.random import Random
from unified.contract.recipe import Recipe, Stage, refusal
from unified.errors import UserError
from unified.inversion import InvertSettings, invert


@functools.cache
def residual() -> StyleGAN2:
    """Of another architecture, and conditional."""
    torch.manual_seed(0)
    config = GeneratorConfig(
        32, (8, 8, 8, 8), z_dim=16, w_dim=16, mapping_layers=2, c_dim=3, architecture="resnet", image_channels=3
    )
    return StyleGAN2("tiny/residual", Generator(config))


GANS = {"stylegan2": lambda: tiny("stylegan"), "stylegan3": stylegan3, "residual": residual}
EACH = pytest.mark.parametrize("name", GANS)


def w_plus(gan: StyleGAN, *, seed: int = 0, count: int = 2, dtype: torch.dtype = torch.float32) -> Concept:
    """Styles that differ between layers."""
    number, width = gan.style_shape()
    z = torch.randn(count * number, 16, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    with torch.no_grad(), gan.bound() as view:
        w = gan.map_latents(view, z)
    return Concept([WPlus().code({"w": w.reshape(count, number, width)})])


def draw(gan: Backbone, concept: Concept, count: int = 2) -> torch.Tensor:
    with torch.no_grad(), gan.bound(concept) as view:
        return view.attempt(pictures(gan, count), rng=Random(0)).render()


def added(gan: Backbone, concept: Concept, space, *, change=lambda tensor: tensor) -> Concept:
    """The concept with the space's start after its own codes."""
    with gan.bound(concept) as view:
        code = space.initial(view, pictures(gan, concept.pictures or 2), rng=Random(0))
    return concept.with_codes([*concept.codes, code.map(change)])


# --- S ---------------------------------------------------------------------------------------------------


def test_the_published_numbers_of_channels() -> None:
    """Wu et al. 2021, section 3: 9088 at 1024 px, 6048 of them in convolutions and 3040 in RGB layers."""
    with torch.device("meta"):
        synthesis = Generator(GeneratorConfig(1024, channel_plan(1024))).synthesis
    layers = stylegan2_modulated(synthesis)
    rgb = [i for i, layer in enumerate(layers) if layer.name.endswith("torgb")]
    assert len(layers) == 26 and rgb == [1, 4, 7, 10, 13, 16, 19, 22, 25]
    assert sum(layers[i].channels for i in rgb) == 3040
    assert sum(layer.channels for layer in layers) == 9088
    assert layers[-1].style == 17


@EACH
def test_channels_are_what_the_layers_get(name: str) -> None:
    """Caught by hooks on the network itself while it renders."""
    gan = GANS[name]()
    styles = w_plus(gan).codes[0].tensors["w"]
    seen: dict[str, torch.Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda _m, _i, out, path=path: seen.__setitem__(path.removesuffix(".affine"), out))
        for path, module in gan.generator.synthesis.named_modules()
        if path.endswith(".affine")
    ]
    gan.synthesis(styles)
    for hook in hooks:
        hook.remove()
    with gan.bound() as view:
        channels = gan.channels_of(view, styles)
    assert list(channels) == list(gan.style_channels()) == list(seen)
    assert {layer: value.shape[1] for layer, value in channels.items()} == gan.style_channels()
    assert all(torch.equal(channels[layer], seen[layer]) for layer in seen)


@EACH
def test_the_channels_of_styles_give_their_picture(name: str) -> None:
    gan = GANS[name]()
    concept = w_plus(gan)
    moved = added(gan, concept, StyleChannels())
    assert torch.equal(draw(gan, moved), draw(gan, concept))
    alone = Concept([moved.codes[-1]])
    assert torch.equal(draw(gan, alone), draw(gan, concept))
    with gan.bound() as view:
        assert torch.equal(gan.render_channels(view, alone.codes[0].tensors), draw(gan, concept))


@EACH
def test_every_channel_group_matters(name: str) -> None:
    gan = GANS[name]()
    concept = Concept([added(gan, w_plus(gan), StyleChannels()).codes[-1]])
    before = draw(gan, concept)
    for layer in gan.style_channels():
        tensors = dict(concept.codes[0].tensors)
        tensors[layer] = tensors[layer] + 0.5
        assert not torch.allclose(draw(gan, Concept([concept.codes[0].with_tensors(tensors)])), before), layer


@EACH
def test_weight_draws_channels_to_the_mean(name: str) -> None:
    gan = GANS[name]()
    concept = Concept([added(gan, w_plus(gan), StyleChannels()).codes[-1]])
    with gan.bound() as view:
        mean = W().initial(view, pictures(gan, 2), rng=Random(0))
    assert torch.allclose(draw(gan, concept.scaled(0.0)), draw(gan, Concept([mean])), atol=1e-6)


def test_the_later_of_styles_and_channels_counts() -> None:
    gan = tiny("stylegan")
    first, second = w_plus(gan, seed=1), w_plus(gan, seed=2)
    channels = added(gan, first, StyleChannels()).codes[-1]
    assert torch.equal(draw(gan, Concept([*second.codes, channels])), draw(gan, first))
    assert torch.equal(draw(gan, Concept([channels, *second.codes])), draw(gan, second))
    with pytest.raises(UserError, match="both set the channels"):
        with gan.bound(first, Concept([channels], name="<you>")):
            pass


# --- F ---------------------------------------------------------------------------------------------------


@EACH
def test_features_are_what_the_network_has_there(name: str) -> None:
    gan = GANS[name]()
    concept = w_plus(gan)
    seen: dict[str, torch.Tensor] = {}
    hooks = [
        module.register_forward_hook(
            lambda _m, _i, out, path=path: seen.__setitem__(path, out[0] if isinstance(out, tuple) else out)
        )
        for path, module in gan.generator.synthesis.named_modules()
        if path in gan.feature_shapes()
    ]
    gan.synthesis(concept.codes[0].tensors["w"])
    for hook in hooks:
        hook.remove()
    with gan.bound(concept) as view:
        features = gan.features_of(view, range(2))
    assert list(features) == list(gan.feature_shapes())
    for place, value in features.items():
        assert value.shape == (2, *gan.feature_shapes()[place])
        assert torch.equal(value, seen[place])


@EACH
@pytest.mark.parametrize("way", ["set", "residual", "scale-and-shift"])
def test_features_start_without_changing_the_picture(name: str, way: str) -> None:
    gan = GANS[name]()
    concept = w_plus(gan)
    everywhere = FeatureMaps(places=tuple(gan.feature_shapes()), way=way)
    assert torch.allclose(draw(gan, added(gan, concept, everywhere)), draw(gan, concept), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "place", "coarse", "kept"),
    # Styles of the layers up to the place: b4.conv1, b8.conv0, b8.conv1, b16.conv0. A skip generator's picture
    # so far goes on beside the features.
    [("stylegan2", "b16.conv0", 4, False), ("residual", "b16", 5, True), ("stylegan3", "L2_52_6", 4, True)],
)
def test_replaced_features_hide_all_that_is_coarser(name: str, place: str, coarse: int, kept: bool) -> None:
    """Kang et al. 2021, section 3.1: the picture follows from F and the styles of the later layers alone."""
    gan = GANS[name]()
    first, second = w_plus(gan, seed=1), w_plus(gan, seed=2)
    mixed = first.codes[0].tensors["w"].clone()
    mixed[:, :coarse] = second.codes[0].tensors["w"][:, :coarse]
    for way, hidden in (("replace", True), ("set", kept)):
        features = added(gan, first, FeatureMaps(places=(place,), way=way)).codes[-1]
        one = draw(gan, Concept([*first.codes, features]))
        other = draw(gan, Concept([WPlus().code({"w": mixed}), features]))
        assert torch.equal(one, other) == hidden, way


@EACH
def test_the_ways_agree_where_they_say_the_same(name: str) -> None:
    """f (1 + s) + t as scale-and-shift, as a residual, and set."""
    gan = GANS[name]()
    concept = w_plus(gan)
    place = list(gan.feature_shapes())[2]
    with gan.bound(concept) as view:
        f = gan.features_of(view, range(2))[place]
    s, t = 0.3 * torch.randn_like(f), 0.3 * torch.randn_like(f)
    drawn = []
    for way, tensors in (
        ("scale-and-shift", {f"{place}/scale": s, f"{place}/shift": t}),
        ("residual", {f"{place}/shift": f * s + t}),
        ("set", {f"{place}/set": f * (1 + s) + t}),
    ):
        code = FeatureMaps(places=(place,), way=way).code(tensors)
        drawn.append(draw(gan, concept.with_codes([*concept.codes, code])))
    assert not torch.allclose(drawn[0], draw(gan, concept), atol=1e-3)
    assert torch.allclose(drawn[0], drawn[1], atol=1e-5) and torch.allclose(drawn[0], drawn[2], atol=1e-5)


@pytest.mark.parametrize("way", ["replace", "set", "residual", "scale-and-shift"])
def test_weight_takes_features_away_again(way: str) -> None:
    gan = tiny("stylegan")
    styles = w_plus(gan)
    concept = added(gan, styles, FeatureMaps(places=("b16", "b8.conv1"), way=way), change=lambda t: t + 0.5)
    features = Concept([concept.codes[-1]], name="<f>")
    with torch.no_grad(), gan.bound(styles, features.scaled(0.0)) as view:
        without = view.attempt(pictures(gan, 2), rng=Random(0)).render()
    assert torch.allclose(without, draw(gan, styles), atol=1e-6)
    assert not torch.allclose(draw(gan, concept), draw(gan, styles), atol=1e-3)


def test_the_default_place_has_16_pixels_and_unknown_ones_are_named() -> None:
    gan = tiny("stylegan")
    code = added(gan, w_plus(gan), FeatureMaps()).codes[-1]
    assert list(code.tensors) == ["b16.conv0/replace"]
    with pytest.raises(UserError, match=r"b99.*b4\.conv1"):
        added(gan, w_plus(gan), FeatureMaps(places=("b99",)))
    reason = refusal(type(gan), [Stage((FeatureMaps(),), Optimize())])
    assert reason is not None and "w > f" in reason


# --- both ------------------------------------------------------------------------------------------------

QUICK = Optimize(steps=4, lr=0.02)
COMPOSED = {
    "s": [(StyleChannels(),)],
    "w > s": [(W(),), (StyleChannels(),)],
    "f & w+": [(FeatureMaps(), WPlus())],
    "w+ > f & w+": [(WPlus(),), (FeatureMaps(way="residual"), WPlus())],
    "w+ > f > weights": [(WPlus(),), (FeatureMaps(),), (Weights(paths=r"b32"),)],
    "w > weights": [(W(), NoiseMaps()), (Weights(),)],
    "w+ > weights": [(WPlus(),), (Weights(paths=r"b(16|32)\.conv\d\.weight$"),)],
    "w+ > lora": [(WPlus(),), (LoRA(rank=2),)],
    "s > lora & f": [(StyleChannels(),), (LoRA(rank=2), FeatureMaps(way="residual"))],
}


@pytest.mark.parametrize("case", COMPOSED)
def test_compositions_lower_the_error_and_come_back_from_a_file(case: str, tmp_path) -> None:
    gan = tiny("stylegan")
    reference = pictures(gan, 2)
    before = {name: value.clone() for name, value in gan.generator.state_dict().items()}
    plan = Recipe(case, tuple(Stage(spaces, QUICK) for spaces in COMPOSED[case]), "", "")
    concept = invert(gan, reference, plan, InvertSettings())
    for stage in concept.meta["stages"]:
        assert min(stage["losses"]) < stage["losses"][0]
    loaded = Concept.load(concept.save(tmp_path / "c.safetensors"))
    assert torch.equal(draw(gan, loaded), draw(gan, concept))
    assert all(torch.equal(value, before[name]) for name, value in gan.generator.state_dict().items())
    assert not any(module._forward_hooks for module in gan.generator.modules())


@pytest.mark.parametrize("space", [StyleChannels(), FeatureMaps(), FeatureMaps(way="scale-and-shift")])
def test_gradient_agrees_with_finite_differences(space) -> None:
    gan = tiny("stylegan", torch.float64)
    concept = added(gan, w_plus(gan, dtype=torch.float64), space)
    code = concept.codes[-1]
    generator = torch.Generator().manual_seed(0)
    noise = {k: torch.randn(v.shape, generator=generator, dtype=v.dtype) for k, v in code.tensors.items()}
    way = {k: torch.randn(v.shape, generator=generator, dtype=v.dtype) for k, v in code.tensors.items()}
    start = {k: v + 0.1 * noise[k] for k, v in code.tensors.items()}

    def loss(step: float | torch.Tensor) -> torch.Tensor:
        code.tensors = {k: v + step * way[k] for k, v in start.items()}
        with gan.bound(concept) as view:
            return view.attempt(pictures(gan, 2), rng=Random(0)).error.mean()

    step = torch.zeros((), dtype=torch.float64, requires_grad=True)
    loss(step).backward()
    with torch.no_grad():
        measured = float(loss(1e-6) - loss(-1e-6)) / 2e-6
    assert step.grad is not None and measured == pytest.approx(float(step.grad), rel=1e-4)
