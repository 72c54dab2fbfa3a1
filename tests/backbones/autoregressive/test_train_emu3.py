"""Training of the language model: data, resuming, the export."""

from __future__ import annotations

import random
from pathlib import Path

import numpy
import pytest
import torch

from backbones.autoregressive.checkpoint import Emu3Parts, load_emu3
from backbones.autoregressive.train.emu3 import codes_of, train_emu3
from backbones.autoregressive.train.sequences import (
    IGNORED,
    Example,
    SequenceSettings,
    by_person,
    changed_row,
    collate,
    draw_examples,
    label_weights,
    next_token_loss,
)
from tests.tiny.autoregressive import TINY_EMU3, TINY_LAYOUT, tiny_emu3, tiny_vq
from unified.avatars.attributes import ATTRIBUTES
from unified.avatars.dataset import AvatarSet
from unified.errors import UserError
from unified.zoo.training import BuildSettings


@pytest.fixture(scope="module")
def data() -> AvatarSet:
    rng = numpy.random.default_rng(0)
    sizes = [len(values) for values in ATTRIBUTES.values()]
    person = numpy.repeat(numpy.arange(8), 3)
    own = numpy.stack([rng.integers(0, size, 8) for size in sizes], axis=1)[person]
    free = numpy.stack([rng.integers(0, size, 24) for size in sizes], axis=1)
    own[:, 4:] = free[:, 4:]
    return AvatarSet(
        images=rng.integers(0, 255, (24, 16, 16, 3), dtype=numpy.uint8),
        masks=numpy.ones((24, 16, 16), dtype=bool),
        attributes=own,
        person=person,
        shades=numpy.zeros((24, 6), dtype=numpy.float32),
    )


def train(folder: Path, data: AvatarSet, *, minutes: float | None = None) -> Emu3Parts:
    build = BuildSettings(out=folder / "out", work=folder / "work", minutes=minutes)
    return train_emu3(build, TINY_EMU3, vq=tiny_vq(), data=data, held_out=data, layout=TINY_LAYOUT)


def test_resumed_training_equals_an_uninterrupted_one_and_the_export_loads(tmp_path: Path, data: AvatarSet) -> None:
    whole = train(tmp_path / "whole", data)
    for _ in range(TINY_EMU3.steps):  # no minutes: one step, then a checkpoint
        resumed = train(tmp_path / "parts", data, minutes=0.0)
    for (name, expected), found in zip(
        whole.model.state_dict().items(), resumed.model.state_dict().values(), strict=True
    ):
        assert torch.equal(expected, found), name
    loaded = load_emu3(tmp_path / "whole/out")
    assert loaded.layout == TINY_LAYOUT
    assert loaded.prompts.prompt_ids("a person, smiling") == whole.prompts.prompt_ids("a person, smiling")
    ids = torch.tensor([loaded.prompts.prompt_ids("a person, smiling")])
    assert torch.allclose(loaded.model(input_ids=ids).logits, whole.model(input_ids=ids).logits, atol=1e-2)
    images = torch.rand(2, 3, 16, 16)
    assert torch.allclose(loaded.images.latents(images), whole.images.latents(images), rtol=0.01, atol=0.01)
    assert loaded.model.lm_head.weight is loaded.model.get_input_embeddings().weight
    for file in (
        "card.md",
        "samples.png",
        "references.png",
        "layout.json",
        "tokenizer.json",
        "model.safetensors",
    ):
        assert (tmp_path / "whole/out" / file).stat().st_size > 0


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.json"):
        load_emu3(tmp_path)


def draw(data: AvatarSet, step: int, settings: SequenceSettings, process: int = 0) -> list[Example]:
    return draw_examples(
        data, by_person(data.person), count=16, seed=0, step=step, process=process,
        reference_name="the same person", settings=settings,
    )  # fmt: skip


def test_examples_are_a_function_of_seed_and_step(data: AvatarSet) -> None:
    settings = SequenceSettings()
    assert draw(data, 3, settings) == draw(data, 3, settings)
    assert draw(data, 3, settings) != draw(data, 4, settings)
    assert draw(data, 3, settings) != draw(data, 3, settings, process=1)


def test_references_are_other_pictures_of_the_same_person(data: AvatarSet) -> None:
    settings = SequenceSettings(one_reference=0.0, two_references=1.0, no_text=0.0)
    for example in draw(data, 0, settings):
        shown = (*example.references, example.target)
        assert len(set(shown)) == 3
        assert len({int(data.person[index]) for index in shown}) == 1
        assert "the same person" in example.text
    share = [len(draw(data, step, SequenceSettings())[0].references) for step in range(600)]
    assert share.count(1) / 600 == pytest.approx(0.2, abs=0.05)
    assert share.count(2) / 600 == pytest.approx(0.05, abs=0.04)


def test_what_changed_is_always_said(data: AvatarSet) -> None:
    row, reference = data.row(0), data.row(1)
    settings = SequenceSettings(keep_same=0.0, keep_person=0.0)
    said = changed_row(row, reference, random.Random(0), settings)
    assert said == {name: value for name, value in row.items() if value != reference[name]}


def test_only_the_target_is_learnt(data: AvatarSet) -> None:
    parts = tiny_emu3()
    codes = codes_of(parts.images, data.images, None)
    examples = [Example("a person", (0,), 1), Example("", (2,), 3)]
    ids, labels = collate(examples, codes.__getitem__, parts.prompts)
    for row, example in enumerate(examples):
        learnt = labels[row] != IGNORED
        assert torch.equal(ids[row][learnt], labels[row][learnt])
        expected = parts.vocabulary.to_ids(codes[example.target].flatten()).tolist() + parts.prompts.ending()
        assert labels[row][learnt].tolist() == expected
    # Padding on the right changes no logits of the shorter row.
    alone, _ = collate(examples[1:], codes.__getitem__, parts.prompts)
    together = parts.model(input_ids=ids).logits[1, : alone.shape[1]]
    assert torch.allclose(together, parts.model(input_ids=alone).logits[0], atol=1e-4)


def test_weights_lie_on_the_tokens_of_their_place(data: AvatarSet) -> None:
    parts = tiny_emu3()
    codes = codes_of(parts.images, data.images, None)
    ids, labels = collate([Example("a person", (0,), 1), Example("", (2,), 3)], codes.__getitem__, parts.prompts)
    logits = parts.model(input_ids=ids).logits
    even = torch.ones(codes.shape[1:])
    plain = parts.model(input_ids=ids, labels=labels).loss
    assert torch.allclose(next_token_loss(logits, labels, label_weights(labels, parts.vocabulary, even)), plain)
    # All weight on one place, beside the tokens that are no picture: their nats, read off one by one.
    focus = torch.zeros(codes.shape[1:])
    focus[0, -1] = 2.0
    nats = -logits.log_softmax(-1)
    total, count = 0.0, 0.0
    for row in range(2):
        place = 0
        for at in (labels[row] != IGNORED).nonzero()[:, 0].tolist():
            visual = bool(torch.isin(labels[row, at], parts.vocabulary.ids))
            weight = float(focus.flatten()[place]) if visual else 1.0
            place += visual
            total += weight * float(nats[row, at - 1, labels[row, at]])
            count += weight
    weighted = next_token_loss(logits, labels, label_weights(labels, parts.vocabulary, focus))
    assert float(weighted) == pytest.approx(total / count, rel=1e-4)


def test_codes_are_kept(tmp_path: Path, data: AvatarSet) -> None:
    parts = tiny_emu3()
    first = codes_of(parts.images, data.images, tmp_path)
    (file,) = tmp_path.glob("codes-*.npy")
    stamp = file.stat().st_mtime_ns
    assert torch.equal(codes_of(parts.images, data.images, tmp_path), first)
    assert file.stat().st_mtime_ns == stamp
