"""Schemes by attention editors: what is carried over is exactly the source's, and the rest is untouched."""

from __future__ import annotations

import pytest
import torch

from editing.attention.align import alignment, swapped
from editing.attention.masactrl import MutualSelfAttention
from editing.attention.pairs import Pairs
from editing.attention.prompt_to_prompt import CarriedAttention, LocalBlend
from editing.attention.style_aligned import SharedAttention, adain
from tests.tiny.families import pictures, tiny
from unified.contract.attention import Editor
from unified.contract.random import Random
from unified.contract.scheme import choose_scheme
from unified.contract.target import Target
from unified.denoising.sampler import sample_pair, sample_rows
from unified.errors import UserError

SD = "stable-diffusion"
NAMES = ["prompt-to-prompt", "prompt-to-prompt-local", "masactrl", "style-aligned"]


def target(source: str, prompt: str, **changes) -> Target:
    return Target(prompt=prompt, source=source, n=2, sampling={"steps": 4, **changes.pop("sampling", {})}, **changes)


class Watch(Editor):
    """Keeps the probabilities, keys and values that are used in the end."""

    def __init__(self) -> None:
        self.calls = []

    def probabilities(self, call, probabilities):
        self.calls.append((call, probabilities))
        return probabilities


def pair(editors, wanted: Target):
    watch = Watch()
    with tiny(SD).bound() as view, torch.no_grad():
        view.edit_attention(*editors, watch)
        return sample_pair(view, wanted, rng=Random(0)), watch.calls


def ids(prompt: str) -> list[int]:
    with tiny(SD).bound() as view:
        return tiny(SD).say(view, "text_encoder", [prompt])[1][0].tolist()


def carried(source: str, prompt: str, weights=None, **shares) -> CarriedAttention:
    mapper, aligned = alignment(ids(source), ids(prompt))
    ones = torch.ones(len(ids(prompt)))
    return CarriedAttention(Pairs(2), mapper, aligned, ones if weights is None else weights, **shares)


# --- alignment ----------------------------------------------------------------------------------------------


def test_alignment_of_equal_swapped_added_and_split_words() -> None:
    assert torch.equal(alignment([1, 2, 3], [1, 2, 3])[0], torch.eye(3))
    mapper, aligned = alignment([1, 2, 3], [1, 9, 3])  # a swapped word takes the place of the old one
    assert torch.equal(mapper, torch.eye(3)) and bool(aligned.all())
    mapper, aligned = alignment([1, 3], [1, 9, 3])  # an added one keeps its own attention
    assert aligned.tolist() == [1, 0, 1] and mapper[:, 2].tolist() == [0, 1]
    mapper, aligned = alignment([1, 2, 3], [1, 8, 9, 3])  # a word of two tokens shares the old one's
    assert mapper[1].tolist() == [0, 0.5, 0.5, 0] and bool(aligned.all())
    assert mapper.sum(1).tolist() == [1, 1, 1]
    assert swapped([1, 2, 3], [1, 8, 9, 3]) == ([1], [1, 2])


# --- Prompt-to-Prompt ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_the_same_prompt_gives_the_source_and_the_source_is_never_touched(guidance: float) -> None:
    sampling = {"guidance": guidance}
    same, _ = pair([carried("a red hat", "a red hat")], target("a red hat", "a red hat", sampling=sampling))
    assert torch.allclose(same[0], same[1], atol=1e-5)
    wanted = target("a red hat", "a big hat", sampling=sampling)
    (source, found), _ = pair([carried("a red hat", "a big hat", cross=1.0, own=1.0)], wanted)
    (plain_source, plain), _ = pair([], wanted)
    assert torch.allclose(source, plain_source, atol=1e-5) and not torch.allclose(found, plain, atol=1e-3)


def test_swapped_words_use_the_sources_maps_and_only_under_the_prompt() -> None:
    wanted = target("a red hat", "a big hat", sampling={"guidance": 3.0})
    editor = carried("a red hat", "a big hat", cross=1.0, own=1.0)
    _, calls = pair([editor], wanted)
    for call, used in calls:
        source, found = used[4:6], used[6:8]
        expected = source @ editor.mapper if call.place.kind == "cross" else source
        assert torch.allclose(found, expected, atol=1e-6)
        assert torch.allclose(found.sum(-1), torch.ones(()), atol=1e-4)
    # Under the negative prompt the rows of source and target have the same text but other latents: not carried.
    last = [used for call, used in calls if call.place.kind == "self"][-1]
    assert not torch.allclose(last[0:2], last[2:4], atol=1e-7)


def test_shares_of_the_sampling_are_kept() -> None:
    wanted = target("a red hat", "a big hat", sampling={"guidance": 1.0, "steps": 10})
    _, calls = pair([carried("a red hat", "a big hat", cross=0.4, own=0.0)], wanted)
    cross = [(1 - float(call.time[0]), used) for call, used in calls if call.place.kind == "cross"]
    mapper, _ = alignment(ids("a red hat"), ids("a big hat"))
    inside = [torch.allclose(used[2:4], used[0:2] @ mapper, atol=1e-7) for done, used in cross if done <= 0.4]
    outside = [torch.allclose(used[2:4], used[0:2] @ mapper, atol=1e-7) for done, used in cross if done > 0.4]
    assert all(inside) and inside and not any(outside) and outside


def test_reweighted_words_are_looked_at_by_their_factor() -> None:
    backbone = tiny(SD)
    with backbone.bound() as view:
        said = backbone.token_places(view, ["a red hat"], "red")[0]
    weights = torch.ones(77)
    weights[said] = 3.0
    assert int(said.sum()) == 3
    wanted = target("a red hat", "a red hat", sampling={"guidance": 1.0})
    _, calls = pair([carried("a red hat", "a red hat", weights, cross=1.0)], wanted)
    used = next(u for call, u in calls if call.place.kind == "cross")
    assert torch.allclose(used[2:4][..., said], 3 * used[0:2][..., said], atol=1e-6)
    assert torch.allclose(used[2:4][..., ~said], used[0:2][..., ~said], atol=1e-6)


def test_local_blend_keeps_the_source_outside_of_its_mask() -> None:
    """With maps planted on the left half, the right half of the target stays the source's, bit for bit."""
    backbone = tiny(SD)
    words = torch.zeros(77, dtype=torch.bool)
    words[3] = True

    class Planted(Editor):
        def wants(self, place) -> bool:
            return place.kind == "cross"

        def probabilities(self, call, probabilities):
            height, width = call.size
            left = (torch.arange(width) < width // 2).to(probabilities.dtype).repeat(height)
            column = torch.nn.functional.one_hot(torch.tensor(3), 77).to(probabilities.dtype)
            return probabilities * (1 - column) * 0.01 + left[:, None] * column

    with backbone.bound() as view, torch.no_grad():
        blend = LocalBlend(view.attending, Pairs(2), (words, words), start=0.0)
        view.edit_attention(Planted(), blend)
        wanted = target("a red hat", "a big sea", sampling={"guidance": 2.0})
        source, found = sample_pair(view, wanted, rng=Random(0), steer=blend)
        mask = blend.mask(source.shape[-2:])
    assert 0.4 < float(mask.mean()) < 0.75
    outside = (mask == 0).expand_as(source)
    assert torch.equal(source[outside], found[outside])
    assert not torch.allclose(source[~outside], found[~outside], atol=1e-3)


# --- MasaCtrl -----------------------------------------------------------------------------------------------


def test_the_target_looks_up_the_sources_keys_and_values() -> None:
    wanted = target("a red hat", "a big sea", sampling={"guidance": 3.0, "steps": 10})
    editor = MutualSelfAttention(Pairs(2), layer=1, start=0.3)
    (source, _), calls = pair([editor], wanted)
    (plain_source, _), _ = pair([], wanted)
    assert torch.allclose(source, plain_source, atol=1e-5)
    for call, _ in calls:
        if call.place.kind != "self":
            continue
        looked_up = all(
            torch.equal(part[a : a + 2], part[a + 2 : a + 4]) for part in (call.key, call.value) for a in (0, 4)
        )
        expected = call.place.number >= 1 and 1 - float(call.time[0]) >= 0.3
        if call.place.number >= 1 or 1 - float(call.time[0]) > 0.15:  # at the first step source and target agree
            assert looked_up is expected


# --- StyleAligned -------------------------------------------------------------------------------------------


def test_adain_has_the_others_statistics() -> None:
    value, like = torch.randn(2, 3, 50, 4), torch.randn(2, 3, 50, 4) * 3 + 1
    found = adain(value, like)
    assert torch.allclose(found.mean(2), like.mean(2), atol=1e-5) and torch.allclose(
        found.std(2), like.std(2), atol=1e-4
    )
    assert torch.allclose(adain(value, value), value, atol=1e-5)


def test_pictures_share_the_firsts_attention_and_the_first_is_itself() -> None:
    """The reference attends to itself twice, which changes nothing; the others attend to it and change."""
    backbone = tiny(SD)
    wanted = Target(prompt="x", sampling={"steps": 3})
    prompts = ["a red hat", "a sea", "a sea"]
    drawn = []
    for editors in ((), (SharedAttention(3),)):
        with backbone.bound() as view, torch.no_grad():
            if editors:
                view.edit_attention(*editors)
            drawn.append(sample_rows(view, wanted, prompts, rng=Random(0)))
    assert torch.allclose(drawn[0][0], drawn[1][0], atol=1e-4)
    assert not torch.allclose(drawn[0][1:], drawn[1][1:], atol=1e-3)
    with backbone.bound() as view, torch.no_grad():
        view.edit_attention(SharedAttention(2))
        alone = sample_rows(view, wanted, prompts[:2], rng=Random(0))
    assert torch.allclose(alone[1], drawn[1][1], atol=1e-4)  # whoever else is in the batch


# --- as schemes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_schemes_run_from_texts_and_from_an_inverted_picture(name: str) -> None:
    backbone = tiny(SD)
    options = {"prompt": "a big hat", "output": "pt", "scheme": name}
    made = backbone.generate(source="a red hat", n=2, sampling={"steps": 3}, **options)
    assert made.shape == (2, 3, 64, 64) and bool(((made >= 0) & (made <= 1)).all())
    assert torch.equal(made, backbone.generate(source="a red hat", n=2, sampling={"steps": 3}, **options))
    if name != "style-aligned":
        inverted = backbone.invert(pictures(backbone, 1).images, recipe="ddim-inversion", steps=3, category="a")
        edited = backbone.generate(inverted, **options)
        assert edited.shape == (1, 3, 64, 64)
        with pytest.raises(UserError, match=r"source='\.\.\.'"):
            backbone.generate(**options)


def test_a_plain_prompt_still_goes_to_prompt_composition() -> None:
    backbone = tiny(SD)
    assert choose_scheme(backbone, [], Target(prompt="a")).name == "prompt"
    chosen = choose_scheme(backbone, [], Target(prompt="a", source="b"))
    assert "source" in chosen.reads
    for name in NAMES:
        with pytest.raises(UserError):
            tiny("stylegan").generate(prompt="a", source="b", scheme=name)


def test_words_to_weight_must_be_in_the_prompt() -> None:
    backbone = tiny(SD)
    with pytest.raises(UserError, match="does not say 'blue'"):
        backbone.generate(
            prompt="a red hat", source="a hat", edits={"blue": 2.0}, scheme="prompt-to-prompt", sampling={"steps": 2}
        )


def test_shares_and_threshold_are_settings_of_the_scheme() -> None:
    backbone = tiny(SD)
    options = {"prompt": "a big hat", "n": 2, "sampling": {"steps": 3}, "output": "pt"}

    def held(name: str = "prompt-to-prompt", **settings: float):
        return backbone.generate(source="a red hat", scheme=name, scheme_settings=settings, **options)

    plain = backbone.generate(**options)  # from the same noise
    assert torch.allclose(held(cross=0.0, own=0.0), plain, atol=1e-5)
    assert torch.equal(held(cross=0.4, own=0.6), held())
    assert not torch.allclose(held(cross=1.0, own=1.0), plain, atol=1e-3)
    whole = held("prompt-to-prompt-local", threshold=-1.0)  # every pixel counts as where the words are
    assert torch.allclose(whole, held(), atol=1e-5)
