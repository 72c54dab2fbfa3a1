"""Settings of a sampler that denoises."""

from __future__ import annotations

from dataclasses import dataclass

from unified.contract.backbone import Sampling
from unified.denoising.solvers import SOLVERS
from unified.errors import UserError


@dataclass(frozen=True)
class DenoisingSampling(Sampling):
    """How to go from noise to data.

    steps: denoising steps. guidance: weight of classifier-free guidance (1: none). solver: a name in
    `solvers.SOLVERS`. skip: share of the steps, from the noisiest on, to leave out, in 0..1; for concepts that
    know the picture's latents at a less noisy level.
    """

    steps: int = 25
    guidance: float = 5.0
    solver: str = "ddim"
    skip: float = 0.0

    def __post_init__(self) -> None:
        if self.solver not in SOLVERS:
            raise UserError(f"solver={self.solver!r} was given; choose one of {', '.join(sorted(SOLVERS))}.")
        if not 0 <= self.skip < 1:
            raise UserError(f"skip={self.skip} was given; it is a share of the steps, at least 0 and below 1.")

    @property
    def first(self) -> int:
        """Number of the first step that is taken."""
        return first_step(self.skip, self.steps)


def first_step(skip: float, steps: int) -> int:
    """The step to begin with if the share `skip` of `steps` is left out; at least one is taken."""
    return min(round(skip * steps), steps - 1)
