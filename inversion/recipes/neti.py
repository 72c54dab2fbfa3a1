"""NeTI (Alaluf et al. 2023): a word that a small network makes from time and layer."""

from inversion.methods.optimize import Optimize
from inversion.spaces.neti import NeuralMapper
from inversion.templates import PORTRAIT_TEMPLATES
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "neti",
    Recipe(
        name="neti",
        stages=(Stage((NeuralMapper(),), Optimize(steps=1000, lr=1e-3, templates=PORTRAIT_TEMPLATES)),),
        scheme="prompt",
        cite="Alaluf et al. 2023, A Neural Space-Time Representation for Text-to-Image Personalization, section 4",
        summary="A mapper from (time, layer) to the word and to a bypass of the text encoder; nested dropout.",
        requires=frozenset({"category"}),
    ),
)
