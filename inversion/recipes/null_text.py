"""Null-text (Mokady et al. 2023) and negative-prompt inversion (Miyake et al. 2023)."""

from inversion.methods.null_text import NegativePrompt, NullText
from inversion.spaces.noise import StartNoise, Unconditional
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "null-text",
    Recipe(
        name="null-text",
        stages=(Stage((StartNoise(), Unconditional()), NullText(steps=50, guidance=7.5)),),
        scheme="prompt",
        cite="Mokady et al. 2023, Null-text Inversion for Editing Real Images using Guided Diffusion Models",
        summary="DDIM start noise, and an empty-prompt embedding for each step that keeps guidance on its path.",
        sampling={"guidance": 7.5},
    ),
)

recipes.register(
    "negative-prompt-inversion",
    Recipe(
        name="negative-prompt-inversion",
        stages=(Stage((StartNoise(), Unconditional()), NegativePrompt(steps=50, guidance=7.5)),),
        scheme="prompt",
        cite="Miyake et al. 2023, Negative-prompt Inversion: Fast Image Inversion for Editing with Text-guided"
        " Diffusion Models",
        summary="DDIM start noise, and the source prompt in place of the empty one: null-text without optimisation.",
        sampling={"guidance": 7.5},
    ),
)
