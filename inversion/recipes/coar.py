"""CoAR (Wu et al. 2025): layer-wise learnt tokens, everything else frozen.

One text and one image token in each of the first nine layers, as in the paper for subjects; its
prior-preservation and self-regularisation terms are left out, so that this is its context alone.
"""

from inversion.methods.optimize import Optimize
from inversion.spaces.remembered import LayerTokens
from inversion.templates import PORTRAIT_TEMPLATES
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "coar",
    Recipe(
        name="coar",
        stages=(
            Stage(
                (LayerTokens(text=1, image=1, depth=9),),
                Optimize(steps=1000, lr=1e-2, templates=PORTRAIT_TEMPLATES),
            ),
        ),
        scheme="prompt",
        cite="Wu et al. 2025, CoAR: Concept Injection into Autoregressive Models for Personalized Generation",
        summary="A text and an image token for each of the first nine layers (without the paper's regularisers).",
        requires=frozenset({"category"}),
    ),
)
