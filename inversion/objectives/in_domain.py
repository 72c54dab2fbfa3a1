"""Style vectors that an encoder would read off their own picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from torch import Tensor

from inversion.objectives.distribution import bound_styles
from unified.contract.abilities import Renders
from unified.contract.attempt import Attempt
from unified.contract.code import Code
from unified.contract.objective import Objective, Step, objectives
from unified.contract.view import View
from unified.errors import UserError
from unified.picture_encoders import encoder_of


@runtime_checkable
class ReadsStyles(Protocol):
    """An encoder whose style vectors of a picture can be differentiated."""

    def style_vectors(self, view: View, images: Tensor) -> Tensor:
        """Pictures [N,3,H,W] in 0..1 -> [N, number, width]."""
        ...


@dataclass(frozen=True)
class InDomain(Objective):
    """|w - E(G(w))|^2, the mean over layers and axes (Zhu et al. 2020, In-Domain GAN Inversion, equation 4).

    What the encoder reads back lies where the generator was trained to be edited; a w that only fits pixels is read
    back as another one. encoder: the name of E. weights: the file that holds it, or "" for the backbone's own.
    """

    name: ClassVar[str] = "in-domain"
    needs: ClassVar[tuple[type, ...]] = (Renders,)
    weight: float = 2.0
    encoder: str = "psp"
    weights: str = ""

    def __call__(self, view: View, attempt: Attempt, codes: list[Code], step: Step) -> Tensor:
        encoder = encoder_of(view.backbone, self.encoder, self.weights)
        if not isinstance(encoder, ReadsStyles):
            raise UserError(
                f"The encoder {self.encoder!r} gives no style vectors that the objective 'in-domain' can compare: use"
                " one into w+, such as 'psp' or 'e4e'."
            )
        styles = bound_styles(view, attempt, self.name)
        return (styles - encoder.style_vectors(view, attempt.render())).square().flatten(1).mean(1)


objectives.register("in-domain", InDomain)
