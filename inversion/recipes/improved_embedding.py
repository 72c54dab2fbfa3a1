"""Improved StyleGAN embedding (Zhu et al. 2020, II2S): W+ held to where the mapping network puts w."""

from inversion.methods.optimize import Optimize
from inversion.objectives.distribution import Distribution
from inversion.objectives.error import Error
from inversion.objectives.perceptual import Perceptual
from inversion.spaces.style import WPlus
from unified.contract.kinds import Evidence
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "improved-embedding",
    Recipe(
        name="improved-embedding",
        stages=(
            Stage(
                (WPlus(),),
                Optimize(
                    steps=300,
                    lr=0.05,
                    objectives=(Error(), Perceptual(), Distribution(weight=1e-3)),
                    evidence=Evidence.RENDER,
                ),
            ),
        ),
        scheme="latent-edit",
        cite="Zhu et al. 2020, Improved StyleGAN Embedding: Where are the Good Latents?, section 3.3",
        summary="W+ by pixels and perceptual distance, with the squared P_N+ norm as a prior, for editability.",
    ),
)
