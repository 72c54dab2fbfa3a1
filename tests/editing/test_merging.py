"""Several concepts into one: closed forms, exact sums, and masks that learn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from editing.merging.closed_form import ClosedForm, least_change
from editing.merging.column_masks import ColumnMasks, masked, shared_columns
from editing.merging.orthogonal import overlap
from inversion.methods.optimize import Optimize
from inversion.spaces.block_lora import ContentLoRA, StyleLoRA
from inversion.spaces.cross_attention import KeysValues
from inversion.spaces.orthogonal_lora import OrthogonalLoRA, directions
from inversion.spaces.parameter import LoRA
from inversion.spaces.textual import Word
from tests.tiny import diffusion as tiny_diffusion
from tests.tiny.families import pictures, tiny
from unified.cli import main
from unified.contract.code import Code
from unified.contract.concept import Concept
from unified.contract.progress import Silent
from unified.contract.random import Random
from unified.contract.recipe import Recipe, Stage, recipe_refusal, recipes
from unified.contract.space import Space
from unified.encodings import encodings
from unified.errors import UserError
from unified.inversion import InvertSettings, invert
from unified.merging import merge, merges

SD, XL = "stable-diffusion", "stable-diffusion-xl"


def start(space: Space, name: str, *, family: str = SD, seed: int = 0, size: float = 0.3) -> Code:
    backbone = tiny(family)
    with backbone.bound() as view:
        code = space.initial(view, replace(pictures(backbone), name=name), rng=Random(seed))
    generator = torch.Generator().manual_seed(seed)
    moved = {k: v + size * torch.randn(v.shape, generator=generator) for k, v in code.tensors.items()}
    fixed = {k: v for k, v in code.tensors.items() if isinstance(space, OrthogonalLoRA) and k.endswith(".down")}
    return code.with_tensors({**moved, **fixed})


def concept(name: str, *spaces: Space, family: str = SD, seed: int = 0, carrier: str = "a") -> Concept:
    codes = [start(space, name, family=family, seed=seed) for space in spaces]
    return Concept(codes, name, carrier, "a")


def weight_of(backbone, bound: Concept, path: str) -> torch.Tensor:
    with backbone.bound(bound) as view:
        owner, _, leaf = path.rpartition(".")
        return getattr(view.component("unet").get_submodule(owner), leaf).detach().clone()


def draw(backbone, *concepts: Concept, prompt: str) -> torch.Tensor:
    return backbone.generate(list(concepts), prompt=prompt, sampling={"steps": 2}, output="pt")


# --- closed form --------------------------------------------------------------------------------------------


def test_least_change_meets_the_constraints_with_the_smallest_change() -> None:
    """Against the solution of the Karush-Kuhn-Tucker system of the same problem, row by row."""
    torch.manual_seed(0)
    width, outputs, tokens = 7, 3, 2
    base = torch.randn(outputs, width, dtype=torch.float64)
    keys, values = (torch.randn(tokens, n, dtype=torch.float64) for n in (width, outputs))
    captions = torch.randn(40, width, dtype=torch.float64)
    covariance = captions.T @ captions
    found = least_change(base, keys, values, torch.linalg.inv(covariance))
    assert torch.allclose(found @ keys.T, values.T)
    system = torch.zeros(width + tokens, width + tokens, dtype=torch.float64)
    system[:width, :width], system[:width, width:], system[width:, :width] = 2 * covariance, keys.T, keys
    for row in range(outputs):
        right = torch.cat([2 * covariance @ base[row], values[:, row]])
        assert torch.allclose(torch.linalg.solve(system, right)[:width], found[row])
    # Words of two concepts with nearly one encoding: the ridge keeps the change bounded.
    twins = torch.cat([keys[:1], keys[:1] + 1e-7])
    wild, tame = (least_change(base, twins, values, torch.linalg.inv(covariance), ridge=r) for r in (0.0, 1e-3))
    assert float((wild - base).norm()) > 1e4 > 1e2 > float((tame - base).norm())


@pytest.mark.parametrize("family", [SD, XL])
def test_each_concepts_words_mean_in_the_merged_one_what_they_meant_alone(family: str) -> None:
    backbone = tiny(family)
    both = [concept(name, Word(), KeysValues(), family=family, seed=i) for i, name in enumerate(("<a>", "<b>"))]
    exact = ClosedForm(ridge=1e-9).merged(backbone, both, rng=Random(0), progress=Silent())
    path = next(iter(both[0].codes[1].tensors))
    for one in both:
        with backbone.bound(one) as alone, backbone.bound(exact) as together, torch.no_grad():
            for view in (alone, together):
                assert one.name in view.rows
            prompt = f"a photo of {one.name}"
            rows = [encodings(view, [prompt])[0, backbone.token_places(view, [prompt], one.name)[0]] for view in
                    (alone, together)]  # fmt: skip
        assert torch.equal(*rows)
        wanted = rows[0] @ weight_of(backbone, one, path).T
        assert torch.allclose(rows[0] @ weight_of(backbone, exact, path).T, wanted, atol=1e-3)
        assert not torch.allclose(rows[0] @ backbone.components["unet"].get_parameter(path).T, wanted, atol=1e-2)


def test_a_merged_concept_is_one_file_with_both_names(tmp_path: Path) -> None:
    backbone = tiny(SD)
    both = [concept(name, Word(), KeysValues(), seed=i) for i, name in enumerate(("<a>", "<b>"))]
    found = merge(backbone, both, "closed-form")
    loaded = Concept.load(found.save(tmp_path / "both"))
    assert set(loaded.names) == {"<a>", "<b>"} and loaded.meta["merged"]["by"] == "closed-form"
    assert torch.equal(draw(backbone, loaded, prompt="<a> and <b>"), draw(backbone, found, prompt="<a> and <b>"))
    assert not torch.equal(draw(backbone, found, prompt="<a>"), draw(backbone, found, prompt="<b>"))
    with pytest.raises(UserError, match="does not say where"):
        draw(backbone, found, prompt="a hat")
    with pytest.raises(UserError, match="both replace"):
        draw(backbone, *both, prompt="<a> and <b>")
    third = Concept([start(Word(), "<b>")], "<b>", "a", "a")
    with pytest.raises(UserError, match="both named <b>"):
        draw(backbone, found, third, prompt="<a> <b>")


# --- orthogonal adaptation ----------------------------------------------------------------------------------


def test_shared_directions_are_orthonormal_and_follow_from_the_name() -> None:
    names = [f"<{i}>" for i in range(40)]
    all_of = {n: directions(16, 4, n) for n in names}
    assert torch.equal(all_of["<1>"], directions(16, 4, "<1>"))
    assert len({tuple(v[0].tolist()) for v in all_of.values()}) == 4  # blocks of the one matrix
    for value in all_of.values():
        assert torch.allclose(value @ value.T, torch.eye(4, dtype=torch.float64), atol=1e-12)
        assert any(float((value @ other.T).abs().max()) < 1e-12 for other in all_of.values())


def test_concepts_in_orthogonal_directions_do_not_meet_and_only_up_learns() -> None:
    backbone, space = tiny(SD), OrthogonalLoRA(rank=2)
    one = concept("<a>", Word(), space, seed=1)
    names = [f"<{i}>" for i in range(20)]
    codes = {name: start(space, name, seed=2) for name in names}
    apart = next(n for n in names if overlap(one.codes[1], codes[n]) < 1e-5)
    same = next(n for n in names if overlap(one.codes[1], codes[n]) > 0.9)
    other = Concept([start(Word(), apart, seed=2), codes[apart]], apart, "a", "a")
    found = merge(backbone, [one, other], "orthogonal")
    path = next(k.removesuffix(".down") for k in one.codes[1].tensors if k.endswith(".down"))
    base = backbone.components["unet"].get_parameter(path)
    alone, together = (weight_of(backbone, c, path) for c in (one, found))
    inputs = one.codes[1].tensors[f"{path}.down"]  # what the concept's change sees is changed by it alone
    assert torch.allclose(inputs @ together.T, inputs @ alone.T, atol=1e-4)
    assert not torch.allclose(together, alone, atol=1e-2) and not torch.allclose(alone, base, atol=1e-2)
    assert torch.equal(draw(backbone, found, prompt="<a>"), draw(backbone, one, other, prompt=f"<a>{apart}")) is False
    with pytest.raises(UserError, match="same directions"):
        merge(backbone, [one, Concept([codes[same]], same, "a", "a")], "orthogonal")
    with pytest.raises(UserError, match="orthogonal-adaptation"):
        merge(backbone, [one, concept("<b>", LoRA(rank=2))], "orthogonal")
    plan = Recipe("t", (Stage((space,), Optimize(steps=2, lr=1e-2)),), "", "", carrier="a")
    learnt = invert(backbone, pictures(backbone, 2), plan, InvertSettings()).codes[0].tensors
    for key, value in learnt.items():
        fixed = directions(value.shape[1], 2, "<me>").float() if key.endswith(".down") else torch.zeros_like(value)
        assert torch.equal(value, fixed) is key.endswith(".down")


# --- column masks -------------------------------------------------------------------------------------------


def test_before_training_masks_give_the_sum_and_a_zero_mask_drops_a_column() -> None:
    one, other = (start(LoRA(rank=2), "<a>", seed=i).tensors for i in (1, 2))
    path = next(k.removesuffix(".down") for k in one if k.endswith(".down"))
    pairs = [{path: (t[f"{path}.down"], t[f"{path}.up"])} for t in (one, other)]
    masks = [{path: torch.ones(one[f"{path}.down"].shape[1])} for _ in pairs]

    def delta() -> torch.Tensor:
        found = masked(pairs, masks)
        return found[f"{path}.up"] @ found[f"{path}.down"]

    single = [up @ down for pair in pairs for down, up in pair.values()]
    assert torch.allclose(delta(), single[0] + single[1], atol=1e-6)
    masks[0][path][0] = 0
    assert torch.allclose(delta()[:, 0], single[1][:, 0], atol=1e-6)
    assert float(shared_columns(masks)) == pytest.approx(1 - 1 / len(masks[0][path]))


def test_masks_learn_to_say_of_each_concept_what_it_said_alone() -> None:
    """And the loss that falls is measured on noise that training did not see."""
    backbone = tiny("flux")
    both = [concept(n, Word(), LoRA(rank=2), seed=i, family="flux") for i, n in enumerate(("<a>", "<b>"))]
    lessons: list[float] = []
    way = ColumnMasks(steps=20, lr=0.05, pictures=1)
    plain = ColumnMasks(steps=0, pictures=1).merged(backbone, both, rng=Random(0), progress=Silent())
    found = way.merged(backbone, both, rng=Random(0), progress=Silent())
    own = [way._lesson(backbone, one, Random(0).child(number))[1] for number, one in enumerate(both)]
    for merged in (plain, found):
        misses = 0.0
        for one, latents in zip(both, own, strict=True):
            with backbone.bound(merged) as view, torch.no_grad():
                for draw_number in range(8):
                    rng = Random(9).child(draw_number)
                    misses += float(way._mismatch(view, one, latents, rng))
        lessons.append(misses)
    assert lessons[1] < 0.8 * lessons[0], lessons
    lora = found.codes[-1]
    assert lora.space == "lora" and lora.meta["settings"]["rank"] == 4
    assert not any(value.requires_grad for value in lora.tensors.values())
    with pytest.raises(UserError, match="dreambooth-lora"):
        merge(backbone, [both[0], concept("<c>", Word(), family="flux")], "column-masks")
    with pytest.raises(UserError, match="two concepts"):
        merge(backbone, [*both, concept("<c>", LoRA(rank=2), family="flux")], "column-masks")


# --- content and style --------------------------------------------------------------------------------------


def test_content_and_style_parts_are_two_blocks_usable_alone_and_merged() -> None:
    backbone = tiny(XL)
    first, second = (
        concept(n, ContentLoRA(rank=2), StyleLoRA(rank=2), family=XL, seed=i, carrier="[v]")
        for i, n in enumerate(("<a>", "<b>"))
    )
    content, style = backbone.content_and_style()
    assert all(key.startswith(f"{content}.") for key in first.codes[0].tensors)
    assert all(key.startswith(f"{style}.") for key in first.codes[1].tensors)
    drawn = [draw(backbone, c, prompt="<a>") for c in (first, first.only("content-lora"), first.only("style-lora"))]
    assert not torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[1], drawn[2])
    found = merge(backbone, [first, second], "content-style")
    parts = (first.only("content-lora"), second.only("style-lora"))
    assert torch.equal(draw(backbone, found, prompt="<a> like <b>"), draw(backbone, *parts, prompt="<a> like <b>"))
    with pytest.raises(UserError, match="has nothing in kv; it has: content-lora, style-lora"):
        first.only("kv")
    with pytest.raises(UserError, match="content and style in two separate blocks"):
        merge(tiny(SD), [first, second], "content-style")


def test_b_lora_and_orthogonal_adaptation_run_where_their_idea_applies() -> None:
    assert recipe_refusal(type(tiny(XL)), recipes.get("b-lora")) is None
    assert "two separate blocks" in str(recipe_refusal(type(tiny("flux")), recipes.get("b-lora")))
    assert recipe_refusal(type(tiny(SD)), recipes.get("orthogonal-adaptation")) is None
    found = tiny(XL).invert(pictures(tiny(XL), 1).images, recipe="b-lora", steps=1)
    assert [code.space for code in found.codes] == ["content-lora", "style-lora"] and found.carrier == "[v]"


# --- asking -------------------------------------------------------------------------------------------------


def test_what_cannot_be_merged_is_refused_by_name() -> None:
    backbone = tiny(SD)
    one = concept("<a>", Word(), KeysValues())
    with pytest.raises(UserError, match="under a name of its own"):
        merge(backbone, [one, one], "closed-form")
    with pytest.raises(UserError, match="it has word"):
        merge(backbone, [one, concept("<b>", Word())], "closed-form")
    with pytest.raises(UserError, match="no way of merging named"):
        merge(backbone, [one, one], "zip")
    with pytest.raises(UserError, match="reads the prompt in each"):
        merge(tiny("flux"), [one, concept("<b>", KeysValues())], "closed-form")
    assert all(way.cite and way.summary for _, way in merges)


def test_merge_from_the_shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_diffusion.stable_diffusion_pipeline().save_pretrained(tmp_path / "model")
    files = []
    for i, name in enumerate(("<a>", "<b>")):
        made = replace(concept(name, Word(), KeysValues(), seed=i), backbone=str(tmp_path / "model"))
        files.append(str(made.save(tmp_path / f"{i}")))
    with pytest.raises(SystemExit) as end:
        main(["merge", *files, "--by", "closed-form", "-o", str(tmp_path / "both.safetensors")])
    assert not end.value.code, capsys.readouterr().err
    assert set(Concept.load(tmp_path / "both.safetensors").names) == {"<a>", "<b>"}
    with backbone_target(tmp_path) as view:
        assert set(view.rows) == {"<a>", "<b>"}


def backbone_target(tmp_path: Path):
    return tiny(SD).bound(replace(Concept.load(tmp_path / "both.safetensors"), fingerprint=""))
