"""Projected gradient descent (Shah & Hegde 2018): steps towards the measured pixels, each projected onto the range
of the generator. Masks say which pixels are measured; the generator fills in the others."""

from inversion.methods.optimize import Optimize
from inversion.objectives.projected import ProjectedTarget
from inversion.spaces.latent import Z
from unified.contract.kinds import Evidence
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "pgd",
    Recipe(
        name="pgd",
        stages=(
            Stage(
                (Z(starts=8),),
                Optimize(
                    steps=450,
                    lr=0.05,
                    objectives=(ProjectedTarget(every=30, rate=0.5),),
                    evidence=Evidence.RENDER,
                    keep="last",  # the target moves, so errors of different steps do not compare
                ),
            ),
        ),
        scheme="latent-edit",
        cite="Shah & Hegde 2018, Solving Linear Inverse Problems Using GAN Priors, algorithm 1",
        summary="z by squared pixels to a target that steps towards the measured pixels every 30 steps.",
    ),
)
