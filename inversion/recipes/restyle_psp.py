"""ReStyle over pSp (Alaluf et al. 2021): the encoder sees what its last answer looks like, and corrects it."""

from inversion.methods.learned import Learned
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "restyle-psp",
    Recipe(
        name="restyle-psp",
        stages=(Stage("w+", Learned("restyle-psp")),),
        scheme="latent-edit",
        cite="Alaluf et al. 2021, ReStyle: A Residual-Based StyleGAN Encoder via Iterative Refinement, section 3",
        summary="W+ in several passes, each correcting the picture of the one before.",
    ),
)
