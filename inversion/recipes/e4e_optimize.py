"""Hybrid inversion (Zhu et al. 2016, section 3.2): an encoder's answer, then descent from there.

Here the encoder is e4e and the code is one of W+, by squared pixels and LPIPS.
"""

from inversion.methods.learned import Learned
from inversion.methods.optimize import Optimize
from inversion.objectives.error import Error
from inversion.objectives.perceptual import Perceptual
from unified.contract.kinds import Evidence
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "e4e-optimize",
    Recipe(
        name="e4e-optimize",
        stages=(
            Stage("w+", Learned("e4e")),
            Stage(
                "w+",
                Optimize(
                    steps=200,
                    lr=0.01,
                    schedule="cosine",
                    objectives=(Error(weight=4.0), Perceptual()),
                    evidence=Evidence.RENDER,
                ),
            ),
        ),
        scheme="latent-edit",
        cite="Zhu et al. 2016, Generative Visual Manipulation on the Natural Image Manifold, section 3.2",
        summary="e4e's W+, then W+ by squared pixels plus LPIPS from there.",
    ),
)
