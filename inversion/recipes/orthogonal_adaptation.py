"""Orthogonal Adaptation (Po et al. 2024): concepts that can be added afterwards."""

from inversion.methods.optimize import Optimize
from inversion.spaces.orthogonal_lora import OrthogonalLoRA
from inversion.spaces.spectrum import LayerWords
from inversion.templates import PORTRAIT_TEMPLATES
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "orthogonal-adaptation",
    Recipe(
        name="orthogonal-adaptation",
        stages=(
            Stage(
                (LayerWords(), OrthogonalLoRA(rank=20)),
                Optimize(steps=800, lr=1e-5, lrs={"layer-words": 1e-3}, templates=PORTRAIT_TEMPLATES),
            ),
        ),
        scheme="prompt",
        cite="Po et al. 2024, Orthogonal Adaptation for Modular Customization of Diffusion Models, section 4",
        summary="A word per layer, and low-rank changes in directions of the concept's own; merge with `orthogonal`.",
        requires=frozenset({"category"}),
    ),
)
