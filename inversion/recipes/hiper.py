"""HiPer (Han et al. 2023): the end of what the text encoder says."""

from inversion.methods.optimize import Optimize
from inversion.spaces.text_output import LastOutputs
from inversion.templates import PORTRAIT_TEMPLATES
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "hiper",
    Recipe(
        name="hiper",
        stages=(Stage((LastOutputs(tokens=5),), Optimize(steps=1500, lr=1e-3, templates=PORTRAIT_TEMPLATES)),),
        scheme="prompt",
        cite="Han et al. 2023, Highly Personalized Text Embedding for Image Manipulation, section 3.2",
        summary="The last five outputs of the text encoder; the sentence before them stays editable.",
        requires=frozenset({"category"}),
    ),
)
