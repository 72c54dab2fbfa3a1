"""The measurements: what is counted, on cases small enough to count by hand."""

from __future__ import annotations

import random

import pytest
import torch

from tests.tiny.families import tiny
from unified.avatars import benchmark, captions
from unified.contract.recipe import recipes
from unified.errors import UserError
from unified.evaluation import avatarbench, samples, text_to_image
from unified.evaluation.inverted import reference_of
from unified.extractors import attributes, identity


def test_a_request_is_said_in_full() -> None:
    request = {
        "hair_colour": "red",
        "glasses": "sunglasses",
        "mouth": "smile",
        "clothes_colour": "blue",
        "background": "green",
    }
    prompt = text_to_image.prompt_of(request)
    assert prompt.startswith("a portrait of a person")
    for word in ("red hair", "sunglasses", "smiling", "blue clothes", "green background"):
        assert word in prompt
    assert set(captions.words(prompt)) <= set(captions.vocabulary())


def test_real_pictures_follow_their_own_attributes() -> None:
    """The benchmark's own pictures, judged against their own attributes: nearly all right; against wrong ones, none."""
    people = benchmark.load()[:8]
    images = torch.cat([p.images for p in people])
    truth = [{k: row[k] for k in text_to_image.JUDGED} for p in people for row in p.attributes]
    classifier = attributes.load()
    found = text_to_image.judge(images, truth, classifier)
    assert found.samples == 40 and found.mean > 0.95
    wrong = [{"background": "white" if row["background"] != "white" else "blue"} for row in truth]
    assert text_to_image.judge(images, wrong, classifier).mean < 0.05


def test_prompts_take_the_kinds_in_turn() -> None:
    person = benchmark.load()[0]
    assert len({p.kind for p in avatarbench.pick_prompts(person, 5)}) == 5
    assert len(avatarbench.pick_prompts(person, 25)) == 25


def test_the_persons_own_pictures_score_as_that_person_and_as_no_other() -> None:
    first, second = benchmark.load()[:2]
    judges = avatarbench.Judges(identity.load().embed, attributes.load())
    prompts = avatarbench.pick_prompts(first, 2)
    own = avatarbench.score_generation([first.images[:1], first.images[1:3]], first, prompts, judges)
    other = avatarbench.score_generation([second.images[:1], second.images[1:3]], first, prompts, judges)
    assert own["identity"] > 0.9 > other["identity"] + 0.2
    assert "clip-t" not in own


def test_a_reconstruction_that_is_perfect_scores_so() -> None:
    person = benchmark.load()[0]
    judges = avatarbench.Judges(identity.load().embed, attributes.load())
    perfect = avatarbench.score_reconstruction(person.images, person.images, judges)
    assert (
        perfect["lpips-alex"] == 0
        and perfect["ssim"] == pytest.approx(1, abs=1e-4)
        and perfect["identity-rec"] == pytest.approx(1)
    )
    worse = avatarbench.score_reconstruction(person.images.roll(1, 0), person.images, judges)
    assert worse["lpips-alex"] > 0.02 and worse["psnr"] < perfect["psnr"]


def test_a_person_is_evaluated_end_to_end_on_a_random_generator() -> None:
    person = benchmark.load()[0]
    backbone = tiny("stable-diffusion")
    judges = avatarbench.Judges(identity.load().embed, attributes.load())
    before, backbone.category = backbone.category, "person"
    try:
        [alone] = avatarbench.evaluate_people(backbone, "", [person], judges, prompts=1)
    finally:
        backbone.category = before
    assert {"identity", "attribute", "seconds-per-picture"} <= set(alone.values)
    assert "psnr" not in alone.values and "seconds" not in alone.values


def test_people_inverted_together_score_as_alone() -> None:
    people = benchmark.load()[:2]
    backbone = tiny("stylegan")
    judges = avatarbench.Judges(identity.load().embed, attributes.load())
    short = recipes.get("image2stylegan").with_overrides(steps=2)
    together = avatarbench.evaluate_people(backbone, short, people, judges, prompts=0, pictures=1)
    alone = [avatarbench.evaluate_people(backbone, short, [p], judges, prompts=0, pictures=1)[0] for p in people]
    assert [each.person for each in together] == [p.name for p in people]
    for one, other in zip(together, alone, strict=True):
        assert one.values["lpips-alex"] == pytest.approx(other.values["lpips-alex"], abs=1e-3)
        assert "identity" not in one.values and one.values["seconds"] > 0


def test_masks_go_to_recipes_that_need_them_alone() -> None:
    backbone, person = tiny("stable-diffusion"), benchmark.load()[0]
    given = reference_of(backbone, person, recipes.get("break-a-scene"), pictures=2)
    assert given.masks is not None
    assert given.masks.shape == (2, 1, *given.images.shape[-2:])
    whole = reference_of(backbone, person, recipes.get("dreambooth"), pictures=2)
    assert whole.masks is None


def test_prompts_are_drawn_as_the_sampler_is_told() -> None:
    people = benchmark.load()[:1]
    backbone = tiny("stable-diffusion")
    features = []

    def identity_of(images: torch.Tensor) -> torch.Tensor:
        features.append(images)
        return torch.ones(len(images), 1)

    judges = avatarbench.Judges(identity_of, attributes.load())
    for sampling in (None, {"guidance": 9.0, "steps": 2}):
        avatarbench.score_concept(backbone, None, people[0], judges, prompts=1, pictures=1, sampling=sampling)
    own, guided = features[0], features[2]  # the others are the person's pictures
    assert own.shape == guided.shape and not torch.equal(own, guided)
    with pytest.raises(UserError, match="guidanse"):
        avatarbench.score_concept(backbone, None, people[0], judges, prompts=1, pictures=1, sampling={"guidanse": 1.0})


def test_summary_keeps_columns_that_all_have() -> None:
    rows = [
        avatarbench.PersonScores(str(i), {"identity": v, **({"psnr": 1.0} if i else {})})
        for i, v in enumerate((0.2, 0.4, 0.6))
    ]
    summary = avatarbench.summarise(rows)
    assert set(summary) == {"identity"} and summary["identity"].mean == pytest.approx(0.4)


def test_frechet_distance_of_the_data_to_itself_is_about_its_floor(monkeypatch) -> None:
    """A 'generator' that returns training pictures scores like real against real; one that returns noise does not."""
    generator = torch.Generator().manual_seed(0)
    pictures = (torch.rand(400, 64, 64, 3, generator=generator) * 255).to(torch.uint8).numpy()

    class Data:
        images = pictures

    monkeypatch.setattr(samples.dataset, "load", lambda split: Data)
    features = lambda x: x.mean((2, 3))  # noqa: E731
    order = random.Random(1).sample(range(400), 100)

    class Replay:
        sampling = object()

        def bound(self):
            import contextlib

            return contextlib.nullcontext(self)

        def sample(self, target, *, rng):
            return samples.dataset.to_tensor(pictures[order])[: target.n]

    replay = samples.sample_quality(Replay(), features, name="means", samples=100, batch=100)
    assert replay.distance < 10 * replay.floor + 1e-6
    gan = samples.sample_quality(tiny("stylegan"), features, name="means", samples=100, batch=50)
    assert gan.distance > 100 * gan.floor


@pytest.mark.parametrize("count", [1, 2])
def test_pictures_that_are_only_shown_to_the_model_are_no_reconstruction(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(avatarbench, "score_reconstruction", lambda *_: {"psnr": 0.0})  # too small for LPIPS
    backbone = tiny("emu3")
    judges = avatarbench.Judges(identity.load().embed, attributes.load())
    [person] = benchmark.load()[:1]
    shown, given_back = (
        avatarbench.evaluate_people(backbone, recipe, [person], judges, prompts=0, pictures=count)[0].values
        for recipe in ("in-context", "tokenize")
    )
    assert "psnr" not in shown and "psnr" in given_back
