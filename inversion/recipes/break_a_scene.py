"""Break-A-Scene (Avrahami et al. 2023): a concept out of a scene, by its mask.

One concept at a time: the union sampling of several concepts of one picture is left out, and in the second
stage the word stays as the first stage left it.
"""

from inversion.methods.optimize import Optimize
from inversion.objectives.attention_mask import AttentionMask
from inversion.objectives.masked import MaskedError
from inversion.objectives.prior import PriorPreservation
from inversion.spaces.parameter import TextWeights, Weights
from inversion.spaces.textual import Word
from inversion.templates import PORTRAIT_TEMPLATES
from unified.contract.recipe import Recipe, Stage, recipes

OBJECTIVES = (MaskedError(), AttentionMask(weight=1e-2), PriorPreservation(pictures=100))

recipes.register(
    "break-a-scene",
    Recipe(
        name="break-a-scene",
        stages=(
            Stage((Word(),), Optimize(steps=400, lr=5e-4, objectives=OBJECTIVES, templates=PORTRAIT_TEMPLATES)),
            Stage(
                (Weights(), TextWeights()),
                Optimize(steps=400, lr=2e-6, objectives=OBJECTIVES, templates=PORTRAIT_TEMPLATES),
            ),
        ),
        scheme="prompt",
        cite="Avrahami et al. 2023, Break-A-Scene: Extracting Multiple Concepts from a Single Image, section 3",
        summary="The word, then all weights; the error and the attention of the word count inside of the mask.",
        requires=frozenset({"category", "masks"}),
    ),
)
