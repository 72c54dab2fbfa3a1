"""Learning-based inversion: a network that was trained for the generator predicts the codes (survey section 3.3.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from unified.contract.abilities import Renders
from unified.contract.backbone import Backbone
from unified.contract.code import Code
from unified.contract.method import Job, Method, methods
from unified.contract.space import Space
from unified.contract.view import View
from unified.errors import UserError
from unified.picture_encoders import PictureEncoder, encoder_of


class CodeEncoder(PictureEncoder, Protocol):
    """What the method asks of the encoder."""

    def codes(self, view: View, images: Tensor) -> Mapping[str, Mapping[str, Tensor]]:
        """Pictures [N,3,H,W] in 0..1 -> the tensors of a code by the name of its space, without a search."""
        ...


@dataclass(frozen=True)
class Learned(Method):
    """What an encoder says of the pictures, as it is; a later stage may begin from there.

    encoder: its name. weights: the file that holds it, or "" for the one that belongs to the backbone.
    fills: the spaces it gives codes of. batch: pictures at a time.
    """

    name: ClassVar[str] = "learned"
    needs: ClassVar[tuple[type, ...]] = (Renders,)

    encoder: str = "e4e"
    weights: str = ""
    fills: tuple[str, ...] = ("w+",)
    batch: int = 16

    def refuse(self, backbone: type[Backbone], spaces: Sequence[Space]) -> str | None:
        if [space.name for space in spaces] != list(self.fills):
            return f"the encoder {self.encoder!r} fills {' & '.join(map(repr, self.fills))}"
        return None

    @torch.no_grad()
    def invert(self, job: Job, spaces: Sequence[Space]) -> list[list[Code]]:
        shared = [space.name for space in spaces if not space.per_picture]
        if shared and any(len(member.reference) > 1 for member in job.members):
            raise UserError(
                f"The encoder {self.encoder!r} predicts {shared[0]} for one picture, which all pictures of a concept"
                " would share: invert each picture as a concept of its own."
            )
        encoder: CodeEncoder = encoder_of(job.backbone, self.encoder, self.weights)
        found: list[list[Code]] = []
        with job.open() as view:
            for member in job.members:
                parts = [encoder.codes(view, part) for part in member.reference.images.split(self.batch)]
                codes = []
                for space in spaces:
                    start = space.initial(view, member.reference, rng=job.rng.child("initial", space.name))
                    told = {key: torch.cat([part[space.name][key] for part in parts]) for key in parts[0][space.name]}
                    codes.append(start.with_tensors(told))
                found.append(codes)
        return found


methods.register("learned", Learned)
