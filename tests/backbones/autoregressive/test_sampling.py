"""Sampling against transformers' own generation, and the laws it must keep."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers.generation import UnbatchedClassifierFreeGuidanceLogitsProcessor

from backbones.autoregressive.checkpoint import Emu3Parts
from backbones.autoregressive.prompt import PromptBatch, left_pad, left_pad_embeddings
from backbones.autoregressive.sampling import (
    SamplingSettings,
    _Stepper,
    draw,
    generators,
    guide,
    picture_logits,
    sample_codes,
    truncate,
)
from tests.tiny.autoregressive import TINY_LAYOUT, TINY_RELEASED_LAYOUT, tiny_emu3
from unified.errors import UserError

TEXTS = ["a person with short brown hair, smiling", "a person", "a photo of a zebra"]


@pytest.fixture(scope="module")
def parts() -> Emu3Parts:
    return tiny_emu3()


@pytest.fixture(scope="module")
def released() -> Emu3Parts:
    return tiny_emu3(layout=TINY_RELEASED_LAYOUT)


def prompts_of(parts: Emu3Parts, texts: list[str]) -> PromptBatch:
    return left_pad([parts.prompts.prompt_ids(text) for text in texts], parts.prompts.pad)


def sample(parts: Emu3Parts, texts: list[str], seeds: list[int], settings: SamplingSettings, **more) -> Tensor:  # type: ignore[no-untyped-def]
    return sample_codes(
        parts.model,
        prompts_of(parts, texts),
        slots=parts.prompts.slots(4, 4),
        vocabulary=parts.vocabulary,
        generators=generators(seeds),
        settings=settings,
        unconditional=prompts_of(parts, [""] * len(texts)),
        pad=parts.prompts.pad,
        **more,
    )


@pytest.mark.parametrize("layout", [TINY_LAYOUT, TINY_RELEASED_LAYOUT])
@pytest.mark.parametrize("text", TEXTS)
def test_greedy_equals_transformers_generate(layout, text: str) -> None:  # type: ignore[no-untyped-def]
    parts = tiny_emu3(layout=layout)
    ids = torch.tensor([parts.prompts.prompt_ids(text)])
    slots = parts.prompts.slots(4, 4)

    def allowed(_row: int, sequence: Tensor) -> list[int]:
        slot = int(slots[len(sequence) - ids.shape[1]])
        return parts.vocabulary.ids.tolist() if slot == -1 else [slot]

    generated = parts.model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=len(slots),
        do_sample=False,
        prefix_allowed_tokens_fn=allowed,
    )[0, ids.shape[1] :]
    expected = parts.vocabulary.to_codes(generated[slots == -1])
    found = sample(parts, [text], [0], SamplingSettings(temperature=0, guidance=1))[0]
    assert torch.equal(found, expected)
    assert found.unique().numel() > 1


def test_guided_logits_equal_those_of_transformers(parts: Emu3Parts) -> None:
    ids = torch.tensor([parts.prompts.prompt_ids(TEXTS[0])])
    empty = torch.tensor([parts.prompts.prompt_ids("")])
    conditional = parts.model(input_ids=ids).logits[:, -1]
    processor = UnbatchedClassifierFreeGuidanceLogitsProcessor(3.0, parts.model, unconditional_ids=empty)
    expected = processor(ids, conditional)[:, parts.vocabulary.ids].log_softmax(-1)
    unconditional = parts.model(input_ids=empty).logits[:, -1]
    found = guide(conditional, unconditional, 3.0)[:, parts.vocabulary.ids].log_softmax(-1)
    assert torch.allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("cache", ["dynamic", "static", "none"])
def test_batched_guidance_equals_two_passes(parts: Emu3Parts, cache: str) -> None:
    settings = SamplingSettings(temperature=0, guidance=2.5, cache=cache)  # type: ignore[arg-type]
    found = sample(parts, TEXTS, [0, 1, 2], settings)
    slots = parts.prompts.slots(4, 4)
    for row, text in enumerate(TEXTS):
        logits = [
            picture_logits(
                parts.model,
                prompts_of(parts, [t]),
                found[row : row + 1],
                slots=slots,
                vocabulary=parts.vocabulary,
            )
            for t in (text, "")
        ]
        assert torch.equal(guide(*logits, 2.5).argmax(-1)[0], found[row])


def test_a_picture_depends_on_its_seed_and_not_on_its_batch(parts: Emu3Parts) -> None:
    settings = SamplingSettings(guidance=2.0, top_k=8)
    together = sample(parts, TEXTS, [3, 4, 5], settings)
    alone = [sample(parts, [text], [seed], settings)[0] for text, seed in zip(TEXTS, [3, 4, 5], strict=True)]
    assert torch.equal(together, torch.stack(alone))
    assert not torch.equal(sample(parts, TEXTS, [6, 7, 8], settings), together)


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_cached_logits_equal_uncached_ones(released: Emu3Parts, cache: str) -> None:
    batch = prompts_of(released, TEXTS)
    table = released.model.get_input_embeddings()
    more = torch.randint(0, 16, (5, len(TEXTS), 1))
    logits = []
    for kind in (cache, "none"):
        stepper = _Stepper(released.model, batch, 20, kind)
        pieces = [table(batch.ids), *(table(released.vocabulary.to_ids(codes)) for codes in more)]
        with torch.no_grad():
            logits.append(torch.stack([stepper.next_logits(piece) for piece in pieces]))
    assert (logits[0] - logits[1]).abs().max() < 1e-5 * logits[1].abs().max()


def test_left_padding_changes_nothing(parts: Emu3Parts) -> None:
    codes = torch.randint(0, 16, (3, 16))
    slots = parts.prompts.slots(4, 4)
    together = picture_logits(parts.model, prompts_of(parts, TEXTS), codes, slots=slots, vocabulary=parts.vocabulary)
    for row, text in enumerate(TEXTS):
        ids = parts.prompts.prompt_ids(text)
        whole = torch.tensor([ids + parts.vocabulary.to_ids(codes[row]).tolist()])
        plain = parts.model(input_ids=whole).logits[0, len(ids) - 1 : -1][:, parts.vocabulary.ids]
        assert torch.allclose(together[row], plain, atol=1e-4)


def test_embeddings_in_place_of_ids(parts: Emu3Parts) -> None:
    settings = SamplingSettings(guidance=1.0)
    table = parts.model.get_input_embeddings()
    rows = [table(torch.tensor(parts.prompts.prompt_ids(text))) for text in TEXTS]
    found = sample_codes(
        parts.model,
        left_pad_embeddings(rows, parts.prompts.pad),
        slots=parts.prompts.slots(4, 4),
        vocabulary=parts.vocabulary,
        generators=generators([0, 1, 2]),
        settings=settings,
    )
    assert torch.equal(found, sample(parts, TEXTS, [0, 1, 2], settings))


def test_gradient_reaches_soft_prompts(parts: Emu3Parts) -> None:
    table = parts.model.get_input_embeddings()
    soft = table(torch.tensor(parts.prompts.prompt_ids(TEXTS[1]))).clone().requires_grad_()
    logits = picture_logits(
        parts.model,
        left_pad_embeddings([soft], parts.prompts.pad),
        torch.randint(0, 16, (1, 16)),
        slots=parts.prompts.slots(4, 4),
        vocabulary=parts.vocabulary,
    )
    logits.log_softmax(-1)[..., 0].sum().backward()
    assert soft.grad is not None and bool((soft.grad.abs().sum(1) > 0).all())


def test_forced_tokens_are_kept_and_steer_the_rest(parts: Emu3Parts) -> None:
    settings = SamplingSettings(guidance=1.0)
    free = sample(parts, TEXTS, [0, 1, 2], settings)
    forced = torch.full((3, 16), -1)
    forced[:, 4:8] = (free[:, 4:8] + 1) % 16
    found = sample(parts, TEXTS, [0, 1, 2], settings, forced=forced)
    assert torch.equal(found[:, :4], free[:, :4])
    assert torch.equal(found[:, 4:8], forced[:, 4:8])
    # Forcing what would have been drawn changes nothing: the random numbers are not shifted.
    kept = torch.full((3, 16), -1)
    kept[:, ::3] = free[:, ::3]
    assert torch.equal(sample(parts, TEXTS, [0, 1, 2], settings, forced=kept), free)


def test_truncation_keeps_the_right_tokens() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    assert truncate(logits, top_k=2).isfinite().tolist() == [[True, True, False, False]]
    assert truncate(logits, top_p=0.79).isfinite().tolist() == [[True, True, False, False]]
    assert truncate(logits, top_p=0.81).isfinite().tolist() == [[True, True, True, False]]
    assert truncate(logits, top_p=0.01).isfinite().tolist() == [[True, False, False, False]]
    assert truncate(logits.flip(-1), top_p=0.79).isfinite().tolist() == [[False, False, True, True]]


def test_draws_follow_the_distribution() -> None:
    weights = torch.tensor([0.5, 0.3, 0.2])
    uniform = torch.rand(40_000, generator=torch.Generator().manual_seed(0))
    drawn = draw(weights.log().expand(40_000, 3), uniform, SamplingSettings())
    assert torch.allclose(torch.bincount(drawn) / 40_000, weights, atol=0.01)
    hot = draw(weights.log().expand(40_000, 3), uniform, SamplingSettings(temperature=0.5))
    assert torch.allclose(torch.bincount(hot) / 40_000, weights**2 / (weights**2).sum(), atol=0.01)
    # The ends of what torch.rand can give never draw an excluded token.
    ends = torch.tensor([0.0, 1 - 2**-24])
    excluded = torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]]).expand(2, 4)
    edges = draw(excluded, ends, SamplingSettings())
    assert edges.tolist() == [1, 2]


def test_bad_input_is_refused(parts: Emu3Parts) -> None:
    with pytest.raises(UserError, match="one each"):
        sample(parts, TEXTS, [0], SamplingSettings())
    with pytest.raises(UserError, match="shape"):
        sample(parts, TEXTS, [0, 1, 2], SamplingSettings(), forced=torch.zeros(3, 4))
    with pytest.raises(UserError, match="top_p"):
        SamplingSettings(top_p=0.0)
    with pytest.raises(UserError, match="unconditional"):
        sample_codes(
            parts.model,
            prompts_of(parts, TEXTS),
            slots=parts.prompts.slots(4, 4),
            vocabulary=parts.vocabulary,
            generators=generators([0, 1, 2]),
        )
