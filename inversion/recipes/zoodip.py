"""ZOODiP (Seo et al. 2025): a word by zeroth-order optimisation, through quantised weights.

5000 steps here, 30000 in the paper, in the proportion of textual inversion's steps.
"""

from inversion.methods.zeroth_order import ZerothOrder
from inversion.spaces.textual import Word
from inversion.templates import PORTRAIT_TEMPLATES
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "zoodip",
    Recipe(
        name="zoodip",
        stages=(Stage((Word(),), ZerothOrder(templates=PORTRAIT_TEMPLATES)),),
        scheme="prompt",
        cite="Seo et al. 2025, Efficient Personalization of Quantized Diffusion Model without Backpropagation",
        summary="A word by two-point estimates of the gradient through 8-bit weights, freed of noisy directions.",
        requires=frozenset({"category"}),
    ),
)
