"""Edit-friendly DDPM inversion (Huberman-Spiegelglas et al. 2024), with the paper's settings."""

from inversion.methods.edit_friendly import EditFriendly
from inversion.spaces.noise import StepNoise
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "ddpm-inversion",
    Recipe(
        name="ddpm-inversion",
        stages=(Stage((StepNoise(),), EditFriendly(steps=100, guidance=3.5)),),
        scheme="prompt",
        cite="Huberman-Spiegelglas et al. 2024, An Edit Friendly DDPM Noise Space, sections 3.2 and 4",
        summary="The noise of every ancestral step: exact reconstruction, edited by another prompt.",
        sampling={"guidance": 15.0, "skip": 0.36},
    ),
)
