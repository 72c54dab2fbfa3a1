"""pSp (Richardson et al. 2021): a pyramid of features to W+, in one pass."""

from inversion.methods.learned import Learned
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "psp",
    Recipe(
        name="psp",
        stages=(Stage("w+", Learned("psp")),),
        scheme="latent-edit",
        cite="Richardson et al. 2021, Encoding in Style: a StyleGAN Encoder for Image-to-Image Translation, section 3",
        summary="W+ from a pyramid of features, in one pass.",
    ),
)
