"""BDInvert (Kang et al. 2021): features of 16 px for the coarse layout, W+ for the layers after them.

Features have places, so what W+ cannot hold, such as a shifted or turned face, can be inverted. The paper begins at
the features that an encoder predicts and at the mean w; here a first stage in W+ takes the encoder's place: F_0 are
its features.
"""

from inversion.methods.optimize import Optimize
from inversion.objectives.anchor import Anchor
from inversion.objectives.distribution import Distribution
from inversion.objectives.error import Error
from inversion.objectives.perceptual import Perceptual
from inversion.spaces.feature_maps import FeatureMaps
from inversion.spaces.style import WPlus
from unified.contract.kinds import Evidence
from unified.contract.recipe import Recipe, Stage, recipes

#: The paper's pictures are in -1..1, where squared differences are four times ours.
_RECONSTRUCTION = (Error(weight=4.0), Perceptual(weight=10.0))
_DETAIL = Distribution(weight=0.01)

recipes.register(
    "bdinvert",
    Recipe(
        name="bdinvert",
        stages=(
            Stage(
                (WPlus(),),
                Optimize(steps=150, lr=0.05, objectives=(*_RECONSTRUCTION, _DETAIL), evidence=Evidence.RENDER),
            ),
            Stage(
                (FeatureMaps(way="replace"), WPlus()),
                Optimize(
                    steps=400,
                    lr=0.01,
                    objectives=(*_RECONSTRUCTION, Anchor(space="f", weight=10.0), _DETAIL),
                    evidence=Evidence.RENDER,
                ),
            ),
        ),
        scheme="latent-edit",
        cite="Kang et al. 2021, GAN Inversion for Out-of-Range Images with Geometric Transformations, section 3",
        summary="F at 16 px and W+ together, F held to its start and W+ to the density of w.",
    ),
)
