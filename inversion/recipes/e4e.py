"""e4e (Tov et al. 2021): as pSp, trained to stay close to W, where edits work better."""

from inversion.methods.learned import Learned
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "e4e",
    Recipe(
        name="e4e",
        stages=(Stage("w+", Learned("e4e")),),
        scheme="latent-edit",
        cite="Tov et al. 2021, Designing an Encoder for StyleGAN Image Manipulation, section 4",
        summary="W+ that stays close to W, in one pass.",
    ),
)
