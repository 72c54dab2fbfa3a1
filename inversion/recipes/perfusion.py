"""Perfusion (Tewel et al. 2023): gated rank-one edits with the keys locked to the class."""

from inversion.methods.optimize import Optimize
from inversion.objectives.masked import MaskedError
from inversion.spaces.rank_one import RankOne
from inversion.spaces.textual import Word
from inversion.templates import PORTRAIT_TEMPLATES
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "perfusion",
    Recipe(
        name="perfusion",
        stages=(
            Stage(
                (Word(), RankOne()),
                Optimize(
                    steps=400, lr=0.03, lrs={"word": 6e-3}, objectives=(MaskedError(),), templates=PORTRAIT_TEMPLATES
                ),
            ),
        ),
        scheme="prompt",
        cite="Tewel et al. 2023, Key-Locked Rank One Editing for Text-to-Image Personalization, section 4",
        summary="A word, and one learnt value vector for each cross-attention; masks are used where given.",
        requires=frozenset({"category"}),
    ),
)
