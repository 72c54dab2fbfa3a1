"""ReStyle over e4e (Alaluf et al. 2021): as over pSp, trained to stay close to W."""

from inversion.methods.learned import Learned
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "restyle-e4e",
    Recipe(
        name="restyle-e4e",
        stages=(Stage("w+", Learned("restyle-e4e")),),
        scheme="latent-edit",
        cite="Alaluf et al. 2021, ReStyle: A Residual-Based StyleGAN Encoder via Iterative Refinement, section 3",
        summary="As restyle-psp, trained to stay close to W.",
    ),
)
