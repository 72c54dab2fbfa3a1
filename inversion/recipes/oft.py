"""OFT (Qiu et al. 2023): rotations of the attention weights."""

from inversion.methods.optimize import Optimize
from inversion.objectives.error import Error
from inversion.objectives.prior import PriorPreservation
from inversion.spaces.orthogonal import OFT
from inversion.templates import PORTRAIT_TEMPLATES
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "oft",
    Recipe(
        name="oft",
        stages=(
            Stage(
                (OFT(),),
                Optimize(
                    steps=500,
                    lr=1e-4,
                    objectives=(Error(), PriorPreservation(pictures=100)),
                    batch=1,
                    templates=PORTRAIT_TEMPLATES,
                ),
            ),
        ),
        scheme="prompt",
        cite="Qiu et al. 2023, Controlling Text-to-Image Diffusion by Orthogonal Finetuning, section 3",
        summary="Block-diagonal rotations by the Cayley transform, which keep all angles between neurons.",
        carrier="a sks {category}",
        requires=frozenset({"category"}),
    ),
)
