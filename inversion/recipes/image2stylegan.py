"""Image2StyleGAN (Abdal et al. 2019): one w for each layer."""

from inversion.methods.optimize import Optimize
from inversion.objectives.error import Error
from inversion.objectives.perceptual import Perceptual
from inversion.spaces.style import WPlus
from unified.contract.kinds import Evidence
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "image2stylegan",
    Recipe(
        name="image2stylegan",
        stages=(
            Stage(
                (WPlus(),),
                Optimize(
                    steps=300,
                    lr=0.05,
                    objectives=(Error(), Perceptual()),
                    evidence=Evidence.RENDER,
                ),
            ),
        ),
        scheme="latent-edit",
        cite="Abdal et al. 2019, Image2StyleGAN: How to Embed Images Into the StyleGAN Latent Space?",
        summary="W+ from the mean w, squared pixels plus perceptual distance.",
    ),
)
