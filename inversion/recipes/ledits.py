"""LEDITS++ (Brack et al. 2024)."""

from inversion.methods.edit_friendly import EditFriendly
from inversion.spaces.noise import StepNoise
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "ledits++",
    Recipe(
        name="ledits++",
        stages=(
            Stage(
                (StepNoise(),), EditFriendly(steps=30, skip=0.15, solver="sde-dpm-solver++", guidance=3.5, prompt="")
            ),
        ),
        scheme="ledits++",
        cite="Brack et al. 2024, LEDITS++: Limitless Image Editing using Text-to-Image Models",
        summary="The noise of every step of a fast stochastic solver; edits by masked guidance for each concept.",
    ),
)
