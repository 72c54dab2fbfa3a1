"""DisenBooth (Chen et al. 2024): DreamBooth whose pictures' own traits go into a branch that is left out afterwards."""

from inversion.methods.optimize import Optimize
from inversion.objectives.disentangled import ContrastiveEmbedding, WeakDenoising
from inversion.objectives.error import Error
from inversion.spaces.disenbooth import TwoBranches
from inversion.spaces.parameter import LoRA
from inversion.templates import PORTRAIT_TEMPLATES
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "disenbooth",
    Recipe(
        name="disenbooth",
        stages=(
            Stage(
                (TwoBranches(), LoRA(rank=8)),
                Optimize(
                    steps=400,
                    lr=1e-3,
                    objectives=(Error(), WeakDenoising(), ContrastiveEmbedding()),
                    templates=PORTRAIT_TEMPLATES,
                ),
            ),
        ),
        scheme="prompt",
        cite="Chen et al. 2024, DisenBooth: Identity-Preserving Disentangled Tuning, section 3",
        summary="A rare word and LoRA; a masked adapter of CLIP takes what is each picture's own, and is dropped.",
        requires=frozenset({"category"}),
    ),
)
