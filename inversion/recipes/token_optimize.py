"""Visual tokens fitted to the picture rather than to the latent (survey section 5)."""

from inversion.methods.encode import Encode
from inversion.methods.optimize import Optimize
from inversion.methods.token_search import TokenSearch
from inversion.objectives.error import Error
from inversion.objectives.perceptual import Perceptual
from inversion.spaces.token import TokenLatents, VisualTokens
from unified.contract.kinds import Evidence
from unified.contract.recipe import Recipe, Stage, recipes

#: Squared pixels of pictures in 0..1 are small beside LPIPS.
FIT = (Error(weight=10.0), Perceptual())

recipes.register(
    "token-optimize",
    Recipe(
        name="token-optimize",
        stages=(
            Stage(
                (TokenLatents(),),
                Optimize(steps=200, lr=0.02, objectives=FIT, evidence=Evidence.RENDER),
            ),
        ),
        scheme="prompt",
        carrier="the same {category}",
        cite="van den Oord et al. 2017, Neural Discrete Representation Learning, section 3.2",
        summary="Tokens by gradient through the rounding: squared pixels plus LPIPS.",
    ),
)
recipes.register(
    "token-search",
    Recipe(
        name="token-search",
        stages=(
            Stage((VisualTokens(),), Encode()),
            Stage((VisualTokens(),), TokenSearch(objectives=FIT)),
        ),
        scheme="prompt",
        carrier="the same {category}",
        cite="Besag 1986, On the Statistical Analysis of Dirty Pictures (iterated conditional modes)",
        summary="Nearest tokens, then one place after the other takes the neighbour that renders best.",
    ),
)
