"""Image2StyleGAN++ (Abdal et al. 2020): W+ and then the noise maps, inside of masks where there are any."""

from inversion.methods.optimize import Optimize
from inversion.objectives.masked import MaskedError, MaskedPerceptual
from inversion.objectives.style import Style
from inversion.spaces.style import NoiseMaps, WPlus
from unified.contract.kinds import Evidence
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "image2stylegan++",
    Recipe(
        name="image2stylegan++",
        stages=(
            Stage(
                (WPlus(),),
                Optimize(
                    steps=300,
                    lr=0.05,
                    objectives=(MaskedError(), MaskedPerceptual(), Style(weight=5e-5)),
                    evidence=Evidence.RENDER,
                ),
            ),
            # One after the other: found together, the noise takes what w should explain (section 3.1).
            Stage(
                (NoiseMaps(free=True, regularity=0.0),),
                Optimize(steps=200, lr=0.1, objectives=(MaskedError(),), evidence=Evidence.RENDER),
            ),
        ),
        scheme="latent-edit",
        cite="Abdal et al. 2020, Image2StyleGAN++: How to Edit the Embedded Images?, sections 3.1 and 3.2",
        summary="W+ by pixels, perceptual and style distance, then free noise maps by pixels; all inside of masks.",
    ),
)
