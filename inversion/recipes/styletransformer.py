"""StyleTransformer (Hu et al. 2022): queries, one for each style, look at features, from coarse to fine."""

from inversion.methods.learned import Learned
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "styletransformer",
    Recipe(
        name="styletransformer",
        stages=(Stage("w+", Learned("styletransformer")),),
        scheme="latent-edit",
        cite="Hu et al. 2022, Style Transformer for Image Inversion and Editing, section 3",
        summary="W+ by queries that attend to each other and to a pyramid of features.",
    ),
)
