"""The laws of the contract, on tiny random models of every family."""

from __future__ import annotations

import functools
import threading
from dataclasses import replace

import pytest
import torch

from inversion.methods.controlled import ControlledFlow
from inversion.methods.direct import DirectInversion
from inversion.methods.edit_friendly import EditFriendly
from inversion.methods.encode import Encode
from inversion.methods.null_text import NullText
from inversion.methods.ode import InvertSteps
from inversion.methods.optimize import Optimize
from inversion.spaces.channels import StyleChannels
from inversion.spaces.cross_attention import KeysValues
from inversion.spaces.feature_maps import FeatureMaps
from inversion.spaces.latent import PPlus, Z
from inversion.spaces.latents import Anchor, PictureLatents
from inversion.spaces.neti import NeuralMapper
from inversion.spaces.noise import Differences, StartNoise, StepNoise, Unconditional
from inversion.spaces.parameter import LoRA, Weights
from inversion.spaces.rank_one import RankOne
from inversion.spaces.spectral import SpectralShifts
from inversion.spaces.spectrum import StageWords
from inversion.spaces.style import NoiseMaps, W, WPlus
from inversion.spaces.textual import Word
from inversion.spaces.token import VisualTokens
from tests.tiny.families import pictures, tiny
from unified.contract.backbone import Backbone
from unified.contract.concept import Concept
from unified.contract.kinds import Kind
from unified.contract.method import Job, Member
from unified.contract.random import Random
from unified.contract.recipe import Recipe, Stage
from unified.contract.space import space_of
from unified.contract.target import Target
from unified.errors import UserError
from unified.inversion import InvertSettings, invert


def stages(*parts: tuple[tuple, object]) -> Recipe:
    return Recipe("test", tuple(Stage(spaces, method) for spaces, method in parts), scheme="", cite="")


def quick(steps: int = 3, **changes) -> Optimize:
    return Optimize(steps=steps, lr=1e-2, **changes)


# Every way of inverting that the families carry at this point: (family, recipe).
CASES = {
    "gan w": ("stylegan", stages(((W(exploration=0.05),), quick(keep="last")))),
    "gan w & noise": ("stylegan", stages(((W(), NoiseMaps()), quick()))),
    "gan w+": ("stylegan", stages(((WPlus(),), quick()))),
    "gan z": ("stylegan", stages(((Z(clipping="stochastic", bound=1.0),), quick()))),
    "gan pn+": ("stylegan", stages(((PPlus(density=0.1),), quick()))),
    "gan s": ("stylegan", stages(((StyleChannels(),), quick()))),
    "gan w+ > f & w+": ("stylegan", stages(((WPlus(),), quick()), ((FeatureMaps(), WPlus()), quick()))),
    "gan w > weights": ("stylegan", stages(((W(),), quick()), ((Weights(),), quick()))),
    "gan w > lora": ("stylegan", stages(((W(),), quick()), ((LoRA(rank=2),), quick()))),
    "sd word": ("stable-diffusion", stages(((Word(),), quick()))),
    "sd lora": ("stable-diffusion", stages(((LoRA(rank=2),), quick()))),
    "sd word & lora": ("stable-diffusion", stages(((Word(), LoRA(rank=2)), quick()))),
    "sd weights": ("stable-diffusion", stages(((Weights(),), quick()))),
    "sd start-noise": ("stable-diffusion", stages(((StartNoise(),), InvertSteps(steps=4)))),
    "sd word & kv": ("stable-diffusion", stages(((Word(with_category=True), KeysValues()), quick()))),
    "sd svd": ("stable-diffusion", stages(((SpectralShifts(),), quick()))),
    "sd neti": ("stable-diffusion", stages(((NeuralMapper(frequencies=16, hidden=8),), quick()))),
    "sd stage-words": ("stable-diffusion", stages(((StageWords(stages=3),), quick()))),
    "sd word & rank-one": ("stable-diffusion", stages(((Word(), RankOne()), quick()))),
    "xl word & lora": ("stable-diffusion-xl", stages(((Word(), LoRA(rank=2)), quick()))),
    "sd3 word & lora": ("stable-diffusion-3", stages(((Word(), LoRA(rank=2)), quick()))),
    "flux word": ("flux", stages(((Word(),), quick()))),
    "flux lora": ("flux", stages(((LoRA(rank=2),), quick()))),
    "flux start-noise": ("flux", stages(((StartNoise(),), InvertSteps(steps=4)))),
    "sd noise-maps": ("stable-diffusion", stages(((StepNoise(),), EditFriendly(steps=3)))),
    "sd null-text": ("stable-diffusion", stages(((StartNoise(), Unconditional()), NullText(steps=2, inner=2)))),
    "flux direct": ("flux", stages(((StartNoise(), Differences()), DirectInversion(steps=3)))),
    "flux controlled": ("flux", stages(((StartNoise(), Anchor()), ControlledFlow(steps=3)))),
    "flux latents": ("flux", stages(((PictureLatents(),), Encode()))),
    "ar word": ("emu3", stages(((Word(vectors=2),), quick()))),
    "ar word > lora": ("emu3", stages(((Word(),), quick()), ((LoRA(rank=2),), quick()))),
    "ar weights": ("emu3", stages(((Weights(),), quick()))),
    "ar tokens": ("emu3", stages(((VisualTokens(),), Encode()))),
}
EACH = pytest.mark.parametrize("case", CASES)
FAMILY = pytest.mark.parametrize("family", ["stylegan", "stable-diffusion", "flux", "emu3"])
DIFFUSION = ("stable-diffusion", "stable-diffusion-xl", "stable-diffusion-3")
SHORT = {"stylegan": {}, "emu3": {}, **{family: {"steps": 3} for family in (*DIFFUSION, "flux")}}


def weights_of(backbone: Backbone) -> dict[str, torch.Tensor]:
    return {
        f"{component}/{name}": value.clone()
        for component, module in backbone.components.items()
        for name, value in module.state_dict().items()
    }


def assert_unchanged(backbone: Backbone, before: dict[str, torch.Tensor]) -> None:
    after = weights_of(backbone)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    for module in backbone.components.values():
        assert not any(p.requires_grad for p in module.parameters())
        assert not module._forward_hooks and not module._forward_pre_hooks


def fresh(case: str, *, seed: int = 0, checkpoints=None, recipe: Recipe | None = None) -> Concept:
    """Invert two pictures with the case's recipe."""
    family, default = CASES[case]
    backbone = tiny(family)
    settings = InvertSettings(seed=seed, checkpoints=checkpoints)
    return invert(backbone, pictures(backbone, 2), recipe or default, settings)


@functools.cache
def _stored(case: str, seed: int) -> Concept:
    return fresh(case, seed=seed)


def run(case: str, *, seed: int = 0) -> Concept:
    """The same, computed once for all tests; a copy, so that a test may change it."""
    return replace(_stored(case, seed))


def draw(family: str, concept: Concept | None, *, seed: int = 0, n: int | None = 2) -> torch.Tensor:
    backbone = tiny(family)
    name = concept.name if concept is not None else "a"
    prompt = "" if family == "stylegan" else f"a {name}"
    kind = None if concept is None else space_of(concept.codes[0]).kind
    if kind in (Kind.NOISE, Kind.TOKEN):
        prompt = ""
    sampling = {} if kind is Kind.NOISE else SHORT[family]
    with backbone.bound(*([] if concept is None else [concept])) as view:
        return view.sample(Target(prompt=prompt, n=n, sampling=sampling), rng=Random(seed))


def tensors_of(concept: Concept) -> list[torch.Tensor]:
    return [value for code in concept.codes for _, value in sorted(code.tensors.items())]


def assert_same(a: Concept, b: Concept) -> None:
    assert all(torch.equal(x, y) for x, y in zip(tensors_of(a), tensors_of(b), strict=True))


@EACH
def test_backbone_is_bit_identical_after_inverting_and_sampling(case: str) -> None:
    family, _ = CASES[case]
    before = weights_of(tiny(family))
    concept = fresh(case)
    draw(family, concept)
    assert_unchanged(tiny(family), before)


@FAMILY
def test_backbone_is_bit_identical_after_an_exception(family: str) -> None:
    backbone = tiny(family)
    before = weights_of(backbone)
    job = Job(backbone, [Member(pictures(backbone))], Random(0))
    with job.open() as view:
        code = Weights().initial(view, job.reference, rng=Random(0))
    with pytest.raises(ZeroDivisionError):
        with backbone.bound(Concept([code])) as view:
            view.component(code.meta["component"])
            1 / 0  # noqa: B018
    assert_unchanged(backbone, before)


@EACH
def test_same_seed_same_bits_and_another_seed_others(case: str) -> None:
    first, again = run(case), fresh(case)
    assert_same(first, again)
    assert torch.equal(draw(CASES[case][0], first), draw(CASES[case][0], again))


@FAMILY
def test_zero_lora_and_equal_weights_change_nothing(family: str) -> None:
    backbone = tiny(family)
    job = Job(backbone, [Member(pictures(backbone))], Random(0))
    base = draw(family, None)
    for space in (LoRA(rank=2), Weights()):
        with job.open() as view:
            code = space.initial(view, job.reference, rng=Random(0))
        concept = Concept([code], name="a", carrier="a", category="a")
        assert torch.equal(draw(family, concept), base), space.name
        assert torch.equal(draw(family, concept.scaled(0.3)), base), space.name


@FAMILY
def test_a_lora_changes_the_pictures_and_weight_zero_takes_it_away(family: str) -> None:
    backbone = tiny(family)
    job = Job(backbone, [Member(pictures(backbone))], Random(0))
    with job.open() as view:
        code = LoRA(rank=2).initial(view, job.reference, rng=Random(0))
    loud = code.map(lambda t: torch.ones_like(t))
    concept = Concept([loud], name="a", carrier="a", category="a")
    base = draw(family, None)
    assert not torch.equal(draw(family, concept), base)
    assert torch.equal(draw(family, concept.scaled(0.0)), base)


@EACH
def test_a_view_in_three_threads_gives_what_it_gives_alone(case: str) -> None:
    family, _ = CASES[case]
    concepts = [run(case, seed=seed) for seed in range(3)]
    alone = [draw(family, concept, seed=i) for i, concept in enumerate(concepts)]
    together: list[torch.Tensor | None] = [None] * 3

    def work(i: int) -> None:
        together[i] = draw(family, concepts[i], seed=i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(alone, together, strict=True):
        assert other is not None and torch.equal(one, other)


@EACH
def test_six_steps_are_three_and_three(case: str, tmp_path) -> None:
    family, recipe = CASES[case]
    if not isinstance(recipe.stages[-1].method, Optimize):
        return  # one pass: nothing to resume
    whole = fresh(case, recipe=recipe.with_overrides(steps=6))

    class StopAtThree:
        """Presses Ctrl-C after three steps of each stage, once."""

        def __init__(self) -> None:
            self.pressed = False

        def start(self, label: str, total: int) -> None:
            pass

        def advance(self, done: int, *, loss: float | None = None) -> None:
            if done == 3 and not self.pressed:
                self.pressed = True
                raise KeyboardInterrupt

        def finish(self) -> None:
            pass

    backbone = tiny(family)
    half = invert(
        backbone,
        pictures(backbone, 2),
        recipe.with_overrides(steps=6),
        InvertSettings(checkpoints=tmp_path, progress=StopAtThree()),
    )
    assert "interrupted" in half.meta["stages"][-1]["stopped"]
    assert all(bool(torch.isfinite(t.float()).all()) for t in tensors_of(half))
    resumed = fresh(case, recipe=recipe.with_overrides(steps=6), checkpoints=tmp_path)
    assert_same(whole, resumed)


@pytest.mark.parametrize(
    "case",
    [
        "gan w",
        "gan w & noise",
        "gan w+",
        "gan z",
        "gan s",
        "gan w+ > f & w+",
        "sd start-noise",
        "flux start-noise",
        "sd noise-maps",
        "flux direct",
        "flux controlled",
        "ar tokens",
    ],
)
def test_a_pictures_code_does_not_depend_on_its_company(case: str) -> None:
    """Per-picture codes: the second picture alone, in its own stream, is the second of three."""
    family, recipe = CASES[case]
    backbone = tiny(family)
    three = pictures(backbone, 3)
    together = invert(backbone, three, recipe, InvertSettings())
    first = invert(backbone, type(three)(three.images[:1], category="a"), recipe, InvertSettings())
    for one, many in zip(tensors_of(first), tensors_of(together), strict=True):
        # Rounding differs between batch sizes, and a random UNet's inversion amplifies it.
        assert torch.allclose(one, many[:1], atol=1e-4), (one - many[:1]).abs().max()


@FAMILY
def test_sample_i_does_not_depend_on_how_many_are_asked_for(family: str) -> None:
    one, three = draw(family, None, n=1), draw(family, None, n=3)
    assert torch.allclose(one[0], three[0], atol=1e-5)


@pytest.mark.parametrize(
    "case", ["gan w+", "gan w > weights", "sd word", "sd lora", "flux word", "flux lora", "ar word"]
)
def test_gradient_agrees_with_finite_differences(case: str) -> None:
    """In fp64, along a random direction of all tensors of the last stage's codes."""
    family, recipe = CASES[case]
    backbone = tiny(family, torch.float64)
    reference = pictures(backbone, 2)
    job = Job(backbone, [Member(reference)], Random(0))
    generator = torch.Generator().manual_seed(0)
    codes = []
    for stage in recipe.stages:
        for space in stage.resolved(type(backbone)):
            with job.open([codes]) as view:
                code = space.initial(view, reference, rng=Random(0))
            # Away from the start, where LoRA's first gradient is zero.
            codes.append(code.map(lambda t: t + 0.1 * torch.randn(t.shape, generator=generator, dtype=t.dtype)))
    leaves = codes[-1].map(lambda t: t.clone().requires_grad_())
    direction = leaves.map(lambda t: torch.randn(t.shape, generator=generator, dtype=t.dtype))

    def loss(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        codes[-1].tensors = tensors
        with job.open([codes]) as view:
            prompts = ["a <me>"] * len(reference)
            return view.attempt(reference, rng=Random(1), prompts=prompts).error.flatten(1).mean(1).sum()

    loss(dict(leaves.tensors)).backward()
    slope = sum(
        float((leaves.tensors[k].grad * direction.tensors[k]).sum())
        for k in leaves.tensors
        if leaves.tensors[k].grad is not None
    )
    # Rotary positions and norms of the transformers compute in fp32 whatever the weights: a wider step for them.
    step, tolerance = (1e-3, 1e-2) if family in ("flux", "emu3") else (1e-6, 1e-4)
    with torch.no_grad():
        ahead = loss({k: v.detach() + step * direction.tensors[k] for k, v in leaves.tensors.items()})
        behind = loss({k: v.detach() - step * direction.tensors[k] for k, v in leaves.tensors.items()})
    measured = float(ahead - behind) / (2 * step)
    assert slope != 0
    assert measured == pytest.approx(slope, rel=tolerance)


@EACH
def test_saved_and_loaded_gives_identical_pictures(case: str, tmp_path) -> None:
    family, _ = CASES[case]
    concept = run(case)
    path = concept.save(tmp_path / "concept.safetensors")
    loaded = Concept.load(path)
    assert_same(concept, loaded)
    assert torch.equal(draw(family, concept), draw(family, loaded))


@EACH
def test_a_concept_of_other_weights_is_refused_with_both_fingerprints(case: str) -> None:
    family, _ = CASES[case]
    concept = run(case)
    concept.fingerprint = "0123456789abcdef"
    with pytest.raises(UserError, match="0123456789abcdef") as caught:
        draw(family, concept)
    assert tiny(family).fingerprint in str(caught.value)


def test_later_stage_supersedes_its_own_concept_and_refuses_another() -> None:
    backbone = tiny("stylegan")
    tuned = run("gan w > weights")
    weights = tuned.codes[1]
    shifted = weights.map(lambda t: t + 0.01)
    twice = tuned.with_codes([*tuned.codes, shifted])
    only = tuned.with_codes([tuned.codes[0], shifted])
    assert torch.equal(draw("stylegan", twice), draw("stylegan", only))
    with pytest.raises(UserError, match="both replace generator"):
        with backbone.bound(tuned, Concept([shifted], name="<you>")):
            pass
    with pytest.raises(UserError, match="both set the styles"):
        with backbone.bound(tuned, Concept([tuned.codes[0]], name="<you>")):
            pass


def test_two_loras_add_whatever_their_order() -> None:
    family = "stable-diffusion"
    first, second = run("sd lora", seed=1).renamed("<one>"), run("sd lora", seed=2).renamed("<two>")
    backbone = tiny(family)
    drawn = []
    for order in ((first, second), (second, first)):
        with backbone.bound(*order) as view:
            drawn.append(view.sample(Target(prompt="a", n=1, sampling={"steps": 2}), rng=Random(0)))
    assert torch.allclose(drawn[0], drawn[1], atol=1e-5)


def test_nested_views_are_flat() -> None:
    backbone = tiny("stable-diffusion")
    word, lora = run("sd word").renamed("<one>"), run("sd lora").renamed("<two>")
    target = Target(prompt="a <one>", n=1, sampling={"steps": 2})
    with backbone.bound(word, lora) as flat:
        expected = flat.sample(target, rng=Random(0))
    with backbone.bound(word) as outer:
        with outer.bound(lora) as inner:
            assert torch.equal(inner.sample(target, rng=Random(0)), expected)
        alone = outer.sample(target, rng=Random(0))
    with backbone.bound(word) as again:
        assert torch.equal(again.sample(target, rng=Random(0)), alone)


def test_a_closed_view_refuses_to_work() -> None:
    backbone = tiny("stylegan")
    with backbone.bound(run("gan w")) as view:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        view.sample(Target(), rng=Random(0))


def test_two_names_alike_are_refused() -> None:
    concept = run("sd word")
    with pytest.raises(UserError, match="renamed"):
        with tiny("stable-diffusion").bound(concept, concept):
            pass


def test_inference_mode_is_refused() -> None:
    with torch.inference_mode(), pytest.raises(UserError, match="inference_mode"):
        fresh("gan w")


def test_no_grad_outside_does_not_stop_optimisation() -> None:
    with torch.no_grad():
        inside = fresh("sd word")
    assert_same(inside, run("sd word"))
