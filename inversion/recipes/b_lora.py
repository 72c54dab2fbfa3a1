"""B-LoRA (Frenkel et al. 2024): content and style of one picture apart."""

from inversion.methods.optimize import Optimize
from inversion.spaces.block_lora import ContentLoRA, StyleLoRA
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "b-lora",
    Recipe(
        name="b-lora",
        stages=(
            Stage(
                (ContentLoRA(rank=64), StyleLoRA(rank=64)),
                Optimize(steps=1000, lr=5e-5, templates=("A {}",)),
            ),
        ),
        scheme="prompt",
        cite="Frenkel et al. 2024, Implicit Style-Content Separation using B-LoRA, section 4",
        summary="Two blocks trained together under 'A [v]'; each part alone with concept.only, or merge two concepts.",
        carrier="[v]",
    ),
)
