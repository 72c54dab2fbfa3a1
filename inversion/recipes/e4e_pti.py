"""Pivotal tuning around e4e's code (Roich et al. 2022): the search for the pivot is left out.

The paper takes its pivot in W by optimisation, since codes farther from W edit worse; e4e's codes stay close to W.
"""

from inversion.methods.learned import Learned
from inversion.recipes.pti import TUNING
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "e4e-pti",
    Recipe(
        name="e4e-pti",
        stages=(Stage("w+", Learned("e4e")), TUNING),
        scheme="latent-edit",
        cite="Roich et al. 2022, Pivotal Tuning for Latent-based Editing of Real Images, section 3, from the pivot"
        " of Tov et al. 2021",
        summary="e4e's W+ as pivot, then all synthesis weights by squared pixels plus LPIPS.",
    ),
)
