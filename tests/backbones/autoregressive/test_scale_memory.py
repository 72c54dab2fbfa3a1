"""Keys and values beside a picture that is drawn scale by scale, and directions taken out of its text."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from backbones.autoregressive.choosing import guide
from backbones.autoregressive.var import Var
from tests.tiny.families import pictures, tiny
from tests.tiny.var import TINY_SCALES
from unified.contract.code import Code
from unified.contract.random import Random
from unified.contract.scale_memory import ScaleMemory, scale_mask
from unified.contract.target import Target
from unified.contract.view import Slot, View
from unified.errors import UserError

LEVELS = TINY_SCALES.levels()
SIZES = (1, 4, 16)


@pytest.fixture(scope="module")
def model() -> Var:
    found = tiny("var")
    assert isinstance(found, Var)
    return found


def show(view: View, memory: ScaleMemory, key: str = "scale-memory/test") -> None:
    view.slots[key] = Slot(Code("test", {"keys": memory.keys}), lambda: memory)


def random_memory(model: Var, entries: int = 3, *, seed: int = 0) -> ScaleMemory:
    layers, heads, width = model.scale_memory_shape()
    generator = torch.Generator().manual_seed(seed)
    keys, values = (torch.randn(layers, heads, entries, width, generator=generator) for _ in range(2))
    return ScaleMemory(keys, values, torch.zeros(layers, 21, entries))


def logits(model: Var, memory: ScaleMemory | None, prompt: str = "a person", codes: torch.Tensor | None = None):  # type: ignore[no-untyped-def]
    drawn = model.codes(None, pictures(model, 1).images) if codes is None else codes  # type: ignore[arg-type]
    with torch.no_grad(), model.bound() as view:
        if memory is not None:
            show(view, memory)
        return model.logits(view, [prompt] * len(drawn), drawn)


def test_a_whole_pass_is_attention_to_more_keys(model: Var) -> None:
    """The blocks written out with the memory's keys and values appended, one layer after the other."""
    memory, prompt = random_memory(model), "a person"
    codes = model.codes(None, pictures(model, 1).images)  # type: ignore[arg-type]
    with torch.no_grad(), model.bound() as view:
        network, text = model.parts.model, model.read(view, [prompt])
        x = network.embed(text, model.images.inputs(codes.flatten(1)), 0)
        for number, block in enumerate(network.blocks):
            parts = block.modulation(functional.silu(text.pooled))[:, None].chunk(6, -1)  # type: ignore[union-attr,operator]
            normed = block.norm(x) * (1 + parts[1]) + parts[0]  # type: ignore[operator]
            attention = block.attention
            query, key, value = (
                attention._split(layer(normed))  # type: ignore[union-attr,operator]
                for layer in (attention.query, attention.key, attention.value)  # type: ignore[union-attr]
            )
            key = torch.cat([key, memory.keys[number][None]], 2)
            value = torch.cat([value, memory.values[number][None]], 2)
            scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
            unseen = torch.cat([LEVELS[:, None] < LEVELS[None], torch.zeros(21, 3).bool()], 1)
            mixed = scores.masked_fill(unseen, -torch.inf).softmax(-1) @ value
            x = x + parts[2] * attention.outer(mixed.transpose(1, 2).flatten(2))  # type: ignore[union-attr,operator]
            x = x + block.cross(block.cross_norm(x), text.pairs[number], text.mask)  # type: ignore[operator]
            x = x + parts[5] * block.mlp(block.mlp_norm(x) * (1 + parts[4]) + parts[3])  # type: ignore[operator]
        shift, scale = network.head_modulation(functional.silu(text.pooled))[:, None].chunk(2, -1)
        expected = network.head(network.head_norm(x) * (1 + scale) + shift)
    assert torch.allclose(logits(model, memory, prompt, codes), expected, atol=1e-4)


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_drawing_beside_a_memory_equals_whole_passes(model: Var, guidance: float) -> None:
    """Greedy tokens scale by scale are those of teacher-forced logits; guidance goes away from a pass without it."""
    memory = random_memory(model).in_scales([1, 2], SIZES)
    seen: list[torch.Tensor] = []
    original = model.images.decode
    model.images.decode = lambda codes: seen.append(codes) or original(codes)  # type: ignore[method-assign,func-returns-value]
    try:
        with model.bound() as view:
            show(view, memory)
            sampling = {"temperature": 0, "guidance": guidance, "guidance_until": 1.0}
            view.sample(Target("a person", n=2, sampling=sampling), rng=Random(0))
    finally:
        del model.images.decode
    drawn = seen[0]
    told = logits(model, memory, codes=drawn.unsqueeze(1))
    blind = logits(model, None, "", codes=drawn.unsqueeze(1))
    strength = 1 + (guidance - 1) * LEVELS / 2
    assert torch.equal(guide(told, blind, strength[:, None]).argmax(-1), drawn)


def test_what_is_hidden_changes_nothing_and_what_is_seen_only_from_there_on(model: Var) -> None:
    memory, plain = random_memory(model), logits(model, None)
    for hidden in (memory.weighted(0.0), memory.in_layers([]), memory.in_scales([], SIZES)):
        assert torch.allclose(logits(model, hidden), plain, atol=1e-5)
    for scale in range(3):
        change = (logits(model, memory.in_scales([scale], SIZES)) - plain).abs().amax(-1)[0]
        assert float(change[scale > LEVELS].sum()) < 1e-4
        assert float(change[scale == LEVELS].min()) > 1e-3
    assert torch.equal(scale_mask([0, 2], SIZES), torch.tensor([True] + [False] * 4 + [True] * 16))
    with pytest.raises(UserError, match="scales 0 to 2"):
        memory.in_scales([3], SIZES)
    with pytest.raises(UserError, match="0 or more"):
        memory.weighted(-1.0)


def test_weight_multiplies_the_attention(model: Var) -> None:
    """Twice the weight is the same memory twice."""
    memory = random_memory(model)
    twice = ScaleMemory(*(torch.cat([p, p], 2) for p in (memory.keys, memory.values, memory.bias)))
    assert torch.allclose(logits(model, memory.weighted(2.0)), logits(model, twice), atol=1e-4)


def test_a_picture_read_beside_is_what_the_picture_itself_sees(model: Var) -> None:
    """With a picture's own memory every key comes twice: its own attention does not change, whatever its weight."""
    codes = model.codes(None, pictures(model, 1).images)  # type: ignore[arg-type]
    with torch.no_grad(), model.bound() as view:
        memory = model.remember_scales(view, "a person", codes)
    assert memory.keys.shape == (2, 2, 21, 16) and memory.bias.shape == (2, 21, 21)
    for weight in (1.0, 5.0):
        assert torch.allclose(logits(model, memory.weighted(weight)), logits(model, None), atol=1e-4)
    assert not torch.allclose(logits(model, memory, "a zebra"), logits(model, None, "a zebra"), atol=1e-2)


def test_only_lines_that_say_the_name_see_its_memory(model: Var) -> None:
    codes = model.codes(None, pictures(model, 2).images)  # type: ignore[arg-type]
    memory = replace(random_memory(model), said="<me>")
    rows = torch.randn(1, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), model.bound() as plain, model.bound() as view:
        for each in (plain, view):
            each._binding = object()  # type: ignore[assignment]
            each.name_rows("<me>", 1, {"model": lambda: rows})
        show(view, memory)
        prompts = ["a <me>", "a person"]
        found, base = (model.logits(each, prompts, codes) for each in (view, plain))
    assert not torch.allclose(found[0], base[0], atol=1e-2)
    assert torch.allclose(found[1], base[1], atol=1e-5)


def test_gates_say_where_and_at_which_scales_it_is_seen(model: Var) -> None:
    def make(memory: ScaleMemory | None, **sampling) -> torch.Tensor:  # type: ignore[no-untyped-def]
        with model.bound() as view:
            if memory is not None:
                show(view, memory)
            return view.sample(Target("a person", n=1, sampling=sampling), rng=Random(0))

    memory, plain = random_memory(model), make(None)
    assert not torch.equal(make(memory), plain)
    assert torch.equal(make(memory, gate=[[0]]), plain)
    assert torch.equal(make(memory, gate_scales=(0.0, 0.0, 0.0)), plain)
    assert torch.equal(make(memory, gate=[[1]], gate_scales=(1.0, 1.0, 1.0)), make(memory))
    assert torch.equal(make(memory, gate_scales=(0.0, 1.0, 0.0)), make(memory.in_scales([1], SIZES)))
    gate = replace(model.sampling, gate=[[0, 0], [1, 1]], gate_scales=(1.0, 0.5, 1.0)).seen((1, 2, 4))
    assert gate is not None
    assert gate.tolist() == [0.5] + [0, 0, 0.5, 0.5] + [0] * 8 + [1] * 8
    with pytest.raises(UserError, match="3 scales"):
        make(memory, gate_scales=(1.0,))
    with pytest.raises(UserError, match="below 0"):
        make(memory, gate=[[-1]])


def test_directions_are_taken_out_of_a_name_and_of_nothing_else(model: Var) -> None:
    directions = torch.linalg.qr(torch.randn(32, 3, generator=torch.Generator().manual_seed(0))).Q.T
    rows = torch.randn(2, 32, generator=torch.Generator().manual_seed(1))
    said: list[torch.Tensor] = []
    with torch.no_grad(), model.bound() as view:
        view._binding = object()  # type: ignore[assignment]
        view.name_rows("<me>", 2, {"model": lambda: rows})
        network = model._model(view)
        ids, mask = model.parts.lines(["a <me> person"], view.rows)
        base = network.encode(ids, mask)
        view.slots["taken-out/<me>"] = Slot(Code("t", {"d": directions}), lambda: directions)
        original = network.take
        network.take = lambda x, mask: said.append(x) or original(x, mask)  # type: ignore[method-assign,func-returns-value]
        model.read(view, ["a <me> person"])
    here = torch.isin(ids, torch.tensor(view.rows["<me>"]))[0]
    assert int(here.sum()) == 2
    assert torch.equal(said[0][0, ~here], base[0, ~here])
    assert float((said[0][0, here] @ directions.T).abs().max()) < 1e-5
    assert torch.allclose(said[0][0, here], base[0, here] - base[0, here] @ directions.T @ directions, atol=1e-6)
