"""Textual Inversion (Gal et al. 2022): a new word."""

from inversion.methods.optimize import Optimize
from inversion.spaces.textual import Word
from inversion.templates import PORTRAIT_TEMPLATES
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "textual-inversion",
    Recipe(
        name="textual-inversion",
        stages=(
            Stage(
                (Word(),),
                Optimize(steps=400, lr=5e-3, templates=PORTRAIT_TEMPLATES),
            ),
        ),
        scheme="prompt",
        cite="Gal et al. 2022, An Image is Worth One Word, equation 2",
        summary="One embedding row, started at the class word, everything else frozen.",
        requires=frozenset({"category"}),
    ),
)
