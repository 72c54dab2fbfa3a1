"""Reference pictures in the context of a model that was trained with them (survey section 5)."""

from inversion.methods.encode import Encode
from inversion.spaces.token import Context
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "in-context",
    Recipe(
        name="in-context",
        stages=(Stage((Context(references=2),), Encode()),),
        scheme="prompt",
        carrier="the same {category}",
        cite="Sun et al. 2024, Generative Multimodal Models are In-Context Learners (Emu2)",
        summary="Up to two reference pictures as tokens before the text; nothing is learnt.",
    ),
)
