"""Yo'Chameleon (Nguyen et al. 2025): soft prompts for drawing and for understanding, from soft positives."""

from inversion.methods.soft_positives import SoftPositives
from inversion.spaces.dual_prompt import DualPrompt
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "yo-chameleon",
    Recipe(
        name="yo-chameleon",
        stages=(Stage((DualPrompt(generation=16, understanding=16),), SoftPositives()),),
        scheme="prompt",
        cite="Nguyen et al. 2025, Yo'Chameleon: Personalized Vision and Language Generation",
        summary="16 tokens to draw it and 16 to know it; the more a picture is like it, the more tokens explain it.",
        requires=frozenset({"category"}),
    ),
)
recipes.register(
    "yo-chameleon-drawing",
    Recipe(
        name="yo-chameleon-drawing",
        stages=(Stage((DualPrompt(generation=16, understanding=0),), SoftPositives()),),
        scheme="prompt",
        cite="Nguyen et al. 2025, Yo'Chameleon: Personalized Vision and Language Generation, image generation alone",
        summary="The tokens to draw it alone, for models that were never trained to answer questions.",
        requires=frozenset({"category"}),
    ),
)
