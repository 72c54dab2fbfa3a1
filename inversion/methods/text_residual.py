"""From a tuned text encoder to one vector (Cones 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from inversion.objectives.text_meaning import SENTENCES, components, say
from inversion.spaces.class_word import said
from unified.contract.abilities import Speaks
from unified.contract.backbone import Backbone
from unified.contract.code import Code
from unified.contract.method import Job, Member, Method, methods
from unified.contract.space import Space
from unified.errors import UserError


@dataclass(frozen=True)
class AverageResidual(Method):
    """What tuning the text encoder did to the class word, on average (Liu et al. 2023, Cones 2, equation 4).

    mean over sentences of E'(sentence)[class word] - E(sentence)[class word]; an earlier stage tuned E' in the
    space 'text-weights', and its weights are then dropped: the concept is the residual alone.
    """

    name: ClassVar[str] = "average-residual"
    needs: ClassVar[tuple[type, ...]] = (Speaks,)

    sentences: tuple[str, ...] = SENTENCES

    def refuse(self, backbone: type[Backbone], spaces: Sequence[Space]) -> str | None:
        if [space.name for space in spaces] != ["cones2"]:
            return (
                f"the method {self.name!r} finds a residual of the text encoder's output: use the space 'cones2' alone"
            )
        return None

    def invert(self, job: Job, spaces: Sequence[Space]) -> list[list[Code]]:
        found = []
        for member in job.members:
            tuned = [code for code in member.earlier if code.space == "text-weights"]
            if not tuned:
                raise UserError(
                    "There is no tuned text encoder to take a residual of: run 'text-weights > cones2', or the recipe"
                    " 'cones2'."
                )
            with torch.no_grad(), job.backbone.bound() as view:
                code = spaces[0].initial(view, member.reference, rng=job.rng)
            before = self._outputs(job, member, [code])
            after = self._outputs(job, member, [*tuned, code])
            for component, value in before.items():
                code.tensors[component] = (after[component] - value).mean(0)
            member.earlier = [code for code in member.earlier if code.space != "text-weights"]
            found.append([code])
        return found

    def _outputs(self, job: Job, member: Member, codes: Sequence[Code]) -> dict[str, Tensor]:
        """The outputs [sentences, width] at the name, which the residual's code reads as the class word."""
        name = member.reference.name
        prompts = [sentence.format(name) for sentence in self.sentences]
        concept = Member(member.reference).concept(codes)
        found = {}
        with torch.no_grad(), job.backbone.bound(concept) as view:
            for component in components(job.backbone):
                output, ids = say(view, component, prompts)
                found[component] = output[said(view, name, ids)]
        return found


methods.register("average-residual", AverageResidual)
