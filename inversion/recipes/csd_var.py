"""CSD-VAR (Nguyen et al. 2025): content and style of a picture apart, in a model that draws scale by scale."""

from inversion.methods.optimize import Optimize
from inversion.objectives.scales import ScaleTurns
from inversion.spaces.scale_parts import ContentPart, StylePart
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "csd-var",
    Recipe(
        name="csd-var",
        stages=(
            Stage(
                (ContentPart(vectors=4), StylePart(vectors=4, rank=10)),
                Optimize(
                    steps=200,
                    lr=1e-2,
                    templates=("a photo of a {} object in {}.style style",),
                    objectives=(ScaleTurns(),),
                    turns=(("scale-style",), ("scale-content",)),
                ),
            ),
        ),
        scheme="prompt",
        cite="Nguyen et al. 2025, CSD-VAR: Content-Style Decomposition in Visual Autoregressive Models",
        summary="NAME is the content, NAME.style the style: two words learnt in turn, each at its own scales.",
        requires=frozenset({"category"}),
    ),
)
