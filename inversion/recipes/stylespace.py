"""Inversion in StyleSpace (Wu et al. 2021): every channel's modulation on its own."""

from inversion.methods.optimize import Optimize
from inversion.objectives.error import Error
from inversion.objectives.perceptual import Perceptual
from inversion.spaces.channels import StyleChannels
from unified.contract.kinds import Evidence
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "stylespace",
    Recipe(
        name="stylespace",
        stages=(
            Stage(
                (StyleChannels(),),
                Optimize(steps=300, lr=0.05, objectives=(Error(), Perceptual()), evidence=Evidence.RENDER),
            ),
        ),
        scheme="latent-edit",
        cite="Wu et al. 2021, StyleSpace Analysis: Disentangled Controls for StyleGAN Image Generation, section 3",
        summary="S from the mean w's channels, squared pixels plus perceptual distance.",
    ),
)
