"""Textual spaces: at their start they say the class word, and each moves only what its paper says it moves."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import unified
from inversion.methods.optimize import Optimize
from inversion.spaces.celebrities import NAMES
from inversion.spaces.name_basis import NameBasis, name_basis, principal, two_token_names
from inversion.spaces.neti import NeuralMapper, encoding, mapped
from inversion.spaces.spectrum import LayerWords, StageWords
from inversion.spaces.text_output import LastOutputs, OutputResidual
from inversion.spaces.text_prefix import TextPrefix
from inversion.spaces.textual import Word
from tests.tiny import diffusion as tiny_diffusion
from tests.tiny.families import pictures, tiny
from unified.contract.attention import Editor
from unified.contract.code import Code
from unified.contract.concept import Concept
from unified.contract.random import Random
from unified.contract.reading import Moment
from unified.contract.recipe import Recipe, Stage, refusal
from unified.contract.space import Space
from unified.contract.target import Target
from unified.errors import UserError
from unified.inversion import InvertSettings, invert

SD = "stable-diffusion"
MAPPER = NeuralMapper(frequencies=16, hidden=8)
ALL = [
    (SD, LayerWords()),
    (SD, StageWords(stages=3)),
    (SD, MAPPER),
    (SD, LastOutputs()),
    (SD, OutputResidual()),
    (SD, TextPrefix(layers=2)),
    ("flux", StageWords(stages=3)),
    ("flux", LastOutputs()),
    ("flux", OutputResidual()),
]
EACH = pytest.mark.parametrize(("family", "space"), ALL, ids=lambda v: v if isinstance(v, str) else v.name)
#: Spaces that begin as the class word exactly.
QUIET = [case for case in ALL if case[1].name in ("layer-words", "stage-words", "cones2")]


def start(family: str, space: Space) -> Code:
    backbone = tiny(family)
    with backbone.bound() as view:
        return space.initial(view, pictures(backbone), rng=Random(0))


def stirred(code: Code, size: float = 1.0) -> Code:
    generator = torch.Generator().manual_seed(1)
    return code.map(lambda t: t + size * torch.randn(t.shape, generator=generator, dtype=t.dtype))


def draw(family: str, code: Code | None, prompt: str = "a <me> b", **changes) -> torch.Tensor:
    concepts = [] if code is None else [Concept([code], name="<me>", category="a")]
    target = Target(prompt=prompt, n=2, sampling={"steps": 3}, **changes)
    with tiny(family).bound(*concepts) as view:
        return view.sample(target, rng=Random(0))


def word(family: str) -> Code:
    """The plain word at its start: the class word's mean row."""
    return start(family, Word())


@pytest.mark.parametrize(("family", "space"), QUIET, ids=lambda v: v if isinstance(v, str) else v.name)
def test_the_start_reads_as_the_class_word(family: str, space: Space) -> None:
    assert torch.allclose(draw(family, start(family, space)), draw(family, word(family)), atol=1e-5)


@EACH
def test_prompts_without_the_name_are_untouched(family: str, space: Space) -> None:
    loud = stirred(start(family, space))
    assert torch.allclose(draw(family, loud, "a red b"), draw(family, None, "a red b"), atol=1e-5)
    assert not torch.allclose(draw(family, loud), draw(family, word(family)), atol=1e-4)


@EACH
def test_it_learns_and_is_loaded_as_saved(family: str, space: Space, tmp_path) -> None:
    backbone = tiny(family)
    plan = Recipe("t", (Stage((space,), Optimize(steps=6, lr=1e-2, templates=("a {} b",))),), "", "")
    concept = invert(backbone, pictures(backbone, 2), plan, InvertSettings())
    code = concept.codes[0]
    first = invert(backbone, pictures(backbone, 2), plan.with_overrides(steps=0), InvertSettings()).codes[0]
    moved = {k for k, v in first.tensors.items() if not torch.equal(v, code.tensors[k])}
    held = {k for k in first.tensors if k.startswith("row/") or k.endswith((".frequencies", ".norm"))}
    assert moved and not moved & held
    assert len(moved) > 0.5 * len(first.tensors.keys() - held)
    loaded = Concept.load(concept.save(tmp_path / "c"))
    assert torch.equal(draw(family, loaded.codes[0]), draw(family, code))


@EACH
def test_two_concepts_do_not_disturb_each_other(family: str, space: Space) -> None:
    one = Concept([stirred(start(family, space))], name="<one>")
    two = Concept([word(family)], name="<two>")
    backbone = tiny(family)
    target = Target(prompt="a <one>", n=1, sampling={"steps": 2})
    with backbone.bound(one) as view:
        alone = view.sample(target, rng=Random(0))
    with backbone.bound(two, one) as view:
        assert torch.allclose(view.sample(target, rng=Random(0)), alone, atol=1e-5)


# --- P+ -----------------------------------------------------------------------------------------------------


class Recorder(Editor):
    def __init__(self) -> None:
        self.keys: dict[int, torch.Tensor] = {}

    def wants(self, place) -> bool:
        return place.kind == "cross"

    def inputs(self, place, keys, values):
        self.keys[place.number] = keys
        return keys, values


def test_each_layer_reads_its_own_word_and_no_other() -> None:
    """A changed word of layer 1 changes layer 1's text, which is what that word alone would give everywhere."""
    backbone = tiny(SD)
    code = start(SD, LayerWords())
    code.tensors["text_encoder"][1] += torch.randn(8, generator=torch.Generator().manual_seed(0))
    alone = Code("word", {"text_encoder": code.tensors["text_encoder"][1]}, False, {"settings": {}})
    seen = []
    for used in (code, word(SD), alone):
        recorder = Recorder()
        with backbone.bound(Concept([used])) as view, torch.no_grad():
            view.edit_attention(recorder)
            x = torch.zeros(1, *backbone.latent_shape())
            backbone.predict(view, x, torch.tensor([500.0]), backbone.condition(view, ["a <me> b"]))
        seen.append(recorder.keys)
    for number in seen[0]:
        expected = seen[2] if number == 1 else seen[1]
        assert torch.allclose(seen[0][number], expected[number], atol=1e-6)
    assert not torch.allclose(seen[0][1], seen[1][1], atol=1e-3)


def test_layered_and_mapped_words_need_layers_that_read() -> None:
    flux = type(tiny("flux"))
    for space in (LayerWords(), MAPPER, TextPrefix()):
        assert "each of several layers" in str(refusal(flux, [Stage((space,), Optimize())]))
    gan = type(tiny("stylegan"))
    for space in (StageWords(), LastOutputs(), OutputResidual()):
        assert refusal(gan, [Stage((space,), Optimize())]) is not None


# --- ProSpect -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [SD, "flux"])
def test_each_stage_has_its_own_word(family: str) -> None:
    """What the network is told at a time is that stage's word: the same as that word alone."""
    backbone = tiny(family)
    code = stirred(start(family, StageWords(stages=4)))
    time = torch.tensor([1.0, 0.8, 0.6, 0.4, 0.1, 0.0])
    stages = [0, 0, 1, 2, 3, 3]
    network_time = time * (1000 if family == SD else 1)
    x = torch.randn(1, *backbone.latent_shape(), generator=torch.Generator().manual_seed(0)).repeat(6, 1, 1, 1)
    with backbone.bound(Concept([code])) as view, torch.no_grad():
        together = backbone.predict(view, x, network_time, backbone.condition(view, ["a <me>"] * 6))
    for row, stage in enumerate(stages):
        alone = Code("word", {k: v[stage] for k, v in code.tensors.items()}, False, {"settings": {}})
        with backbone.bound(Concept([alone])) as view, torch.no_grad():
            condition = backbone.condition(view, ["a <me>"])
            expected = backbone.predict(view, x[:1], network_time[row : row + 1], condition)
        assert torch.allclose(together[row], expected[0], atol=1e-5)


# --- NeTI ---------------------------------------------------------------------------------------------------


def test_mapped_words_have_the_class_words_norm_at_every_time_and_layer() -> None:
    backbone = tiny(SD)
    code = stirred(start(SD, MAPPER), 0.2)
    code.tensors["text_encoder.norm"] = torch.tensor([0.7])
    with backbone.bound(Concept([code])) as view:
        view.reading.moment = Moment(torch.tensor([0, 0, 1, 2]), torch.tensor([0.0, 0.5, 0.5, 1.0]))
        embedding = view.component("text_encoder").get_submodule(backbone.texts()[0].embedding)
        ids = torch.tensor([view.rows["<me>"]] * 4)
        rows = embedding(ids)[:, 0]
    assert torch.allclose(rows.norm(dim=-1), torch.full((4,), 0.7), atol=1e-5)
    distances = torch.cdist(rows, rows) + torch.eye(4)
    assert bool((distances > 1e-4).all())  # another word at another time or layer


def test_positional_encoding_is_a_kernel_of_differences() -> None:
    """<e(p), e(q)> depends on p - q only, and is 1 for p = q (random Fourier features)."""
    frequencies = torch.randn(64, 2, dtype=torch.float64) * torch.tensor([0.03, 2.0])
    p, q = torch.tensor([[100.0, 3.0]]).double(), torch.tensor([[140.0, 5.0]]).double()
    shift = torch.tensor([[17.0, 4.0]]).double()
    one, other = (
        (encoding(a, frequencies) * encoding(b, frequencies)).sum() for a, b in ((p, q), (p + shift, q + shift))
    )
    assert torch.allclose(one, other)
    assert torch.allclose(encoding(p, frequencies).norm(), torch.ones(()).double())


def test_nested_dropout_keeps_a_prefix_half_of_the_time() -> None:
    code = start(SD, MAPPER)
    kept = []
    with tiny(SD).bound() as view:
        for i in range(200):
            kept.append(MAPPER.explore(view, code, progress=0, rng=Random(i), keys=[0]).get("kept"))
    masks = [k for k in kept if k is not None]
    assert 70 < len(masks) < 130
    assert all(torch.equal(k, k.sort(descending=True).values) for k in masks)
    assert len({int(k.sum()) for k in masks}) > 4


def test_the_bypass_reaches_values_only_with_its_strength() -> None:
    backbone = tiny(SD)
    code = stirred(start(SD, MAPPER), 0.2)
    with backbone.bound(Concept([code])) as view, torch.no_grad():
        view.reading.moment = Moment(torch.tensor([1]), torch.tensor([0.5]))
        ids = torch.tensor([[3, view.rows["<me>"][0], 4]])
        said = torch.randn(1, 3, 8)
        keys, values = view.reading.spoken("text_encoder", said, ids)
        _, offset = mapped(code.tensors, "text_encoder", view.reading.moment, 8)
    assert torch.equal(keys, said)
    assert torch.equal(values[:, [0, 2]], said[:, [0, 2]])
    moved = values[0, 1] - said[0, 1]
    assert torch.allclose(moved.norm(), 0.2 * said[0, 1].norm(), atol=1e-5)
    assert torch.allclose(torch.nn.functional.cosine_similarity(moved, offset[0], dim=0), torch.ones(()), atol=1e-5)


# --- outputs and prefixes -----------------------------------------------------------------------------------


def test_hiper_replaces_the_last_outputs_of_lines_with_the_name_only() -> None:
    backbone = tiny(SD)
    code = stirred(start(SD, LastOutputs()))
    with backbone.bound(Concept([code])) as view, torch.no_grad():
        found = backbone.condition(view, ["a <me> b", "a b"])["text"]
    plain = Code("word", {"text_encoder": code.tensors["row/text_encoder"]}, False, {"settings": {}})
    with backbone.bound(Concept([plain])) as view, torch.no_grad():
        expected = backbone.condition(view, ["a <me> b", "a b"])["text"]
    assert torch.allclose(found[0, -5:], code.tensors["text_encoder"])
    assert torch.allclose(found[0, :-5], expected[0, :-5]) and torch.allclose(found[1], expected[1])


def test_cones_residual_is_added_where_the_name_is_and_scales() -> None:
    backbone = tiny(SD)
    code = start(SD, OutputResidual())
    code.tensors["text_encoder"] += torch.arange(8.0)
    texts = {}
    for weight in (0.0, 1.0, 0.5):
        with backbone.bound(Concept([code]).scaled(weight)) as view, torch.no_grad():
            texts[weight] = backbone.condition(view, ["x <me> b"])["text"][0]
            place = backbone.token_places(view, ["x <me> b"], "<me>")[0]
    assert int(place.sum()) == 1
    assert torch.allclose((texts[1.0] - texts[0.0])[place][0], torch.arange(8.0), atol=1e-5)
    assert torch.equal(texts[1.0][~place], texts[0.0][~place])
    assert torch.allclose((texts[0.5] - texts[0.0])[place], (texts[1.0] - texts[0.0])[place] / 2, atol=1e-5)


def test_a_prefix_that_no_token_attends_to_changes_nothing_and_a_loud_one_shows() -> None:
    """A key far away along minus every query is not seen: the prompt reads as the class word."""
    code = start(SD, TextPrefix(layers=2))
    assert sum(k.endswith(".key") for k in code.tensors) == 2
    # With zero values and keys as they are, outputs shrink; with keys that repeat an existing token's key and
    # value for the begin token, its own attention is over two equal entries: unchanged.
    backbone = tiny(SD)
    with backbone.bound(Concept([code])) as view, torch.no_grad():
        loud = backbone.condition(view, ["a <me> b"])["text"]
        plain = backbone.condition(view, ["a b"])["text"]
    with backbone.bound() as view, torch.no_grad():
        assert torch.equal(backbone.condition(view, ["a b"])["text"], plain)
    with backbone.bound(Concept([word(SD)])) as view, torch.no_grad():
        assert not torch.allclose(backbone.condition(view, ["a <me> b"])["text"], loud, atol=1e-4)
    first = next(k.removesuffix(".key") for k in code.tensors if k.endswith(".key"))
    path = first.partition("/")[2]
    with backbone.bound(Concept([code])) as view, torch.no_grad():
        appended = view.component("text_encoder").get_submodule(path)
        appended.lines.mask = torch.tensor([True])
        hidden = torch.randn(1, 1, 8)
        code.tensors[f"{first}.key"] = appended.base.k_proj(hidden)[0]
        code.tensors[f"{first}.value"] = appended.base.v_proj(hidden)[0]
        assert torch.allclose(appended(hidden)[0], appended.base(hidden, is_causal=True)[0], atol=1e-6)


def test_two_prefixes_are_refused() -> None:
    code = start(SD, TextPrefix())
    with pytest.raises(UserError, match="both append"):
        with tiny(SD).bound(Concept([code], name="<one>"), Concept([code], name="<two>")):
            pass


# --- names --------------------------------------------------------------------------------------------------


class Names:
    """A tokenizer that knows every word of the names, as ids from 100 on; others go to the real one."""

    def __init__(self, base) -> None:
        self.base = base
        words = sorted({w for name in NAMES for w in name.split()})
        self.known = {w: 100 + i for i, w in enumerate(words)}

    def __call__(self, text, *, add_special_tokens=False):
        if all(w in self.known for w in text.split()) and text.split():
            return {"input_ids": [self.known[w] % 400 for w in text.split()]}
        return self.base(text, add_special_tokens=add_special_tokens)

    def __getattr__(self, key):
        return getattr(self.base, key)


def test_a_basis_of_names_needs_names() -> None:
    backbone = tiny(SD)
    with pytest.raises(UserError, match="use the space 'word'"):
        backbone.invert(pictures(backbone).images, space="celeb-basis", category="a")


def test_celeb_basis_starts_at_the_mean_name_and_moves_along_the_directions() -> None:
    backbone = tiny_diffusion.stable_diffusion()
    backbone.tokenizer = Names(backbone.tokenizer)
    reference = replace(pictures(backbone, 2), category="")
    with backbone.bound() as view:
        code = NameBasis().initial(view, reference, rng=Random(0))
    assert code.tensors["text_encoder"].shape == (2, 8)  # the tiny encoder's width bounds the directions
    text = backbone.texts()[0]
    embedding = backbone.components["text_encoder"].get_submodule(text.embedding)
    ids = torch.tensor([text.tokenizer(n, add_special_tokens=False)["input_ids"] for n in NAMES])
    with backbone.bound(Concept([code])) as view:
        rows = view.component("text_encoder").get_submodule(text.embedding)(torch.tensor([view.rows["<me>"]]))[0]
    assert torch.allclose(rows, embedding(ids).mean(0), atol=1e-6)
    plan = Recipe("t", (Stage((NameBasis(),), Optimize(steps=2, lr=1e-1)),), "", "")
    found = invert(backbone, reference, plan, InvertSettings())
    assert bool(found.codes[0].tensors["text_encoder"].any())


def test_an_embedded_model_says_what_it_knows_people_by() -> None:
    """ "red afro": 8 colours and 14 kinds of hair span 7 and 13 directions about their means."""
    backbone = unified.load("avatars/stable-diffusion")
    text = backbone.texts()[0]  # type: ignore[attr-defined]
    assert two_token_names(text, NAMES) == []
    assert len(two_token_names(text, backbone.people)) == len(backbone.people)
    _, directions = name_basis(backbone, text, 512)
    assert [int((part.norm(dim=1) > 1e-6).sum()) for part in directions] == [7, 13]


def test_principal_directions_of_planted_data() -> None:
    generator = torch.Generator().manual_seed(0)
    planted = torch.linalg.qr(torch.randn(6, 2, generator=generator))[0].T
    rows = torch.randn(4000, 2, generator=generator) * torch.tensor([3.0, 0.5]) @ planted + 1.0
    mean, directions = principal(rows, 2)
    assert torch.allclose(mean, torch.ones(6), atol=0.15)
    assert torch.allclose(directions.norm(dim=1), torch.tensor([3.0, 0.5]), rtol=0.1)
    assert abs(float(directions[0] @ planted[0])) / 3 > 0.98
