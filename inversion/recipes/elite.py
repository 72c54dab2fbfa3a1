"""ELITE (Wei et al. 2023): a picture to a word and patch features, by trained networks."""

from inversion.methods.encode import Encode
from inversion.spaces.elite import WordAndPatches
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "elite",
    Recipe(
        name="elite",
        stages=(Stage((WordAndPatches(),), Encode()),),
        scheme="prompt",
        cite="Wei et al. 2023, ELITE: Encoding Visual Concepts into Textual Embeddings, section 3",
        summary="A global mapping to a word, and patches where the word is looked at; no optimisation.",
    ),
)
