"""ProSpect (Zhang et al. 2023): a word for every stage of sampling."""

from inversion.methods.optimize import Optimize
from inversion.spaces.spectrum import StageWords
from inversion.templates import PORTRAIT_TEMPLATES
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "prospect",
    Recipe(
        name="prospect",
        stages=(Stage((StageWords(stages=10),), Optimize(steps=1000, lr=5e-3, templates=PORTRAIT_TEMPLATES)),),
        scheme="prompt",
        cite="Zhang et al. 2023, ProSpect: Prompt Spectrum for Attribute-Aware Personalization, section 3.2",
        summary="Ten embedding rows, one for each tenth of the noise levels.",
        requires=frozenset({"category"}),
    ),
)
