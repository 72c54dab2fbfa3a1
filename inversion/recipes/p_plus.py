"""P+ (Voynov et al. 2023): a word for every layer."""

from inversion.methods.optimize import Optimize
from inversion.spaces.spectrum import LayerWords
from inversion.templates import PORTRAIT_TEMPLATES
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "p-plus",
    Recipe(
        name="p-plus",
        stages=(Stage((LayerWords(),), Optimize(steps=500, lr=5e-3, templates=PORTRAIT_TEMPLATES)),),
        scheme="prompt",
        cite="Voynov et al. 2023, P+: Extended Textual Conditioning in Text-to-Image Generation, section 3.2",
        summary="One embedding row for each cross-attention layer, started at the class word.",
        requires=frozenset({"category"}),
    ),
)
