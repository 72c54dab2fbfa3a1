"""A soft prompt for an autoregressive model: embedding rows, everything else frozen."""

from inversion.methods.optimize import Optimize
from inversion.spaces.textual import Word
from inversion.templates import PORTRAIT_TEMPLATES
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "soft-prompt",
    Recipe(
        name="soft-prompt",
        stages=(
            Stage(
                (Word(vectors=4),),
                Optimize(steps=300, lr=1e-2, templates=PORTRAIT_TEMPLATES),
            ),
        ),
        scheme="prompt",
        cite="Sun et al. 2025, Personalized Text-to-Image Generation with Auto-Regressive Models, stage 1",
        summary="Embedding rows learnt by cross-entropy on the pictures' visual tokens.",
        requires=frozenset({"category"}),
    ),
)
