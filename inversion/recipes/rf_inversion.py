"""Inversions of rectified flows: RF-Inversion (Rout et al. 2024) and RF-Solver (Wang et al. 2024)."""

from inversion.methods.controlled import ControlledFlow
from inversion.methods.ode import InvertSteps
from inversion.spaces.latents import Anchor
from inversion.spaces.noise import StartNoise
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "rf-inversion",
    Recipe(
        name="rf-inversion",
        stages=(Stage((StartNoise(), Anchor(eta=0.9, end=0.25)), ControlledFlow(steps=28, gamma=0.5)),),
        scheme="prompt",
        cite="Rout et al. 2024, Semantic Image Inversion and Editing using Rectified Stochastic Differential Equations",
        summary="Start noise drawn towards a typical one, and a pull back to the picture over the first steps.",
    ),
)

recipes.register(
    "rf-solver",
    Recipe(
        name="rf-solver",
        stages=(Stage((StartNoise(),), InvertSteps(steps=25, solver="rf-solver")),),
        scheme="prompt",
        cite="Wang et al. 2024, Taming Rectified Flow for Inversion and Editing, section 3.2",
        summary="Start noise by a second-order solver of the flow.",
    ),
)
