"""The laws of the contract for the spaces of models that draw with tokens."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch

from inversion.methods.encode import Encode
from inversion.methods.optimize import Optimize
from inversion.spaces.dual_prompt import DualPrompt
from inversion.spaces.remembered import LayerTokens, Prefix, ReferenceMemory
from inversion.spaces.scale_parts import ContentPart
from inversion.spaces.scale_reference import ScaleReference
from inversion.spaces.textual import Word
from inversion.spaces.token import Context, TokenLatents
from tests.tiny.families import pictures, tiny
from unified.contract.concept import Concept
from unified.contract.kinds import Evidence
from unified.contract.method import Job, Member
from unified.contract.random import Random
from unified.contract.recipe import Recipe, Stage
from unified.contract.target import Target
from unified.errors import UserError
from unified.inversion import InvertSettings, invert

RENDER = Optimize(steps=3, lr=0.05, evidence=Evidence.RENDER)
LEARN = Optimize(steps=3, lr=0.05)
CASES = {
    "emu3 token-latents": ("emu3", TokenLatents(), RENDER),
    "emu3 context": ("emu3", Context(), Encode()),
    "emu3 prefix": ("emu3", Prefix(length=2), LEARN),
    "emu3 layer-tokens": ("emu3", LayerTokens(), LEARN),
    "emu3 reference-kv": ("emu3", ReferenceMemory(), Encode()),
    "janus prefix": ("janus", Prefix(length=2), LEARN),
    "janus context": ("janus", Context(), Encode()),
    "var token-latents": ("var", TokenLatents(), RENDER),
    "var word": ("var", Word(vectors=2), LEARN),
    "emu3 dual-prompt": ("emu3", DualPrompt(generation=3, understanding=0), LEARN),
    "var scale-content": ("var", ContentPart(vectors=2), LEARN),
    "var scale-reference": ("var", ScaleReference(), Encode()),
}
EACH = pytest.mark.parametrize("case", CASES)


def recipe_of(case: str, steps: int | None = None) -> Recipe:
    _, space, method = CASES[case]
    recipe = Recipe("test", (Stage((space,), method),), scheme="", cite="", carrier="a")
    return recipe if steps is None else recipe.with_overrides(steps=steps)


def fresh(case: str, *, steps: int | None = None, checkpoints: Path | None = None) -> Concept:
    backbone = tiny(CASES[case][0])
    return invert(backbone, pictures(backbone, 2), recipe_of(case, steps), InvertSettings(checkpoints=checkpoints))


stored = functools.cache(fresh)


def draw(case: str, concept: Concept) -> torch.Tensor:
    prompt = "" if "token-latents" in case else "a <me>"
    with tiny(CASES[case][0]).bound(concept) as view:
        return view.sample(Target(prompt=prompt, n=2), rng=Random(0))


def assert_same(first: Concept, second: Concept) -> None:
    for one, other in zip(first.codes, second.codes, strict=True):
        assert all(torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)


@EACH
def test_weights_stay_and_the_same_seed_gives_the_same_bits(case: str) -> None:
    backbone = tiny(CASES[case][0])
    before = {f"{c}/{n}": v.clone() for c, m in backbone.components.items() for n, v in m.state_dict().items()}
    first, second = stored(case), fresh(case)
    assert_same(first, second)
    assert torch.equal(draw(case, first), draw(case, second))
    for component, module in backbone.components.items():
        assert all(torch.equal(value, before[f"{component}/{name}"]) for name, value in module.state_dict().items())


@EACH
def test_saved_and_loaded_gives_identical_pictures(case: str, tmp_path: Path) -> None:
    loaded = Concept.load(stored(case).save(tmp_path / "concept.safetensors"))
    assert_same(stored(case), loaded)
    assert torch.equal(draw(case, stored(case)), draw(case, loaded))


@pytest.mark.parametrize("case", [case for case, (_, _, method) in CASES.items() if isinstance(method, Optimize)])
def test_three_steps_and_three_are_six(case: str, tmp_path: Path) -> None:
    class Stop:
        pressed = False

        def start(self, label: str, total: int) -> None:
            pass

        def advance(self, done: int, *, loss: float | None = None) -> None:
            if done == 3 and not self.pressed:
                self.pressed = True
                raise KeyboardInterrupt

        def finish(self) -> None:
            pass

    backbone = tiny(CASES[case][0])
    settings = InvertSettings(checkpoints=tmp_path, progress=Stop())
    invert(backbone, pictures(backbone, 2), recipe_of(case, 6), settings)
    assert_same(fresh(case, steps=6), fresh(case, steps=6, checkpoints=tmp_path))


@pytest.mark.parametrize(
    "case", ["emu3 prefix", "emu3 layer-tokens", "janus prefix", "var word", "emu3 dual-prompt", "var scale-content"]
)
def test_gradient_agrees_with_finite_differences(case: str) -> None:
    """In double precision (rotary positions are single), along a random direction of all tensors."""
    family, space, _ = CASES[case]
    backbone = tiny(family, torch.float64)
    reference = pictures(backbone, 2)
    job = Job(backbone, [Member(reference)], Random(0))
    with job.open() as view:
        code = space.initial(view, reference, rng=Random(0))
    generator = torch.Generator().manual_seed(0)
    leaves = code.map(lambda t: t.detach().clone().requires_grad_())
    direction = leaves.map(lambda t: torch.randn(t.shape, generator=generator, dtype=t.dtype))

    def loss(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        code.tensors = tensors
        with job.open([[code]]) as view:
            return view.attempt(reference, rng=Random(1), prompts=["a <me>"] * 2).error.mean()

    loss(dict(leaves.tensors)).backward()
    slope = sum(
        float((value.grad * direction.tensors[name]).sum())
        for name, value in leaves.tensors.items()
        if value.grad is not None
    )
    step = 1e-4
    with torch.no_grad():
        ahead, behind = (
            float(loss({k: v.detach() + sign * step * direction.tensors[k] for k, v in leaves.tensors.items()}))
            for sign in (1, -1)
        )
    assert slope != 0
    assert (ahead - behind) / (2 * step) == pytest.approx(slope, rel=1e-2)


@pytest.mark.parametrize("family", ["emu3", "janus", "var"])
def test_a_name_that_is_a_token_already_is_refused(family: str) -> None:
    backbone = tiny(family)
    reference = pictures(backbone, 1)
    recipe = Recipe("test", (Stage((Word(),), LEARN),), scheme="", cite="")
    concept = invert(backbone, reference, recipe, InvertSettings()).renamed("smiling")
    with pytest.raises(UserError, match="another name"):
        with backbone.bound(concept) as view:
            view.sample(Target(prompt="a smiling person"), rng=Random(0))
