"""HFGI (Wang et al. 2022): e4e's code, and what its picture misses through the generator's features."""

from inversion.methods.learned import Learned
from inversion.spaces.distortion import Distortion
from inversion.spaces.style import WPlus
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "hfgi",
    Recipe(
        name="hfgi",
        stages=(Stage((WPlus(), Distortion()), Learned("hfgi", fills=("w+", "distortion"))),),
        scheme="latent-edit",
        cite="Wang et al. 2022, High-Fidelity GAN Inversion for Image Attribute Editing, section 3",
        summary="W+ from e4e; details that it loses scale and shift features, and follow edits.",
    ),
)
