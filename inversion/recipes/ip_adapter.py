"""IP-Adapter (Ye et al. 2023): the pictures' features as a second prompt, without training at inversion."""

from inversion.methods.encode import Encode
from inversion.spaces.picture_prompt import PicturePrompt
from unified.contract.recipe import Recipe, Stage, recipes

recipes.register(
    "ip-adapter",
    Recipe(
        name="ip-adapter",
        stages=(Stage((PicturePrompt(),), Encode()),),
        scheme="prompt",
        cite="Ye et al. 2023, IP-Adapter: Text Compatible Image Prompt Adapter, section 3.2",
        summary="CLIP features of the pictures through keys and values of their own beside the text's.",
        requires=frozenset({"category"}),
    ),
)
