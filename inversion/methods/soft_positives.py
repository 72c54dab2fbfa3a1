"""Learning soft prompts from pictures that merely resemble the concept, as far as they do (Yo'Chameleon)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from inversion.methods.optimize import Optimize
from inversion.objectives.error import Error
from inversion.objectives.prior import class_pictures
from inversion.objectives.recognition import Recognition, check_answers
from inversion.spaces.dual_prompt import DualPrompt, drawing_name
from inversion.templates import PORTRAIT_TEMPLATES
from unified.contract.abilities import Reads, Tokenises, can
from unified.contract.backbone import Backbone
from unified.contract.code import Code
from unified.contract.method import Job, Member, Method, methods
from unified.contract.reference import Reference
from unified.contract.space import Space
from unified.contract.tokens import Answers
from unified.errors import UserError
from unified.extractors import clip


@dataclass(frozen=True)
class SoftPositives(Method):
    """Soft positives: the more a picture resembles the concept, the more of its tokens explain it.

    Nguyen et al. 2025, Yo'Chameleon: a few pictures are too few to learn to draw from. Similar pictures (about a
    thousand, retrieved from LAION) are ranked by the CLIP similarity with the reference and divided into
    `groups`; the most similar group is explained by the most tokens for drawing, the least similar one by the
    fewest, and only the reference's own pictures, as many times as a group has pictures, by all of them. So the
    first tokens learn what all share, the last ones what is the concept's alone. The same pictures are the
    negatives of recognition, which the tokens for understanding learn; a model that was never trained to answer
    is refused before any work, and can learn the tokens for drawing alone.

    pictures: how many soft positives. pool: a folder they are taken from, the most similar ones; "": the
    untouched backbone draws them with `prompt`. templates: what the pictures are said to be.
    recognition: weight of the understanding. steps, lr, batch: of the optimiser (paper: 1e-4 on 7 billion
    parameters, 15 epochs).
    """

    name: ClassVar[str] = "soft-positives"
    needs: ClassVar[tuple[type, ...]] = (Reads,)

    pictures: int = 200
    groups: int = 8
    pool: str = ""
    prompt: str = "a photo of a {category}"
    templates: tuple[str, ...] = PORTRAIT_TEMPLATES
    recognition: float = 1.0
    steps: int = 600
    lr: float = 1e-2
    batch: int = 8
    seed: int = 0

    def refuse(self, backbone: type[Backbone], spaces: Sequence[Space]) -> str | None:
        if len(spaces) != 1 or not isinstance(spaces[0], DualPrompt):
            return f"the method {self.name!r} fills the space 'dual-prompt' alone"
        if spaces[0].understanding and not can(backbone, Answers):
            return (
                "its tokens for understanding need a backbone that answers questions about pictures; the space"
                " 'dual-prompt' with understanding=0 would work"
            )
        if not self.pool and not can(backbone, Tokenises):
            return "it cannot draw pictures that resemble the concept; give a folder of them (pool=...)"
        return self.learner([], spaces[0]).refuse(backbone, spaces)

    def learner(self, shown: Sequence[int], space: DualPrompt) -> Optimize:
        """How the prompt is learnt; shown: numbers of the pictures that do show the concept."""
        recognition = Recognition(weight=self.recognition, shown=frozenset(shown))
        objectives = (Error(), recognition) if space.understanding else (Error(),)
        return Optimize(steps=self.steps, lr=self.lr, batch=self.batch, templates=("{caption}",), objectives=objectives)

    def invert(self, job: Job, spaces: Sequence[Space]) -> list[list[Code]]:
        (space,) = spaces
        assert isinstance(space, DualPrompt)
        if space.understanding:
            check_answers(job.backbone, job.reference)
        members: list[Member] = []
        shown: list[int] = []
        start = 0
        for member in job.members:
            similar = self.similar(job.backbone, member.reference)
            taught = self.ranked(member.reference, similar, space.generation)
            shown += range(start + len(similar), start + len(taught))
            start += len(taught)
            members.append(Member(taught, list(member.earlier), member.carrier))
        job.log["soft_positives"] = {"pictures": self.pictures, "from": self.pool or job.backbone.id}
        learning = replace(job, members=members, log=job.log)
        return self.learner(shown, space).invert(learning, spaces)

    def similar(self, backbone: Backbone, reference: Reference) -> Tensor:
        """`pictures` pictures [n,3,H,W], the least similar to the reference first."""
        if not 1 <= self.groups <= self.pictures:
            raise UserError(f"{self.pictures} pictures cannot be divided into {self.groups} groups: ask for more.")
        found = self._pool(backbone, reference)
        scorer = clip.load()
        with torch.no_grad():
            seen = torch.cat([scorer.image_features(part.float()) for part in found.split(64)])
            likeness = (seen @ scorer.image_features(reference.images.float()).T).mean(1)
        order = likeness.sort(stable=True).indices
        return found[order[-self.pictures :]]

    def _pool(self, backbone: Backbone, reference: Reference) -> Tensor:
        if self.pool:
            from unified.images import read_images

            found = read_images(self.pool, size=backbone.resolution).to(reference.images.dtype)
            if len(found) < self.pictures:
                raise UserError(
                    f"{self.pool} holds {len(found)} pictures; {self.pictures} were to resemble the concept."
                )
            return found
        if not reference.category:
            raise UserError("The pictures' category says what to draw, and none was given: pass category='person'.")
        prompt = self.prompt.replace("{category}", reference.category)
        return class_pictures(backbone, prompt, self.pictures, self.seed).images

    def ranked(self, reference: Reference, similar: Tensor, tokens: int) -> Reference:
        """The similar pictures (the least similar one first) and the reference's, with what they are said to be."""
        counts = token_counts(len(similar), groups=self.groups, tokens=tokens)
        repeats = math.ceil(len(similar) / self.groups)
        own = reference.images[[i % len(reference) for i in range(max(repeats, len(reference)))]]
        counts += [tokens] * len(own)
        captions = tuple(
            f"{{}} is {drawing_name('{}', count)}. {self.templates[i % len(self.templates)]}"
            for i, count in enumerate(counts)
        )
        return Reference(
            torch.cat([similar.to(own), own]), captions=captions, category=reference.category, name=reference.name
        )


def token_counts(pictures: int, *, groups: int, tokens: int) -> list[int]:
    """How many tokens explain each of the pictures, the least similar one first: from few to less than all.

    The groups are equal (to one picture), and group k of K has ceil(tokens k / (K + 1)), counted from 1.
    """
    sizes = [pictures // groups + (group < pictures % groups) for group in range(groups)]
    return [math.ceil(tokens * (group + 1) / (groups + 1)) for group, size in enumerate(sizes) for _ in range(size)]


methods.register("soft-positives", SoftPositives)
