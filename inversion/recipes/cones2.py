"""Cones 2 (Liu et al. 2023): one residual of the class word, behind the text encoder."""

from inversion.methods.optimize import Optimize
from inversion.methods.text_residual import AverageResidual
from inversion.objectives.error import Error
from inversion.objectives.text_meaning import TextPreservation
from inversion.spaces.parameter import TextWeights
from inversion.spaces.text_output import OutputResidual
from inversion.templates import PORTRAIT_TEMPLATES
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "cones2",
    Recipe(
        name="cones2",
        stages=(
            Stage(
                (TextWeights(),),
                Optimize(steps=500, lr=5e-6, objectives=(Error(), TextPreservation()), templates=PORTRAIT_TEMPLATES),
            ),
            Stage((OutputResidual(),), AverageResidual()),
        ),
        scheme="prompt",
        cite="Liu et al. 2023, Cones 2: Customizable Image Synthesis with Multiple Subjects, section 3.2",
        summary="Tune the text encoder, every other word held; keep the mean change of the class word alone.",
        requires=frozenset({"category"}),
    ),
)
