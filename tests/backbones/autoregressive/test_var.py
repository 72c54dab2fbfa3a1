"""The next-scale model: its tokenizer, its order, its sampling, and what is built on it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from backbones.autoregressive.choosing import guide
from backbones.autoregressive.scales import MultiScaleTokenizer
from backbones.autoregressive.var import Var
from backbones.autoregressive.var_parts import load_parts
from inversion.methods.encode import Encode
from inversion.methods.optimize import Optimize
from inversion.objectives.prior_distillation import PriorDistillation
from inversion.objectives.scales import ScaleError
from inversion.spaces.parameter import LoRA, Weights
from inversion.spaces.remembered import Prefix
from inversion.spaces.textual import Word
from inversion.spaces.token import Context, VisualTokens
from tests.tiny.families import pictures, tiny
from tests.tiny.var import TINY_SCALES, tiny_parts, tiny_tokenizer
from unified.contract.concept import Concept
from unified.contract.objective import Step
from unified.contract.random import Random
from unified.contract.recipe import Recipe, Stage, recipes, refusal
from unified.contract.target import Target
from unified.errors import UserError
from unified.generation import generate
from unified.inversion import InvertSettings, invert
from unified.loading import load

LEVELS = TINY_SCALES.levels()


@pytest.fixture(scope="module")
def model() -> Var:
    found = tiny("var")
    assert isinstance(found, Var)
    return found


@pytest.fixture(scope="module")
def tokenizer() -> MultiScaleTokenizer:
    return tiny_tokenizer().requires_grad_(False)


def run(*stages, count: int = 2) -> Concept:  # type: ignore[no-untyped-def]
    backbone = tiny("var")
    recipe = Recipe("test", tuple(Stage((s,), m) for s, m in stages), scheme="", cite="", carrier="a")
    return invert(backbone, pictures(backbone, count), recipe, InvertSettings())


def draw(prompt: str = "a person", *concepts: Concept, n: int = 2, seed: int = 0, **sampling) -> torch.Tensor:  # type: ignore[no-untyped-def]
    with tiny("var").bound(*concepts) as view:
        return view.sample(Target(prompt=prompt, n=n, sampling=sampling), rng=Random(seed))


def test_tokens_follow_the_residual_algorithm(tokenizer: MultiScaleTokenizer) -> None:
    """An independent computation of VAR's algorithm 1, one picture and one scale at a time."""
    images = torch.rand(2, 3, 16, 16)
    latents = tokenizer.latents(images)
    found = tokenizer.rounding(latents)
    for row in range(2):
        left, rebuilt, codes = latents[row].clone(), torch.zeros_like(latents[row]), []
        for scale, side in enumerate((1, 2, 4)):
            cells = functional.adaptive_avg_pool2d(left[None], side)[0]
            chosen = torch.stack(
                [((tokenizer.codebook - v) ** 2).sum(1).argmin() for v in cells.flatten(1).T]
            ).view(side, side)  # fmt: skip
            vectors = tokenizer.codebook[chosen].permute(2, 0, 1)[None]
            large = vectors if side == 4 else functional.interpolate(vectors, size=(4, 4), mode="bicubic")
            added = (0.5 * large + 0.5 * tokenizer.spread[scale](large))[0]
            left, rebuilt = left - added, rebuilt + added
            codes.append(chosen.flatten())
        assert torch.equal(found.codes[row], torch.cat(codes))
        assert torch.allclose(found.sums[-1][row], rebuilt, atol=1e-5)


def test_codes_alone_give_the_same_sums_and_inputs(tokenizer: MultiScaleTokenizer) -> None:
    rounding = tokenizer.rounding(tokenizer.latents(torch.rand(2, 3, 16, 16)))
    assert all(
        torch.allclose(a, b, atol=1e-6) for a, b in zip(rounding.sums, tokenizer.sums(rounding.codes), strict=True)
    )
    inputs = tokenizer.inputs(rounding.codes)
    assert inputs.shape == (2, 20, 4)
    assert torch.allclose(inputs[:, :4], functional.adaptive_avg_pool2d(rounding.sums[0], 2).flatten(2).mT, atol=1e-6)
    assert torch.allclose(inputs[:, 4:], rounding.sums[1].flatten(2).mT, atol=1e-6)


def test_a_scale_sees_all_coarser_ones_and_nothing_finer(model: Var) -> None:
    codes = torch.randint(0, 16, (1, 1, 21))
    with torch.no_grad(), model.bound() as view:
        base = model.logits(view, ["a person"], codes)
        for scale, first in enumerate((0, 1, 5)):
            changed = codes.clone()
            changed[0, 0, first] = (changed[0, 0, first] + 1) % 16
            difference = (model.logits(view, ["a person"], changed) - base).abs().amax(-1)[0]
            assert float(difference[scale >= LEVELS].max()) == 0
            if scale < 2:
                assert float(difference[scale < LEVELS].min()) > 0


@pytest.mark.parametrize(("guidance", "until"), [(1.0, 1.0), (2.5, 1.0), (2.5, 0.5), (2.5, 0.0)])
def test_sampling_with_kept_keys_equals_whole_passes(model: Var, guidance: float, until: float) -> None:
    """The most probable tokens, scale by scale, are those of teacher-forced logits with guidance growing by scale."""
    with torch.no_grad(), model.bound() as view:
        drawn = _codes(model, "a person", temperature=0, guidance=guidance, guidance_until=until)
        told, blind = (model.logits(view, [text] * 2, drawn.unsqueeze(1)) for text in ("a person", ""))
    strength = torch.where(until >= LEVELS / 2, 1 + (guidance - 1) * LEVELS / 2, 1.0)
    assert torch.equal(guide(told, blind, strength[:, None]).argmax(-1), drawn)


def _codes(model: Var, prompt: str, *, n: int = 2, **settings) -> torch.Tensor:  # type: ignore[no-untyped-def]
    """The tokens that `sample` decodes."""
    seen: list[torch.Tensor] = []
    original = model.images.decode
    model.images.decode = lambda codes: seen.append(codes) or original(codes)  # type: ignore[method-assign,func-returns-value]
    try:
        with model.bound() as view:
            view.sample(Target(prompt=prompt, n=n, sampling=settings), rng=Random(0))
    finally:
        del model.images.decode
    return seen[0]


def test_a_picture_depends_on_its_seed_alone_and_the_text_counts(model: Var) -> None:
    assert torch.equal(_codes(model, "a person", n=3)[:1], _codes(model, "a person", n=1))
    assert not torch.equal(draw(), draw(seed=1))
    assert not torch.equal(draw(), draw("a zebra"))


def test_padding_of_texts_changes_nothing(model: Var) -> None:
    codes = torch.randint(0, 16, (1, 1, 21))
    long = "a person with short brown hair, smiling"
    with torch.no_grad(), model.bound() as view:
        together = model.logits(view, ["a person", long], codes.expand(2, -1, -1))
        for row, text in enumerate(("a person", long)):
            assert torch.allclose(together[row], model.logits(view, [text], codes)[0], atol=1e-4)


def test_a_text_is_more_than_its_words() -> None:
    """Without places, a plain transformer says the same of a text whose colours change places; this one does not."""
    model = Var("tiny/var", tiny_parts())
    network = model.parts.model
    torch.nn.init.zeros_(network.text_position)
    with torch.no_grad(), model.bound() as view:
        one, other = (
            model.meaning(view, [text]) for text in ("red hair, wearing blue clothes", "blue hair, wearing red clothes")
        )
        assert not torch.allclose(one, other, atol=1e-3)
        torch.nn.init.zeros_(network.neighbours.weight)
        same, too = (
            model.meaning(view, [text]) for text in ("red hair, wearing blue clothes", "blue hair, wearing red clothes")
        )
        assert torch.allclose(same, too, atol=1e-4)


def test_redrawing_keeps_the_tokens_outside_in_every_scale(model: Var) -> None:
    concept = run((VisualTokens(), Encode()))
    source = concept.codes[0].tensors["tokens"]
    with model.bound(concept) as view:
        kept = model.kept(view, [[0, 0], [1, 1]], 2)
    # Side 1 averages to one half and stays; of side 2 the lower row changes, of side 4 the two lower rows.
    changed = torch.tensor([0] + [0, 0, 1, 1] + [0] * 8 + [1] * 8).bool()
    assert torch.equal(kept == -1, changed.expand(2, -1))
    assert torch.equal(kept[:, ~changed], source[:, 0][:, ~changed])
    images = model.decode_codes(None, source)  # type: ignore[arg-type]
    assert torch.allclose(draw("", concept, redraw=[[0]]), images, atol=1e-5)
    half = draw("a person <me>", concept, redraw=[[0, 0], [1, 1]])
    assert not torch.allclose(half, images, atol=1e-2)
    assert torch.equal(draw("a person", concept, redraw=[[1]]), draw("a person"))
    made = generate(
        model, [concept], Target(prompt="<me>", n=1, sampling={"redraw": [[0, 1]]}), scheme="replace-tokens"
    )
    assert made.shape == (1, 3, 16, 16)


def test_bound_tokens_and_a_prompt_are_refused_not_ignored(model: Var) -> None:
    concept = run((VisualTokens(), Encode()))
    assert torch.equal(draw("", concept), model.decode_codes(None, concept.codes[0].tensors["tokens"]))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="reads no pictures"):
        draw("a <me>", concept)
    assert "trained on text alone" in (refusal(Var, [Stage((Context(),), Encode())]) or "")
    assert "whole scales" in (refusal(Var, [Stage((Prefix(),), Optimize())]) or "")
    with pytest.raises(UserError, match="Shorten"):
        draw("a person " * 60)


@pytest.mark.parametrize("space", [Word(vectors=2), LoRA(rank=2), Weights(paths="mlp")])
def test_words_and_weights_explain_the_pictures_better(model: Var, space: object) -> None:
    reference = pictures(model, 2)
    losses = []
    for steps, lr in ((1, 0.0), (20, 0.05)):
        with torch.no_grad(), model.bound(run((space, Optimize(steps=steps, lr=lr)))) as view:
            losses.append(float(view.attempt(reference, rng=Random(0), prompts=["<me>"] * 2).error.mean()))
    assert losses[1] < losses[0] - 0.1


def test_scale_error_weights_coarse_scales(model: Var) -> None:
    reference = pictures(model, 2)
    with torch.no_grad(), model.bound() as view:
        attempt = view.attempt(reference, rng=Random(0), prompts=["a", "a"])
        found = ScaleError(share=2 / 3, fine=0.25)(view, attempt, [], Step(0, 1))
        expected = (attempt.error[:, :5].sum(1) + 0.25 * attempt.error[:, 5:].sum(1)) / 21
    assert torch.allclose(found, expected)


def test_prior_distillation_is_zero_untouched_and_holds_the_class_back(model: Var) -> None:
    reference = pictures(model, 2)
    with torch.no_grad(), model.bound() as view:
        attempt = view.attempt(reference, rng=Random(0), prompts=["a", "a"])
        assert float(PriorDistillation(pictures=2)(view, attempt, [], Step(0, 1)).abs().max()) < 1e-6
    drifts = []
    for weight in (0.0, 5.0):
        recipe = recipes.get("arbooth")
        stage = recipe.stages[0]
        prior = PriorDistillation(weight=weight, pictures=2)
        tuned = invert(
            model,
            reference,
            Recipe(
                "t",
                (Stage(stage.spaces, Optimize(steps=10, lr=1e-2, objectives=(ScaleError(), prior))),),
                scheme="",
                cite="",
            ),
            InvertSettings(),
        )
        assert all("cross." in name or "mlp." in name for name in tuned.codes[0].tensors)
        assert not any("text_blocks" in name for name in tuned.codes[0].tensors)
        with torch.no_grad(), model.bound(tuned) as view:
            attempt = view.attempt(reference, rng=Random(0), prompts=["a", "a"])
            drifts.append(float(PriorDistillation(pictures=2)(view, attempt, [], Step(0, 1))[0]))
    assert drifts[1] < 0.5 * drifts[0]


def test_arbooth_runs_on_scales_alone() -> None:
    stages = recipes.get("arbooth").stages
    assert refusal(Var, stages) is None
    assert "scale by scale" in (refusal(type(tiny("emu3")), stages) or "")


def test_saved_models_load_by_content(tmp_path: Path) -> None:
    parts = tiny_parts()
    parts.save(tmp_path, compact=False)
    loaded = load(tmp_path)
    assert isinstance(loaded, Var)
    with loaded.bound() as view:
        again = view.sample(Target(prompt="a person", n=2), rng=Random(0))
    assert torch.equal(again, draw())
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="next-scale model"):
        load_parts(tmp_path)
