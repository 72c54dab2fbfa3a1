"""In-domain inversion (Zhu et al. 2020): an encoder's answer, then descent that the encoder must recognise.

Two differences from the paper. E is pSp's encoder: it was trained on real pictures through the generator, as the
paper's is (equation 3), but without its adversarial term. And the perceptual distance is LPIPS; the rate is five
times the paper's, as for the other recipes in W+ here.
"""

from inversion.methods.learned import Learned
from inversion.methods.optimize import Optimize
from inversion.objectives.error import Error
from inversion.objectives.in_domain import InDomain
from inversion.objectives.perceptual import Perceptual
from unified.contract.kinds import Evidence
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "idinvert",
    Recipe(
        name="idinvert",
        stages=(
            Stage("w+", Learned("psp")),
            Stage(
                "w+",
                Optimize(
                    steps=100,
                    lr=0.05,
                    objectives=(Error(weight=4.0), Perceptual(), InDomain()),
                    evidence=Evidence.RENDER,
                ),
            ),
        ),
        scheme="latent-edit",
        cite="Zhu et al. 2020, In-Domain GAN Inversion for Real Image Editing, section 3",
        summary="pSp's W+, then W+ by pixels and LPIPS, held to what the encoder reads off its picture.",
    ),
)
