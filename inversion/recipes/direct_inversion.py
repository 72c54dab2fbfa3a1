"""Direct inversion (Ju et al. 2023)."""

from inversion.methods.direct import DirectInversion
from inversion.spaces.noise import Differences, StartNoise
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "direct-inversion",
    Recipe(
        name="direct-inversion",
        stages=(Stage((StartNoise(), Differences()), DirectInversion(steps=50, guidance=7.5)),),
        scheme="prompt",
        cite="Ju et al. 2023, PnP Inversion: Boosting Diffusion-based Editing with 3 Lines of Code, algorithm 1",
        summary="DDIM start noise, and a correction of each step of the source branch: exact at any guidance.",
        sampling={"guidance": 7.5},
    ),
)
