"""SVDiff (Han et al. 2023): the singular values of all weights."""

from inversion.methods.optimize import Optimize
from inversion.objectives.error import Error
from inversion.objectives.prior import PriorPreservation
from inversion.spaces.spectral import SpectralShifts
from inversion.templates import PORTRAIT_TEMPLATES
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "svdiff",
    Recipe(
        name="svdiff",
        stages=(
            Stage(
                (SpectralShifts(),),
                Optimize(
                    steps=500,
                    lr=1e-3,
                    objectives=(Error(), PriorPreservation(pictures=100)),
                    batch=1,
                    templates=PORTRAIT_TEMPLATES,
                ),
            ),
        ),
        scheme="prompt",
        cite="Han et al. 2023, SVDiff: Compact Parameter Space for Diffusion Fine-Tuning, section 3",
        summary="Shifts of the singular values of every matrix and convolution; prior preservation.",
        carrier="a sks {category}",
        requires=frozenset({"category"}),
    ),
)
