"""Custom Diffusion (Kumari et al. 2023): a word, and the keys and values that text becomes."""

from inversion.augment import Rescale
from inversion.methods.optimize import Optimize
from inversion.objectives.masked import MaskedError
from inversion.objectives.prior import PriorPreservation
from inversion.spaces.cross_attention import KeysValues
from inversion.spaces.textual import Word
from inversion.templates import PORTRAIT_TEMPLATES
from unified.contract.recipe import Recipe, Stage, recipes

#: The word stands before the class word: "V* person".
SPACES = (Word(initial_text="ktn", with_category=True), KeysValues())
#: The grey around a shrunk picture does not count.
OBJECTIVES = (MaskedError(), PriorPreservation(pictures=200))

recipes.register(
    "custom-diffusion",
    Recipe(
        name="custom-diffusion",
        stages=(
            Stage(
                SPACES,
                Optimize(steps=250, lr=2e-5, objectives=OBJECTIVES, augment=Rescale(), templates=PORTRAIT_TEMPLATES),
            ),
        ),
        scheme="prompt",
        cite="Kumari et al. 2023, Multi-Concept Customization of Text-to-Image Diffusion, section 3",
        summary="A modifier word and the cross-attention keys and values; prior preservation and random sizes.",
        requires=frozenset({"category"}),
    ),
)
