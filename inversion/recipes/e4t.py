"""E4T (Gal et al. 2023): an encoder's word and weight offsets, then a few steps of tuning for the concept.

The codes themselves are tuned, and not the encoder behind them; their rates are those of words and low-rank changes.
"""

from inversion.methods.optimize import Optimize
from inversion.spaces.e4t import EncodedWord, WeightOffsets
from inversion.templates import PORTRAIT_TEMPLATES
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "e4t",
    Recipe(
        name="e4t",
        stages=(
            Stage(
                (EncodedWord(), WeightOffsets()),
                Optimize(steps=15, lr=1e-3, lrs={"e4t": 1e-2}, templates=PORTRAIT_TEMPLATES),
            ),
        ),
        scheme="prompt",
        cite="Gal et al. 2023, Encoder-based Domain Tuning for Fast Personalization of Text-to-Image Models, section 3",
        summary="A word that an encoder predicts, and weight offsets of the attention; 15 steps of tuning.",
        requires=frozenset({"category"}),
    ),
)
