"""Two stages for an autoregressive model (Sun et al. 2025): embeddings, then the weights."""

from inversion.methods.optimize import Optimize
from inversion.spaces.parameter import LoRA
from inversion.spaces.textual import Word
from inversion.templates import PORTRAIT_TEMPLATES
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "two-stage",
    Recipe(
        name="two-stage",
        stages=(
            Stage((Word(vectors=4),), Optimize(steps=300, lr=1e-2, templates=PORTRAIT_TEMPLATES)),
            Stage((LoRA(rank=16),), Optimize(steps=100, lr=1e-3, templates=PORTRAIT_TEMPLATES)),
        ),
        scheme="prompt",
        cite="Sun et al. 2025, Personalized Text-to-Image Generation with Auto-Regressive Models",
        summary="Embedding rows first, then LoRA on the attention with the rows fixed.",
        requires=frozenset({"category"}),
        # The tuned weights have seen no empty prompt: guidance away from what they make of it tears pictures apart.
        sampling={"guidance": 1.0},
    ),
)
