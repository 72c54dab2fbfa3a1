"""Personalized Residuals (Ham et al. 2024): low-rank residuals of the output projections."""

from inversion.methods.optimize import Optimize
from inversion.spaces.low_rank import Residual
from inversion.templates import PORTRAIT_TEMPLATES
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "personalized-residuals",
    Recipe(
        name="personalized-residuals",
        stages=(Stage((Residual(fraction=0.05),), Optimize(steps=150, lr=1e-3, templates=PORTRAIT_TEMPLATES)),),
        scheme="prompt",
        cite="Ham et al. 2024, Personalized Residuals for Concept-Driven Text-to-Image Generation, section 3.1",
        summary="Low-rank residuals behind each block of transformers; sampled without localisation.",
        carrier="a sks {category}",
        requires=frozenset({"category"}),
    ),
)
