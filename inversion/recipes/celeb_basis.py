"""Celeb Basis (Yuan et al. 2023): a word among the names of well-known people."""

from inversion.methods.optimize import Optimize
from inversion.spaces.name_basis import NameBasis
from inversion.templates import PORTRAIT_TEMPLATES
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "celeb-basis",
    Recipe(
        name="celeb-basis",
        stages=(Stage((NameBasis(),), Optimize(steps=800, lr=5e-3, templates=PORTRAIT_TEMPLATES)),),
        scheme="prompt",
        cite="Yuan et al. 2023, Inserting Anybody in Diffusion Models via Celeb Basis, section 3",
        summary="Coefficients over the principal directions of known first and last names.",
    ),
)
