"""CatVersion (Zhao et al. 2023): keys and values appended inside of the text encoder."""

from inversion.methods.optimize import Optimize
from inversion.spaces.text_prefix import TextPrefix
from inversion.templates import PORTRAIT_TEMPLATES
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "catversion",
    Recipe(
        name="catversion",
        stages=(Stage((TextPrefix(layers=3),), Optimize(steps=1000, lr=1e-3, templates=PORTRAIT_TEMPLATES)),),
        scheme="prompt",
        cite="Zhao et al. 2023, CatVersion: Concatenating Embeddings for Diffusion-Based Personalization, section 3.3",
        summary="One more key and value in the last three self-attentions of the text encoder.",
        requires=frozenset({"category"}),
    ),
)
