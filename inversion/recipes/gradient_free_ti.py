"""Gradient-free textual inversion (Fei et al. 2023): evolution of a word in a subspace of the vocabulary.

The word begins at the class word; the authors choose its beginning among the vocabulary by CLIP's similarity.
"""

from inversion.methods.evolution import Evolution
from inversion.spaces.word_subspace import WordSubspace
from inversion.templates import PORTRAIT_TEMPLATES
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "gradient-free-ti",
    Recipe(
        name="gradient-free-ti",
        stages=(
            Stage((WordSubspace(dimensions=256),), Evolution(steps=250, population=20, templates=PORTRAIT_TEMPLATES)),
        ),
        scheme="prompt",
        cite="Fei et al. 2023, Gradient-Free Textual Inversion, section 3",
        summary="CMA-ES over 256 directions of the vocabulary: 5000 evaluations, no gradient.",
        requires=frozenset({"category"}),
    ),
)
