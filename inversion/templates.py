"""Prompts that pictures are explained by while inverting; `{}` is the concept's name.

They describe portraits, as the categories used here are people; recipes may bring their own.
"""

PORTRAIT_TEMPLATES: tuple[str, ...] = (
    "a photo of {}",
    "a portrait of {}",
    "an avatar of {}",
    "a picture of {}",
    "{}",
)
