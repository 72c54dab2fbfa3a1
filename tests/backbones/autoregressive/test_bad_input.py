"""What a user may give that cannot work: refused in one sentence, or handled as if it were usual."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from backbones.autoregressive.checkpoint import save_emu3
from inversion.methods.encode import Encode
from inversion.methods.optimize import Optimize
from inversion.spaces.dual_prompt import DualPrompt
from inversion.spaces.scale_parts import ContentPart, StylePart
from inversion.spaces.textual import Word
from inversion.spaces.token import Context, VisualTokens
from tests.tiny.autoregressive import tiny_emu3
from tests.tiny.families import pictures, tiny
from tests.tiny.var import tiny_parts
from unified.contract.concept import Concept
from unified.contract.random import Random
from unified.contract.recipe import Recipe, Stage
from unified.contract.reference import Reference
from unified.contract.space import Space
from unified.contract.target import Target
from unified.errors import UserError
from unified.inversion import InvertSettings, invert
from unified.loading import load

ALL = ["emu3", "janus", "chameleon", "var"]
TEXTS = ["a person with short brown hair, smiling", "a person", "a zebra"]


def made(family: str, *spaces: Space, method=None, count: int = 1) -> Concept:  # type: ignore[no-untyped-def]
    backbone = tiny(family)
    recipe = Recipe("t", (Stage(spaces, method or Optimize(steps=1)),), scheme="", cite="", carrier="a")
    return invert(backbone, pictures(backbone, count), recipe, InvertSettings())


@pytest.mark.parametrize("family", ["emu3", "janus"])
def test_more_reference_pictures_than_the_context_holds(family: str) -> None:
    backbone = tiny(family)
    most = backbone.most_pictures()  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=f"room for 1 to {most}"):
        made(family, Context(references=most + 1), method=Encode(), count=2)
    with pytest.raises(UserError, match="room for 1 to"):
        made(family, Context(references=0), method=Encode())
    tokens = made(family, VisualTokens(), method=Encode(), count=most + 20)
    with backbone.bound(tokens) as view, pytest.raises(UserError, match="Show fewer pictures"):
        view.sample(Target("a <me>", n=1, sampling={"references": most + 20}), rng=Random(0))
    # As many as fit are shown and drawn beside.
    with backbone.bound(tokens) as view:
        view.sample(Target("a <me>", n=1, sampling={"references": most}), rng=Random(0))


@pytest.mark.parametrize("family", ALL)
def test_a_size_that_the_tokenizer_does_not_divide(family: str) -> None:
    backbone = tiny(family)
    odd = Reference(torch.rand(1, 3, 18, 16), category="a")
    recipe = Recipe("t", (Stage((Word(),), Optimize(steps=1)),), scheme="", cite="")
    with pytest.raises(UserError, match="multiples of 4"):
        invert(backbone, odd, recipe, InvertSettings())


@pytest.mark.parametrize("family", ["janus", "var"])
def test_a_size_that_divides_but_is_not_the_models(family: str) -> None:
    """Their pictures have one size, which is what their positions and scales are made for."""
    backbone = tiny(family)
    large = Reference(torch.rand(1, 3, 32, 32), category="a")
    recipe = Recipe("t", (Stage((Word(),), Optimize(steps=1)),), scheme="", cite="")
    with pytest.raises(UserError, match=r"draws|resize"):
        invert(backbone, large, recipe, InvertSettings())


def _emu3(folder: Path) -> None:
    save_emu3(tiny_emu3(), folder, dtype=torch.float32)


def _var(folder: Path) -> None:
    tiny_parts().save(folder)


@pytest.mark.parametrize(
    ("save", "part", "message"),
    [(_emu3, "vqmodel.decoder", "without what it draws with"), (_var, "model.head.", "cannot be read")],
)
def test_a_checkpoint_without_image_head(save: Callable[[Path], None], part: str, message: str, tmp_path: Path) -> None:
    """Janus without its head is refused too, see test_janus. Drawing with random weights would be noise."""
    save(tmp_path)
    load(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = {name: value for name, value in load_file(file).items() if part not in name}
    assert len(weights) < len(load_file(file))
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=message):
        load(tmp_path)


@pytest.mark.parametrize("family", ALL)
@torch.no_grad()
def test_prompts_of_different_lengths_give_what_each_gives_alone(family: str) -> None:
    """Padded to one length in a batch (on the left; by the next-scale model on the right)."""
    backbone = tiny(family)
    codes = backbone.codes(None, pictures(backbone, 3).images)  # type: ignore[attr-defined]
    with backbone.bound() as view:
        together = backbone.logits(view, TEXTS, codes)  # type: ignore[attr-defined]
        for row, text in enumerate(TEXTS):
            alone = backbone.logits(view, [text], codes[row : row + 1])  # type: ignore[attr-defined]
            assert torch.allclose(together[row], alone[0], atol=1e-4)
    assert not torch.allclose(together[0], together[1], atol=1e-2)


@pytest.mark.parametrize(
    ("family", "spaces"),
    [
        *((family, (Word(),)) for family in ALL),
        ("emu3", (DualPrompt(generation=2, understanding=2),)),
        ("var", (ContentPart(vectors=1), StylePart(vectors=1))),
    ],
)
def test_a_concept_name_that_is_in_the_vocabulary(family: str, spaces: tuple[Space, ...]) -> None:
    """ "smiling" is a word of the model: as a name it would take that word away from every prompt."""
    backbone = tiny(family)
    concept = made(family, *spaces).renamed("smiling")
    with backbone.bound(concept) as view, pytest.raises(UserError, match="another name"):
        view.attempt(pictures(backbone, 1), rng=Random(0), prompts=["a smiling person"])
    with backbone.bound(concept.renamed("<ok>")) as view:
        view.attempt(pictures(backbone, 1), rng=Random(0), prompts=["a smiling <ok>"])


@pytest.mark.parametrize("family", ["emu3", "janus", "var"])
def test_a_concept_of_another_model_is_refused_by_name(family: str) -> None:
    concept = made("emu3" if family != "emu3" else "janus", Word())
    with pytest.raises(UserError, match="was inverted on tiny/"), tiny(family).bound(concept):
        pass
