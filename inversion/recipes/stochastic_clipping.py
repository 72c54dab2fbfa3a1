"""Stochastic clipping (Lipton & Tripathi 2017): the latent z by descent, kept inside the prior's support."""

from inversion.methods.optimize import Optimize
from inversion.objectives.error import Error
from inversion.spaces.latent import Z
from unified.contract.kinds import Evidence
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "stochastic-clipping",
    Recipe(
        name="stochastic-clipping",
        stages=(
            Stage(
                (Z(clipping="stochastic"),),
                Optimize(steps=500, lr=0.05, schedule="cosine", objectives=(Error(),), evidence=Evidence.RENDER),
            ),
        ),
        scheme="latent-edit",
        cite="Lipton & Tripathi 2017, Precise Recovery of Latent Vectors from Generative Adversarial Networks",
        summary="z from a random start by squared pixels; numbers that leave the prior's range are drawn anew.",
    ),
)
