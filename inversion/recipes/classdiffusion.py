"""ClassDiffusion (Huang et al. 2024): Custom Diffusion that keeps the meaning of the class."""

from inversion.augment import Rescale
from inversion.methods.optimize import Optimize
from inversion.objectives.text_meaning import SemanticPreservation
from inversion.recipes.custom_diffusion import OBJECTIVES, SPACES
from inversion.templates import PORTRAIT_TEMPLATES
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "classdiffusion",
    Recipe(
        name="classdiffusion",
        stages=(
            Stage(
                SPACES,
                Optimize(
                    steps=250,
                    lr=2e-5,
                    objectives=(*OBJECTIVES, SemanticPreservation()),
                    augment=Rescale(),
                    templates=PORTRAIT_TEMPLATES,
                ),
            ),
        ),
        scheme="prompt",
        cite="Huang et al. 2024, ClassDiffusion: More Aligned Personalization Tuning, section 4",
        summary="Custom Diffusion and a loss that keeps the phrase near the class phrase in text space.",
        requires=frozenset({"category"}),
    ),
)
