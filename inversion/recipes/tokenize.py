"""The tokenizer's nearest codes (survey section 5)."""

from inversion.methods.encode import Encode
from inversion.spaces.token import VisualTokens
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "tokenize",
    Recipe(
        name="tokenize",
        stages=(Stage((VisualTokens(),), Encode()),),
        scheme="prompt",
        carrier="the same {category}",
        cite="van den Oord et al. 2017, Neural Discrete Representation Learning, equation 1",
        summary="Nearest visual tokens; with a prompt they stand in the context as a reference picture.",
    ),
)
