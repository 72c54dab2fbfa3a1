"""BOFT (Liu et al. 2024): butterfly-factored rotations of the attention weights."""

from inversion.methods.optimize import Optimize
from inversion.objectives.error import Error
from inversion.objectives.prior import PriorPreservation
from inversion.spaces.orthogonal import BOFT
from inversion.templates import PORTRAIT_TEMPLATES
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "boft",
    Recipe(
        name="boft",
        stages=(
            Stage(
                (BOFT(),),
                Optimize(
                    steps=500,
                    lr=1e-4,
                    objectives=(Error(), PriorPreservation(pictures=100)),
                    batch=1,
                    templates=PORTRAIT_TEMPLATES,
                ),
            ),
        ),
        scheme="prompt",
        cite="Liu et al. 2024, Parameter-Efficient Orthogonal Finetuning via Butterfly Factorization, section 4",
        summary="Rotations that are products of sparse butterfly factors.",
        carrier="a sks {category}",
        requires=frozenset({"category"}),
    ),
)
