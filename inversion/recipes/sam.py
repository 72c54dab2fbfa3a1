"""SAM (Parmar et al. 2022): W+ where it is enough, residuals of features where it is not.

The paper's e4e encoder, which gives the first w, is stood in for by a first stage in W+.
"""

from inversion.methods.adaptive import SpatiallyAdaptive
from inversion.methods.optimize import Optimize
from inversion.objectives.distribution import Spread
from inversion.objectives.error import Error
from inversion.objectives.perceptual import Perceptual
from inversion.spaces.feature_maps import FeatureMaps
from inversion.spaces.style import WPlus
from unified.contract.kinds import Evidence
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "sam",
    Recipe(
        name="sam",
        stages=(
            Stage(
                (WPlus(),),
                Optimize(
                    steps=100,
                    lr=0.05,
                    schedule="projector",
                    objectives=(Error(weight=4.0), Perceptual(), Spread(weight=1e-3)),
                    evidence=Evidence.RENDER,
                ),
            ),
            Stage((WPlus(), FeatureMaps(way="residual")), SpatiallyAdaptive()),
        ),
        scheme="latent-edit",
        cite="Parmar et al. 2022, Spatially-Adaptive Multilayer Selection for GAN Inversion and Editing",
        summary="Each segment in the most editable of W+ and ever finer features that can hold it.",
    ),
)
