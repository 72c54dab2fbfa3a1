"""PTI with its locality regulariser (Roich et al. 2022, section 3.2): the generator stays as it was elsewhere."""

from dataclasses import replace

from inversion.methods.optimize import Optimize
from inversion.objectives.locality import Locality
from inversion.recipes.projector import PIVOT
from inversion.recipes.pti import TUNING
from unified.contract.recipe import Recipe, Stage, recipes

assert isinstance(TUNING.method, Optimize)

recipes.register(
    "pti-locality",
    Recipe(
        name="pti-locality",
        stages=(
            PIVOT,
            Stage(TUNING.spaces, replace(TUNING.method, objectives=(*TUNING.method.objectives, Locality(weight=0.1)))),
        ),
        scheme="latent-edit",
        cite="Roich et al. 2022, Pivotal Tuning for Latent-based Editing of Real Images, equations 4 to 6",
        summary="PTI, the tuned generator held to the untuned one at random codes near the pivot.",
    ),
)
