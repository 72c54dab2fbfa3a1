"""The projector of StyleGAN2 (Karras et al. 2020, appendix D): one w, and the noise maps."""

from inversion.methods.optimize import Optimize
from inversion.objectives.perceptual import Perceptual
from inversion.spaces.style import NoiseMaps, W
from unified.contract.kinds import Evidence
from unified.contract.recipe import Recipe, Stage, recipes

#: One w with the noise maps that it was found with; the first stage of PTI too.
PIVOT = Stage(
    (W(exploration=0.05),),
    Optimize(
        steps=300,
        lr=0.1,
        schedule="projector",
        objectives=(Perceptual(),),
        evidence=Evidence.RENDER,
        keep="last",
    ),
    also=(NoiseMaps(),),
)

recipes.register(
    "projector",
    Recipe(
        name="projector",
        stages=(PIVOT,),
        scheme="latent-edit",
        cite="Karras et al. 2020, Analyzing and Improving the Image Quality of StyleGAN, appendix D",
        summary="One w for the whole picture, found by LPIPS with fading noise; noise maps regularised.",
    ),
)
