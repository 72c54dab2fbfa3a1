"""Sampling against transformers' own generation, and the laws it must keep."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers.generation import UnbatchedClassifierFreeGuidanceLogitsProcessor

from backbones.autoregressive.checkpoint import Emu3Parts, load_emu3, save_emu3
from backbones.autoregressive.choosing import SamplingSettings, draw, guide, truncate
from backbones.autoregressive.decoder import Appended, Decoder
from backbones.autoregressive.emu3 import Emu3
from backbones.autoregressive.module_reader import ModuleReader
from backbones.autoregressive.network import emu3_network
from backbones.autoregressive.prompt import PromptBatch, left_pad, left_pad_embeddings
from backbones.autoregressive.readers import FusedReader, Reader, read_whole
from backbones.autoregressive.sampling import draw_codes, generators, picture_logits, sample_codes, teacher_forced
from backbones.autoregressive.token_sampling import TokenSampling
from tests.perf.autoregressive import our_codes, transformers_codes
from tests.tiny.autoregressive import TINY_LAYOUT, TINY_RELEASED_LAYOUT, tiny_emu3
from unified.contract.memory import Memory, join_memories
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


@pytest.mark.parametrize("texts", [TEXTS[:1], [*TEXTS, TEXTS[0]]])
def test_guided_greedy_equals_transformers_generate(parts: Emu3Parts, texts: list[str]) -> None:
    """Batches of one and four, the latter padded on the left."""
    expected = transformers_codes(parts, texts, guidance=2.5)
    assert torch.equal(our_codes(parts, texts, guidance=2.5), expected)
    assert expected.unique().numel() > 1


def test_guided_logits_equal_those_of_transformers(parts: Emu3Parts) -> None:
    ids = torch.tensor([parts.prompts.prompt_ids(TEXTS[0])])
    empty = torch.tensor([parts.prompts.prompt_ids("")])
    conditional = parts.model(input_ids=ids).logits[:, -1]
    processor = UnbatchedClassifierFreeGuidanceLogitsProcessor(3.0, parts.model, unconditional_ids=empty)
    expected = processor(ids, conditional)[:, parts.vocabulary.ids].log_softmax(-1)
    unconditional = parts.model(input_ids=empty).logits[:, -1]
    found = guide(conditional, unconditional, 3.0)[:, parts.vocabulary.ids].log_softmax(-1)
    assert torch.allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("cache", ["fused", "dynamic", "static", "none"])
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


@pytest.mark.parametrize("cache", ["fused", "dynamic", "static"])
def test_cached_logits_equal_uncached_ones(released: Emu3Parts, cache: str) -> None:
    batch, empty = prompts_of(released, TEXTS), prompts_of(released, [""] * 3)
    network = emu3_network(released.model, released.vocabulary)
    more = torch.randint(0, 16, (5, len(TEXTS), 1))
    logits = []
    for kind in (cache, "none"):
        reader: Reader
        if kind == "fused":
            reader = FusedReader(network, batch, empty, length=20)
        else:
            reader = ModuleReader(network, batch, empty, length=20, cache=kind, pad=0)
        with torch.no_grad():
            pieces = [network.embed_codes(codes) for codes in more]
            found = [reader.next_hidden(piece, guided=True) for piece in [pieces[0][:, :0], *pieces]]
            logits.append(torch.stack([network.head(torch.cat([a, b])) for a, b in found if b is not None]))
    assert (logits[0] - logits[1]).abs().max() < 1e-5 * logits[1].abs().max()


def test_decoder_equals_the_module_in_double_precision() -> None:
    """Everything that the decoder joins and leaves out, checked to 1e-5 (the module's norms compute in fp32)."""
    parts = tiny_emu3()
    parts.model.double()
    batch = prompts_of(parts, TEXTS)
    embeddings = parts.model.get_input_embeddings()(batch.ids)
    decoder = Decoder(parts.model.model.text_model)
    found = read_whole(decoder, embeddings, batch.mask, Appended())
    expected = parts.model.model.text_model(
        inputs_embeds=embeddings, attention_mask=batch.mask.long(), position_ids=batch.positions
    ).last_hidden_state
    assert torch.allclose(found[batch.mask], expected[batch.mask], atol=1e-5)


@pytest.mark.parametrize("interval", [(0.0, 0.5), (0.3, 0.8), (0.5, 0.5)])
def test_guidance_interval_equals_choosing_per_token(parts: Emu3Parts, interval: tuple[float, float]) -> None:
    """The rows that were not read catch up: each token is what full logits at that place would give."""
    settings = SamplingSettings(temperature=0, guidance=2.5, guidance_from=interval[0], guidance_until=interval[1])
    found = sample(parts, TEXTS, [0, 1, 2], settings)
    whole = [
        picture_logits(
            parts.model,
            prompts_of(parts, texts),
            found,
            slots=parts.prompts.slots(4, 4),
            vocabulary=parts.vocabulary,
        )
        for texts in (TEXTS, [""] * 3)
    ]
    share = torch.arange(16) / 16
    inside = (share >= interval[0]) & (share < interval[1])
    expected = torch.where(inside[:, None], guide(whole[0], whole[1], 2.5), whole[0]).argmax(-1)
    assert torch.equal(found, expected)


def test_what_prompts_have_in_common_is_read_once(parts: Emu3Parts) -> None:
    """Same tokens as without sharing, and the reference's tokens go through the model for one row only."""
    picture = torch.randint(0, 16, (4, 4))
    lines = [parts.prompts.prompt_ids(text, [picture]) for text in [*TEXTS, TEXTS[0]]]
    batch = left_pad(lines, parts.prompts.pad)
    empty = prompts_of(parts, [""] * 4)
    network = emu3_network(parts.model, parts.vocabulary)
    read: list[int] = []
    counting = replace(network, embed=lambda ids: read.append(ids.numel()) or network.embed(ids))  # type: ignore[func-returns-value]
    slots = parts.prompts.slots(4, 4)
    found, plain = (
        draw_codes(
            net,
            batch,
            slots=slots,
            generators=generators([0, 1, 2, 3]),
            settings=SamplingSettings(guidance=2.0, cache=cache),  # type: ignore[arg-type]
            unconditional=empty,
            pad=parts.prompts.pad,
        )
        for net, cache in ((counting, "fused"), (network, "dynamic"))
    )
    assert torch.equal(found, plain)
    # Reference and beginning once, three different texts, one unconditional prompt; and two look-ups of one token.
    shared = next(i for i in range(len(lines[0])) if len({line[i] for line in lines}) > 1)
    texts = max(len(line) for line in lines) - shared
    assert sum(read) == shared + 3 * texts + len(parts.prompts.prompt_ids("")) + 2


def memory_of(parts: Emu3Parts, ids: list[int]) -> Memory:
    """The keys and values of `ids` read from position 0."""
    store = Appended()
    mask = torch.ones(1, len(ids), dtype=torch.bool)
    embeddings = parts.model.get_input_embeddings()(torch.tensor([ids]))
    read_whole(Decoder(parts.model.model.text_model), embeddings, mask, store)
    keys, values = store.stacked()
    return Memory(keys[:, 0], values[:, 0], torch.zeros(len(keys), len(ids)), opens=True)


def test_memory_of_a_beginning_equals_the_beginning_itself(parts: Emu3Parts) -> None:
    """Keys and values of [begin, picture] before [text] are [begin, picture, text]: teacher-forced and sampled."""
    picture = torch.randint(0, 16, (4, 4))
    whole = [parts.prompts.prompt_ids(text, [picture]) for text in TEXTS]
    cut = 1 + len(parts.prompts.picture_ids(picture))
    memory = memory_of(parts, whole[0][:cut])
    pad = parts.prompts.pad
    network = emu3_network(parts.model, parts.vocabulary)
    slots = parts.prompts.slots(4, 4)
    codes = torch.randint(0, 16, (3, 16))
    expected = teacher_forced(network, left_pad(whole, pad), codes, slots=slots)
    rest = left_pad([line[cut:] for line in whole], pad)
    found = teacher_forced(network, rest, codes, slots=slots, memory=memory)
    assert torch.allclose(found, expected, atol=1e-3), (found - expected).abs().max()
    drawn = [
        draw_codes(
            network,
            prompts,
            slots=slots,
            generators=generators([0, 1, 2]),
            settings=SamplingSettings(guidance=2.0),
            unconditional=prompts_of(parts, [""] * 3),
            memory=kept,
            pad=pad,
        )
        for prompts, kept in ((left_pad(whole, pad), None), (rest, memory))
    ]
    assert torch.equal(drawn[0], drawn[1])


def test_memory_weight_and_gate_zero_hide_it(parts: Emu3Parts) -> None:
    memory = memory_of(parts, parts.prompts.prompt_ids("a zebra"))
    network = emu3_network(parts.model, parts.vocabulary)
    slots = parts.prompts.slots(4, 4)
    prompts, codes = prompts_of(parts, TEXTS), torch.randint(0, 16, (3, 16))
    plain = teacher_forced(network, prompts, codes, slots=slots)
    hidden = teacher_forced(network, prompts, codes, slots=slots, memory=memory.weighted(0.0))
    assert torch.allclose(hidden, plain, atol=1e-3)
    assert not torch.allclose(teacher_forced(network, prompts, codes, slots=slots, memory=memory), plain, atol=1e-1)
    # One layer out of two sees it: something between.
    one = teacher_forced(network, prompts, codes, slots=slots, memory=memory.in_layers([1]))
    assert not torch.allclose(one, plain, atol=1e-1)
    twice = join_memories([memory, memory])
    assert twice is not None and len(twice) == 2 * len(memory)
    # Everything seen twice at half the weight is everything seen once.
    half = teacher_forced(network, prompts, codes, slots=slots, memory=twice.weighted(0.5))
    once = teacher_forced(network, prompts, codes, slots=slots, memory=replace(memory))
    offset = teacher_forced(network, prompts, codes, slots=slots, memory=join_memories([memory, memory.weighted(0.0)]))
    assert torch.allclose(half, offset, atol=1e-3)
    assert once.shape == offset.shape
    gate = torch.zeros(16)
    drawn = [
        draw_codes(
            network,
            prompts,
            slots=slots,
            generators=generators([0, 1, 2]),
            settings=SamplingSettings(guidance=1.0),
            memory=kept,
            gate=given,
        )
        for kept, given in ((memory, None), (memory, gate), (memory, torch.ones(16)))
    ]
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[1])
    with pytest.raises(UserError, match="gate"):
        draw_codes(
            network, prompts, slots=slots, generators=generators([0, 1, 2]), settings=SamplingSettings(guidance=1.0),
            gate=torch.ones(3),
        )  # fmt: skip


def test_gradient_reaches_the_memory(parts: Emu3Parts) -> None:
    memory = memory_of(parts, parts.prompts.prompt_ids("a zebra"))
    keys, values = memory.keys.clone().requires_grad_(), memory.values.clone().requires_grad_()
    network = emu3_network(parts.model, parts.vocabulary)
    logits = teacher_forced(
        network,
        prompts_of(parts, TEXTS),
        torch.randint(0, 16, (3, 16)),
        slots=parts.prompts.slots(4, 4),
        memory=replace(memory, keys=keys, values=values),
    )
    logits.log_softmax(-1)[..., 0].sum().backward()
    assert keys.grad is not None and values.grad is not None
    assert bool((values.grad.abs().sum((1, 2, 3)) > 0).all()) and bool((keys.grad.abs().sum((1, 2, 3)) > 0).all())


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


def test_a_checkpoint_says_how_it_wants_to_be_sampled(tmp_path: Path) -> None:
    parts = tiny_emu3()
    assert Emu3("plain", parts).sampling == TokenSampling()
    parts.model.generation_config.update(temperature=0.25, top_k=7, guidance_scale=2.5, do_sample=True)
    save_emu3(parts, tmp_path)
    stored = Emu3("stored", load_emu3(tmp_path)).sampling
    assert stored == TokenSampling(temperature=0.25, top_k=7, guidance=2.5)
