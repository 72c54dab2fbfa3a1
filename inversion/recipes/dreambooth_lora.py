"""DreamBooth (Ruiz et al. 2023) through LoRA: a rare word, and low-rank changes of the attention."""

from inversion.methods.optimize import Optimize
from inversion.spaces.parameter import LoRA
from inversion.templates import PORTRAIT_TEMPLATES
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "dreambooth-lora",
    Recipe(
        name="dreambooth-lora",
        stages=(
            Stage(
                (LoRA(rank=8),),
                Optimize(steps=400, lr=1e-4, templates=PORTRAIT_TEMPLATES),
            ),
        ),
        scheme="prompt",
        cite="Ruiz et al. 2023, DreamBooth; Hu et al. 2021, LoRA, section 4.1",
        summary="LoRA of rank 8 on the attention, bound to the word sks before the category.",
        carrier="a sks {category}",
        requires=frozenset({"category"}),
    ),
)
