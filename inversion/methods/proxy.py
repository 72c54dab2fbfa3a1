"""Learning a concept from another model's pictures of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from inversion.methods.optimize import Optimize
from inversion.templates import PORTRAIT_TEMPLATES
from unified.contract.abilities import Tokenises
from unified.contract.backbone import Backbone
from unified.contract.code import Code
from unified.contract.method import Job, Member, Method, methods
from unified.contract.reference import Reference
from unified.contract.space import Space
from unified.contract.target import Target
from unified.errors import UserError
from unified.generation import generate
from unified.inversion import InvertSettings, invert, recipe_for
from unified.loading import load


@dataclass(frozen=True)
class ProxyTuning(Method):
    """A teacher learns the concept and draws many pictures of it; the student learns from those.

    Wu et al. 2025, Proxy-Tuning: a diffusion model with DreamBooth is the teacher of an autoregressive student,
    which learns the concept better from a thousand consistent pictures with their prompts than from the
    reference's few. The reference itself is not shown to the student.

    teacher: an embedded model, path or hub id. teacher_recipe, teacher_steps: how it is inverted; None: the recipe's
    own. teacher_sampling: settings of its sampler. pictures: how many it draws. prompts: its prompts, taken in
    turn; `{}` is the concept's name; the student learns each picture with its prompt. steps, lr, batch: of the student.
    """

    name: ClassVar[str] = "proxy-tuning"
    needs: ClassVar[tuple[type, ...]] = (Tokenises,)

    teacher: str = "avatars/stable-diffusion"
    teacher_recipe: str = "dreambooth-lora"
    teacher_steps: int | None = None
    teacher_sampling: Mapping[str, Any] = field(default_factory=dict)
    pictures: int = 200
    prompts: tuple[str, ...] = PORTRAIT_TEMPLATES
    steps: int = 300
    lr: float = 1e-3
    batch: int = 8
    chunk: int = 8  # pictures that the teacher draws at a time

    def student(self) -> Optimize:
        """How the student learns."""
        return Optimize(steps=self.steps, lr=self.lr, batch=self.batch, templates=("{caption}",))

    def refuse(self, backbone: type[Backbone], spaces: Sequence[Space]) -> str | None:
        return self.student().refuse(backbone, spaces)

    def invert(self, job: Job, spaces: Sequence[Space]) -> list[list[Code]]:
        teacher = load(self.teacher)
        members = []
        for member in job.members:
            images, captions = self.drawn(teacher, member.reference, job)
            size = member.reference.images.shape[-2:]
            resized = _resized(images, (int(size[0]), int(size[1]))).to(member.reference.images.dtype)
            taught = replace(
                Reference(resized, captions=tuple(captions), category=member.reference.category),
                name=member.reference.name,
                names=(),
            )
            members.append(Member(taught, list(member.earlier), member.carrier))
        own = Job(
            backbone=job.backbone,
            members=members,
            rng=job.rng.child("student"),
            progress=job.progress,
            checkpoint=job.checkpoint,
            label=job.label,
            log=job.log,
        )
        found = self.student().invert(own, spaces)
        job.log["taught"] = {"teacher": teacher.id, "fingerprint": teacher.fingerprint, "pictures": self.pictures}
        return found

    def drawn(self, teacher: Backbone, reference: Reference, job: Job) -> tuple[Tensor, list[str]]:
        """The teacher's pictures [pictures,3,H,W] of the concept and their prompts, with the concept's name in them."""
        if self.pictures < 1:
            raise UserError(f"The teacher was to draw {self.pictures} pictures: let it draw at least one.")
        side = teacher.resolution
        shown = Reference(
            _resized(reference.images, (side, side)).to(teacher.dtype),
            category=reference.category or teacher.category,
            name=reference.name,
        )
        recipe = recipe_for(teacher, recipe=self.teacher_recipe, steps=self.teacher_steps)
        settings = InvertSettings(seed=job.rng.seed, progress=job.progress)
        concept = invert(teacher, shown, recipe, settings)
        images: list[Tensor] = []
        captions: list[str] = []
        job.progress.start(f"{job.label}: pictures of {teacher.id}", self.pictures)
        number = 0
        while len(captions) < self.pictures:
            count = min(self.chunk, self.pictures - len(captions))
            prompt = self.prompts[number % len(self.prompts)].replace("{}", reference.name)
            target = Target(prompt=prompt, n=count, sampling=dict(self.teacher_sampling))
            # Another seed for each chunk: the same prompt comes back with other pictures.
            images.append(generate(teacher, [concept], target, seed=job.rng.seed + number, scheme="prompt"))
            captions += [prompt] * count
            number += 1
            job.progress.advance(len(captions))
        job.progress.finish()
        return torch.cat(images).clamp(0, 1), captions


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(images.shape[-2:]) == size:
        return images
    return functional.interpolate(images, size=size, mode="bilinear", antialias=True).clamp(0, 1)


methods.register("proxy-tuning", ProxyTuning)
