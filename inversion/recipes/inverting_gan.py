"""Inverting the generator (Creswell & Bharath 2018): the latent z by descent, many pictures in one batch."""

from inversion.methods.optimize import Optimize
from inversion.objectives.error import Error
from inversion.spaces.latent import Z
from unified.contract.kinds import Evidence
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "inverting-gan",
    Recipe(
        name="inverting-gan",
        stages=(
            Stage(
                (Z(density=1e-3),),
                Optimize(steps=500, lr=0.05, schedule="cosine", objectives=(Error(),), evidence=Evidence.RENDER),
            ),
        ),
        scheme="latent-edit",
        cite="Creswell & Bharath 2018, Inverting the Generator of a Generative Adversarial Network, section 3",
        summary="z from a random start by squared pixels, with the density of z as a prior.",
    ),
)
