"""Pivotal tuning (Roich et al. 2022): a pivot in W, then the generator's weights around it.

The pivot keeps the noise maps that it was found with: tuning with other maps than the pivot's would first
have to undo that mismatch.
"""

from inversion.methods.optimize import Optimize, Stop
from inversion.objectives.error import Error
from inversion.objectives.perceptual import Perceptual
from inversion.recipes.projector import PIVOT
from inversion.spaces.parameter import Weights
from unified.contract.kinds import Evidence
from unified.contract.recipe import Recipe, Stage, recipes

#: All synthesis weights around the pivot that is bound.
TUNING = Stage(
    (Weights(paths=r"^synthesis\."),),
    Optimize(
        steps=350,
        lr=3e-4,
        objectives=(Error(), Perceptual()),
        evidence=Evidence.RENDER,
        stop=Stop("perceptual", 0.002),
    ),
)

recipes.register(
    "pti",
    Recipe(
        name="pti",
        stages=(PIVOT, TUNING),
        scheme="latent-edit",
        cite="Roich et al. 2022, Pivotal Tuning for Latent-based Editing of Real Images, section 3",
        summary="W pivot, then all synthesis weights by squared pixels plus LPIPS.",
    ),
)
