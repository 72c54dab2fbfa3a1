"""Styles without training: the concept is the picture's latents, the scheme takes its style."""

from inversion.methods.encode import Encode
from inversion.spaces.latents import PictureLatents
from unified.contract.recipe import Recipe, Stage, recipes

_STAGES = (Stage((PictureLatents(),), Encode()),)

recipes.register(
    "rb-modulation",
    Recipe(
        name="rb-modulation",
        stages=_STAGES,
        scheme="rb-modulation",
        cite="Rout et al. 2025, RB-Modulation: Training-Free Personalization using Stochastic Optimal Control",
        summary="The prompt in the style of a picture, by control of what each sampling step heads for.",
    ),
)

recipes.register(
    "instant-style",
    Recipe(
        name="instant-style",
        stages=_STAGES,
        scheme="instant-style",
        cite="Wang et al. 2024, InstantStyle: Free Lunch towards Style-Preserving in Text-to-Image Generation",
        summary="The prompt in the style of a picture, which only the style block sees.",
    ),
)
