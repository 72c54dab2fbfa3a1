"""Parameter spaces in closed form: nothing changed at the start, and what is changed is what the papers say."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from inversion.methods.optimize import Optimize
from inversion.spaces.cross_attention import KeysValues
from inversion.spaces.low_rank import DoRA, Residual, row_norms
from inversion.spaces.orthogonal import BOFT, OFT, butterfly_order, cayley
from inversion.spaces.parameter import LoRA, TextWeights
from inversion.spaces.rank_one import RankOne, inverse_covariance, similarity
from inversion.spaces.spectral import SpectralShifts
from inversion.spaces.textual import Word
from tests.tiny.families import pictures, tiny
from unified.contract.code import Code
from unified.contract.concept import Concept
from unified.contract.random import Random
from unified.contract.recipe import Recipe, Stage
from unified.contract.shadow import pristine_tensor
from unified.contract.space import Space
from unified.contract.target import Target
from unified.errors import UserError
from unified.inversion import InvertSettings, invert

QUIET = [
    ("stable-diffusion", KeysValues()),
    ("stable-diffusion", SpectralShifts()),
    ("stable-diffusion", OFT(block=4)),
    ("stable-diffusion", BOFT(block=4)),
    ("stable-diffusion", DoRA(rank=2)),
    ("stable-diffusion", Residual(fraction=0.5)),
    ("stable-diffusion", TextWeights()),
    ("flux", KeysValues()),
    ("flux", SpectralShifts()),
    ("flux", OFT(block=8)),
    ("flux", BOFT(block=8)),
    ("flux", DoRA(rank=2)),
    ("flux", TextWeights()),
]
EACH = pytest.mark.parametrize(("family", "space"), QUIET, ids=lambda v: v if isinstance(v, str) else v.name)


def start(family: str, space: Space, *, dtype: torch.dtype = torch.float32) -> Code:
    backbone = tiny(family, dtype)
    with backbone.bound() as view:
        return space.initial(view, pictures(backbone), rng=Random(0))


def stirred(code: Code, size: float = 0.3) -> Code:
    generator = torch.Generator().manual_seed(1)
    return code.map(lambda t: t + size * torch.randn(t.shape, generator=generator, dtype=t.dtype))


def concept(code: Code) -> Concept:
    return Concept([code], name="red", carrier="red", category="a")


def draw(family: str, *concepts: Concept) -> torch.Tensor:
    with tiny(family).bound(*concepts) as view:
        return view.sample(Target(prompt="a red hat", n=1, sampling={"steps": 2}), rng=Random(0))


def weight(family: str, code: Code, path: str, *, scale: float = 1.0, dtype: torch.dtype = torch.float32):
    """(pristine, changed) weight at `path` of the generator."""
    backbone = tiny(family, dtype)
    with backbone.bound(concept(code).scaled(scale)) as view:
        module = view.component(code.meta["component"])
        owner, _, leaf = path.rpartition(".")
        return (
            pristine_tensor(backbone.components[code.meta["component"]], path),
            getattr(module.get_submodule(owner), leaf),
        )


@EACH
def test_the_start_is_the_backbone_bit_for_bit_and_weight_zero_is_too(family: str, space: Space) -> None:
    code = start(family, space)
    plain = draw(family)
    assert torch.equal(draw(family, concept(code)), plain)
    loud = concept(stirred(code))
    assert not torch.equal(draw(family, loud), plain)
    assert torch.equal(draw(family, loud.scaled(0.0)), plain)


@EACH
def test_saved_and_loaded_draws_the_same(family: str, space: Space, tmp_path) -> None:
    loud = concept(stirred(start(family, space)))
    loaded = Concept.load(loud.save(tmp_path / "c"))
    assert torch.equal(draw(family, loaded), draw(family, loud))


@EACH
def test_training_moves_every_tensor_that_the_generator_hears_of(family: str, space: Space) -> None:
    """Each tensor gets a gradient from the denoising error after the first steps."""
    backbone = tiny(family)
    spaces = (Word(), space)
    plan = Recipe("t", (Stage(spaces, Optimize(steps=3, lr=1e-2, templates=("a {} b",))),), "", "")
    found = invert(backbone, pictures(backbone, 2), plan, InvertSettings())
    code = found.codes[1]
    first = start(family, space)
    moved = [not torch.equal(code.tensors[name], first.tensors[name]) for name in first.tensors]
    assert sum(moved) > 0.6 * len(moved)  # biases before a norm, or the last block's text side, hear nothing


# --- kv -----------------------------------------------------------------------------------------------------


def test_kv_is_cross_attention_only() -> None:
    code = start("stable-diffusion", KeysValues())
    assert code.tensors and all(".attn2.to_k." in k or ".attn2.to_v." in k for k in code.tensors)
    assert all(".add_k_proj." in k or ".add_v_proj." in k for k in start("flux", KeysValues()).tensors)


def test_the_first_token_gives_no_gradient_but_its_keys_stay() -> None:
    """A picture that attends to the first token alone teaches kv nothing; without the hold it does."""
    backbone = tiny("stable-diffusion")
    from unified.contract.attention import Editor

    class FirstOnly(Editor):
        def wants(self, place) -> bool:
            return place.kind == "cross"

        def project(self, call) -> None:
            call.key, call.value = call.key[:, :, :1], call.value[:, :, :1]

    for hold in (True, False):
        code = start("stable-diffusion", KeysValues(hold_first=hold)).map(lambda t: t.requires_grad_())
        with backbone.bound(concept(code)) as view:
            view.edit_attention(FirstOnly())
            attempt = view.attempt(pictures(backbone, 1), rng=Random(0), prompts=["a"])
            attempt.error.sum().backward()
        values = [t.grad for k, t in code.tensors.items() if ".to_v." in k]
        assert all(g is None or not g.any() for g in values) is hold


# --- svd ----------------------------------------------------------------------------------------------------


def test_svd_shifts_the_planted_values() -> None:
    code = start("stable-diffusion", SpectralShifts(), dtype=torch.float64)
    paths = [key.removesuffix(".shift") for key in code.tensors]
    convolution = next(p for p in paths if p.endswith("conv1.weight"))
    matrix = next(p for p in paths if p.endswith("to_q.weight"))
    for path in (convolution, matrix):
        planted = code.tensors[f"{path}.shift"]
        planted[0], planted[-1] = 0.5, -100.0  # the last one falls below zero: cut off there
        before, after = weight("stable-diffusion", code, path, dtype=torch.float64)
        expected = torch.linalg.svdvals(before.flatten(1))
        expected[0] += 0.5
        expected[-1] = 0.0
        assert torch.allclose(torch.linalg.svdvals(after.flatten(1)), expected.sort(descending=True).values)
        _, half = weight("stable-diffusion", code, path, scale=0.5, dtype=torch.float64)
        assert torch.linalg.svdvals(half.flatten(1))[0] == pytest.approx(float(expected[0]) - 0.25)


# --- oft, boft ----------------------------------------------------------------------------------------------


def test_cayley_is_a_rotation_and_its_closed_form_in_two_dimensions() -> None:
    entries = torch.randn(3, 10, dtype=torch.float64)
    turns = cayley(entries, 5)
    assert torch.allclose(turns @ turns.mT, torch.eye(5, dtype=torch.float64).expand(3, 5, 5), atol=1e-12)
    assert torch.allclose(torch.linalg.det(turns), torch.ones(3, dtype=torch.float64))
    # Q = [[0, q], [-q, 0]]: (I - Q)(I + Q)^-1 turns by -2 arctan q.
    q = torch.tensor([0.7], dtype=torch.float64)
    angle = -2 * torch.arctan(q)
    expected = torch.stack([angle.cos(), angle.sin(), -angle.sin(), angle.cos()]).reshape(2, 2)
    assert torch.allclose(cayley(q, 2), expected)
    assert torch.equal(cayley(torch.zeros(3), 3), torch.eye(3))


@pytest.mark.parametrize("space", [OFT(block=4), BOFT(block=4, factors=2), BOFT(block=2, factors=3)])
def test_rotations_keep_all_angles_between_neurons(space: Space) -> None:
    code = stirred(start("stable-diffusion", space, dtype=torch.float64))
    for key in code.tensors:
        before, after = weight("stable-diffusion", code, key.removesuffix(".skew"), dtype=torch.float64)
        assert not torch.allclose(before, after)
        assert torch.allclose(before @ before.T, after @ after.T, atol=1e-12)


def test_butterfly_factors_mix_all_inputs_and_one_factor_does_not() -> None:
    """Width 16, blocks of 4: 1 + log2(16 / 4) = 3 factors connect everything, fewer do not."""
    width, size = 16, 4
    reach = torch.eye(width)
    ones = torch.block_diag(*[torch.ones(size, size)] * (width // size))
    for factor in range(3):
        assert bool((reach == 0).any())
        order = butterfly_order(width, size, factor)
        assert sorted(order.tolist()) == list(range(width))
        back = order.argsort()
        reach = (ones[back][:, back] @ reach).clamp(max=1)
    assert bool((reach == 1).all())


def test_one_boft_factor_is_oft() -> None:
    oft, boft = (stirred(start("stable-diffusion", s)) for s in (OFT(block=4), BOFT(block=4, factors=1)))
    for key, value in oft.tensors.items():
        boft.tensors[key] = value[None]
        path = key.removesuffix(".skew")
        assert torch.allclose(weight("stable-diffusion", oft, path)[1], weight("stable-diffusion", boft, path)[1])


# --- dora, residual -----------------------------------------------------------------------------------------


def test_dora_sets_lengths_by_the_magnitude_and_directions_by_the_adapter() -> None:
    code = stirred(start("stable-diffusion", DoRA(rank=2), dtype=torch.float64), 0.1)
    lora = start("stable-diffusion", LoRA(rank=2), dtype=torch.float64)
    for key in lora.tensors:
        lora.tensors[key] = code.tensors[key]
    path = next(k.removesuffix(".magnitude") for k in code.tensors if k.endswith(".magnitude"))
    _, changed = weight("stable-diffusion", code, path, dtype=torch.float64)
    _, plain = weight("stable-diffusion", lora, path, dtype=torch.float64)
    assert torch.allclose(row_norms(changed), code.tensors[f"{path}.magnitude"].abs())
    cosine = torch.nn.functional.cosine_similarity(changed, plain, dim=1)
    assert torch.allclose(cosine.abs(), torch.ones_like(cosine))


def test_residuals_go_to_the_output_projections_with_a_share_of_their_width() -> None:
    code = start("stable-diffusion", Residual(fraction=0.5))
    ups = {k: v for k, v in code.tensors.items() if k.endswith(".up")}
    assert len(ups) == sum(
        name.endswith(".proj_out") for name, _ in tiny("stable-diffusion").components["unet"].named_modules()
    )
    assert all(up.shape[1] == up.shape[0] // 2 for up in ups.values())
    with pytest.raises(UserError, match="cross-attention"):
        tiny("flux").invert(pictures(tiny("flux")).images, space="residual", category="a")


# --- rank-one -----------------------------------------------------------------------------------------------


def sharp(**changes) -> RankOne:
    return RankOne(temperature=0.02, sampling_temperature=0.02, **changes)


def test_rank_one_gives_the_output_for_its_input_and_leaves_the_rest_alone() -> None:
    """Closed form of the edit: at i it gives o (gate open); at e with sim 0 it gives W e (gate shut)."""
    backbone = tiny("stable-diffusion", torch.float64)
    space = sharp()
    with backbone.bound() as view:
        code = space.initial(view, pictures(backbone), rng=Random(0))
    path = code.meta["keys"][0].replace("to_k", "to_v")
    code.tensors[f"{path}.output"] = torch.randn_like(code.tensors[f"{path}.output"])
    metric = inverse_covariance(backbone, space.ridge)
    own = code.tensors["input"]
    other = torch.randn(8, dtype=torch.float64)
    other = other - similarity(other, own, metric) * own
    assert float(similarity(own, own, metric)) == pytest.approx(1.0)
    assert float(similarity(other, own, metric)) == pytest.approx(0.0, abs=1e-9)
    with backbone.bound(concept(code)) as view, torch.no_grad():
        module = view.component("unet").get_submodule(path)
        plain = backbone.components["unet"].get_submodule(path)
        assert torch.allclose(module(own[None])[0], code.tensors[f"{path}.output"], atol=1e-5)
        assert torch.allclose(module(other[None]), plain(other[None]), atol=1e-5)
        # And linear in between, apart from the gate: W(e - i sim) + o gate.
        both = other + 0.7 * own  # sim is the bias: the gate is half open
        expected = plain(other[None])[0] + 0.5 * code.tensors[f"{path}.output"]
        assert torch.allclose(module(both[None])[0], expected, atol=1e-6)


def test_keys_stay_locked_to_the_category_while_values_learn() -> None:
    backbone = tiny("stable-diffusion")
    plan = Recipe(
        "t", (Stage((Word(), RankOne()), Optimize(steps=3, lr=1e-2, lrs={"word": 0.1}, templates=("a {} b",))),), "", ""
    )
    found = invert(backbone, pictures(backbone, 2), plan, InvertSettings()).codes[1]
    with backbone.bound() as view:
        first = RankOne().initial(view, pictures(backbone, 2), rng=Random(0))
    for name, value in found.tensors.items():
        locked = name.removesuffix(".output") in found.meta["keys"]
        assert torch.equal(value, first.tensors[name]) is locked, name
    # The running mean went a little way towards the encoding of the word as it is now.
    assert 0 < float((found.tensors["input"] - first.tensors["input"]).abs().max()) < 0.1


def test_weight_zero_takes_a_rank_one_edit_away() -> None:
    loud = concept(stirred(start("stable-diffusion", RankOne())))
    assert torch.equal(draw("stable-diffusion", loud.scaled(0.0)), draw("stable-diffusion"))
    assert not torch.equal(draw("stable-diffusion", loud), draw("stable-diffusion"))
    with pytest.raises(UserError, match="class word"):
        backbone = tiny("stable-diffusion")
        with backbone.bound() as view:
            RankOne().initial(view, replace_category(pictures(backbone)), rng=Random(0))


def replace_category(reference):
    return replace(reference, category="")


def test_text_weights_leave_the_tables_of_embeddings() -> None:
    names = list(start("stable-diffusion", TextWeights()).tensors)
    assert names and not any("embedding" in name for name in names)
    assert all(name.startswith("text_encoder/") for name in names)
