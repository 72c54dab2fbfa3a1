"""DreamBooth (Ruiz et al. 2023): all weights of the generator, and pictures of the class against drift."""

from inversion.methods.optimize import Optimize
from inversion.objectives.error import Error
from inversion.objectives.prior import PriorPreservation
from inversion.spaces.parameter import Weights
from inversion.templates import PORTRAIT_TEMPLATES
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "dreambooth",
    Recipe(
        name="dreambooth",
        stages=(
            Stage(
                (Weights(),),
                Optimize(
                    steps=800,
                    lr=5e-6,
                    objectives=(Error(), PriorPreservation(pictures=100)),
                    batch=1,
                    templates=PORTRAIT_TEMPLATES,
                ),
            ),
        ),
        scheme="prompt",
        cite="Ruiz et al. 2023, DreamBooth: Fine Tuning Text-to-Image Diffusion Models, section 3",
        summary="All weights, bound to the word sks before the category; prior preservation on sampled pictures.",
        carrier="a sks {category}",
        requires=frozenset({"category"}),
    ),
)
