"""What a code in a noise space does to sampling."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from unified.contract.abilities import Denoises, Level
from unified.contract.code import Code
from unified.contract.kinds import Clash, Evidence, Kind
from unified.contract.random import Random
from unified.contract.reference import Reference
from unified.contract.space import Space, space_of
from unified.contract.view import View
from unified.denoising.measure import reconstruction_error
from unified.errors import UserError

Rows = Mapping[str, Tensor]
"""A code's tensors at the rows of the batch that is sampled."""


@dataclass(frozen=True)
class NoiseSpace(Space):
    """A space of noises; what its codes change in sampling is said by the methods, each neutral by default.

    slot: the place of the view that a code fills. sets_negative: whether it replaces the negative prompt.
    scales: whether scaling a concept changes what the code does; where nothing of a concept scales, it is refused.
    A code's meta holds what sampling must honour:
    "sampling": settings of the sampler that are fixed by the inversion, other ones are refused;
    "reconstruction": settings to use when no prompt is given, so that the pictures come back;
    "pictures": for each picture {"prompt": the text it was inverted with}.
    """

    kind: ClassVar[Kind] = Kind.NOISE
    clash: ClassVar[Clash] = Clash.SLOT
    needs: ClassVar[tuple[type, ...]] = (Denoises,)
    per_picture: ClassVar[bool] = True
    learns_from: ClassVar[frozenset[Evidence]] = frozenset()  # the training error draws its own noise
    slot: ClassVar[str]
    sets_negative: ClassVar[bool] = False
    scales: ClassVar[bool] = False

    def initial(self, view: View, reference: Reference, *, rng: Random) -> Code:
        raise UserError(f"The space {self.name!r} has no point to start from: use a recipe that fills it.")

    def bind(self, view: View, code: Code, name: str) -> None:
        codes = view.concepts[view.binding.concept].codes
        if view.binding.weight != 1 and not any(_scales(space_of(each)) for each in codes):
            raise UserError(
                f"The concept {name} was scaled to {view.binding.weight:g}, but a code in {self.name!r} has no"
                " strength: bind it unscaled, and change the sampler's guidance or skip instead."
            )
        view.slot(self.slot, code, lambda: code.tensors)

    def measure(self, view: View, code: Code, reference: Reference) -> Mapping[str, list[float]]:
        return reconstruction_error(view, reference)

    def data(self, rows: Rows) -> Tensor | None:
        """The latents of the pictures themselves, where the code has them: nothing is sampled without a prompt."""
        return None

    def start(self, rows: Rows, *, level: Level, first: int, steps: int, noise: Callable[[], Tensor]) -> Tensor | None:
        """The latents at `level`, which step `first` of `steps` begins with, or None.

        noise: standard normal numbers [rows, *latent shape]. Raises UserError if it has no latents there.
        """
        return None

    def negative(self, rows: Rows, condition: Mapping[str, Tensor], *, number: int) -> Mapping[str, Tensor]:
        """The condition of the negative side of guidance at step `number`."""
        return condition

    def steer(
        self, rows: Rows, x: Tensor, x0: Tensor, eps: Tensor, *, level: Level, number: int, steps: int
    ) -> tuple[Tensor, Tensor]:
        """The (x0, eps) to go on with at step `number`."""
        return x0, eps

    def offset(self, rows: Rows, *, number: int, steps: int, source: int) -> Tensor | None:
        """What to add after step `number`, instead of new noise; the first `source` rows go as inverted."""
        return None


def _scales(space: Space) -> bool:
    return space.scales if isinstance(space, NoiseSpace) else True


def inverted(
    space: Space,
    tensors: Mapping[str, Tensor],
    *,
    prompts: Sequence[str],
    sampling: Mapping[str, Any],
    reconstruction: Mapping[str, Any],
) -> Code:
    """A code of a noise space with the meta that sampling honours; see :class:`NoiseSpace`."""
    meta = {
        "settings": space.settings(),
        "sampling": dict(sampling),
        "reconstruction": dict(reconstruction),
        "pictures": [{"prompt": prompt} for prompt in prompts],
    }
    return Code(space.name, dict(tensors), True, meta)
