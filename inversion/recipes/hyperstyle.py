"""HyperStyle (Alaluf et al. 2022): a code in W, and the generator's weights changed for the picture by a network."""

from inversion.methods.learned import Learned
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "hyperstyle",
    Recipe(
        name="hyperstyle",
        stages=(Stage("w & weight-factors", Learned("hyperstyle", fills=("w", "weight-factors"))),),
        scheme="latent-edit",
        cite="Alaluf et al. 2022, HyperStyle: StyleGAN Inversion with HyperNetworks for Real Image Editing, section 3",
        summary="W in one pass, then weights W (1 + delta) predicted in several; one picture a concept.",
    ),
)
