"""DDIM inversion (Song et al. 2021, section 4.3)."""

from inversion.methods.ode import InvertSteps
from inversion.spaces.noise import StartNoise
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "ddim-inversion",
    Recipe(
        name="ddim-inversion",
        stages=(Stage((StartNoise(),), InvertSteps(steps=50)),),
        scheme="prompt",
        cite="Song et al. 2021, Denoising Diffusion Implicit Models, section 4.3",
        summary="The start noise that the deterministic sampler takes to the picture.",
    ),
)
