"""ARBooth: DreamBooth for models that draw scale by scale."""

from inversion.methods.optimize import Optimize
from inversion.objectives.prior_distillation import PriorDistillation
from inversion.objectives.scales import ScaleError
from inversion.spaces.parameter import Weights
from inversion.templates import PORTRAIT_TEMPLATES
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "arbooth",
    Recipe(
        name="arbooth",
        stages=(
            Stage(
                # Cross-attention and MLPs of the blocks; self-attention and the text encoder keep what they know.
                (Weights(paths=r"^blocks\.\d+\.(cross|mlp)\."),),
                Optimize(
                    steps=150,
                    lr=1e-4,
                    templates=PORTRAIT_TEMPLATES,
                    objectives=(ScaleError(), PriorDistillation(weight=0.5)),
                ),
            ),
        ),
        scheme="prompt",
        cite="Chung et al. 2025, Fine-Tuning Visual Autoregressive Models for Subject-Driven Generation (ARBooth)",
        summary="Cross-attention and MLPs alone, coarse scales weighted up, the class kept by distillation.",
        carrier="a sks {category}",
        requires=frozenset({"category"}),
    ),
)
