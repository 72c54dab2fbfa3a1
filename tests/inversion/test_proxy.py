"""Proxy tuning: the student learns from what the teacher draws."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from inversion.methods import proxy
from inversion.methods.proxy import ProxyTuning
from inversion.spaces.parameter import LoRA
from tests.tiny.families import pictures, tiny
from unified.contract.method import Job, Member
from unified.contract.random import Random
from unified.contract.recipe import Recipe, Stage, recipes, refusal
from unified.contract.reference import Reference
from unified.errors import UserError
from unified.inversion import InvertSettings, invert

QUICK = ProxyTuning(
    teacher="tiny", teacher_steps=2, teacher_sampling={"steps": 2}, pictures=6, chunk=2, steps=40, lr=2e-2, batch=6
)


@pytest.fixture
def teacher(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    found = tiny("stable-diffusion")
    monkeypatch.setattr(proxy, "load", lambda name: found)
    return found


@pytest.mark.parametrize("student", ["emu3", "var"])
def test_student_explains_the_teachers_pictures_better(student: str, teacher) -> None:  # type: ignore[no-untyped-def]
    backbone = tiny(student)
    reference = pictures(backbone, 2)
    recipe = Recipe("t", (Stage((LoRA(rank=4),), QUICK),), scheme="", cite="", carrier="a sks person")
    concept = invert(backbone, reference, recipe, InvertSettings())
    assert concept.meta["stages"][0]["taught"]["teacher"] == teacher.id
    job = Job(backbone, [Member(reference)], Random(0).child("invert", 0))
    drawn, captions = QUICK.drawn(teacher, reference, job)
    assert drawn.shape == (6, 3, teacher.resolution, teacher.resolution)
    assert len(captions) == 6 and all("<me>" in caption for caption in captions) and len(set(captions)) == 3
    side = backbone.resolution
    taught = Reference(torch.nn.functional.interpolate(drawn, size=(side, side), mode="bilinear", antialias=True))
    nats = []
    for bound in ([], [concept]):
        prompts = [caption.replace("<me>", "a sks person") for caption in captions]
        with torch.no_grad(), backbone.bound(*bound) as view:
            nats.append(float(view.attempt(taught, rng=Random(0), prompts=prompts).error.mean()))
    assert nats[1] < nats[0] - 0.1


def test_what_makes_no_sense_is_refused(teacher) -> None:  # type: ignore[no-untyped-def]
    stages = recipes.get("proxy-tuning").stages
    assert "tokenises" in (refusal(type(tiny("stable-diffusion")), stages) or "")
    none = Recipe("t", (Stage((LoRA(),), dataclasses.replace(QUICK, pictures=0)),), scheme="", cite="")
    with pytest.raises(UserError, match="at least one"):
        invert(tiny("emu3"), pictures(tiny("emu3"), 1), none, InvertSettings())
