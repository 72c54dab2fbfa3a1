"""DPM-Solver++ inversion (Lu et al. 2022)."""

from inversion.methods.ode import InvertSteps
from inversion.spaces.noise import StartNoise
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "dpm-solver-inversion",
    Recipe(
        name="dpm-solver-inversion",
        stages=(Stage((StartNoise(),), InvertSteps(steps=25, solver="dpm-solver++")),),
        scheme="prompt",
        cite="Lu et al. 2022, DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models,"
        " algorithm 1, run backwards",
        summary="Start noise by a second-order multistep solver.",
    ),
)
