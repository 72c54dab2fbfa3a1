"""What is asked of every run: prompts, and the attributes they request where that is known."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from unified.avatars import captions
from unified.avatars.attributes import ATTRIBUTES
from unified.avatars.benchmark import KINDS, Person, Prompt
from unified.errors import UserError


@dataclass(frozen=True)
class Ask:
    """One prompt.

    text: with the concept's name. neutral: with the category in its place, for CLIP-T and baselines.
    requests: (attribute, value) pairs that the text is known to ask for.
    """

    text: str
    neutral: str
    requests: tuple[tuple[str, str], ...] = ()


def read_asks(prompts: Sequence[str | Prompt], *, name: str, category: str) -> list[Ask]:
    """The prompts with `name` in them; `{}` in a prompt stands for the name.

    Raises UserError for no prompt, or one that does not say where the concept goes.
    """
    if not prompts:
        raise UserError("There is no prompt: give at least one, such as 'a portrait of <me>'.")
    asks = []
    for prompt in prompts:
        template = prompt if isinstance(prompt, str) else prompt.text
        text = template.replace("{}", name)
        if name not in text:
            raise UserError(
                f"The prompt {text!r} does not say where the concept goes: write {name} in it, for example"
                f" 'a portrait of {name}'."
            )
        requests = requests_in(text) if isinstance(prompt, str) else ((prompt.attribute, prompt.value),)
        asks.append(Ask(text, neutral_text(text, name=name, category=category), requests))
    texts = [ask.text for ask in asks]
    twice = next((text for text in texts if texts.count(text) > 1), None)
    if twice is not None:
        raise UserError(
            f"The prompt {twice!r} is given twice: give each one once, and several seeds for more pictures."
        )
    return asks


def neutral_text(text: str, *, name: str, category: str) -> str:
    """The prompt with the category, and an article, in place of the name; without a category, left out."""
    if not category:
        return re.sub(r"\s+", " ", text.replace(name, "")).strip()
    article = "an" if category[0].lower() in "aeiou" else "a"
    plain = re.match(r"(a|an|the|my|some) ", category.lower())
    return text.replace(name, category if plain else f"{article} {category}")


def requests_in(text: str) -> tuple[tuple[str, str], ...]:
    """The attribute values that a sentence names in the wordings of the avatars' captions.

    A longer wording hides shorter ones in it ("with a short beard" is no hair style).
    """
    left = f" {' '.join(re.findall(r'[a-z0-9-]+', text.lower()))} "
    found: dict[str, str] = {}
    for wording, requests in _wordings():
        if f" {wording} " in left:
            left = left.replace(f" {wording} ", " | ")
            for attribute, value in requests:
                found.setdefault(attribute, value)
    return tuple(found.items())


@functools.cache
def _wordings() -> list[tuple[str, tuple[tuple[str, str], ...]]]:
    """Every wording of every value, longest first, with what it asks for."""
    pairs: list[tuple[str, tuple[tuple[str, str], ...]]] = []
    colours = {"hair": "hair_colour", "facial_hair": "hair_colour", "clothes": "clothes_colour"}
    tables = {**captions.TABLES, "hair": captions.HAIR, "clothes": captions.CLOTHES}
    for attribute, table in tables.items():
        for value, wordings in table.items():
            for wording in wordings:
                pairs.append((wording.replace("{}", ""), ((attribute, value),)))
                if "{}" in wording and attribute in colours:
                    name = colours[attribute]
                    for colour in ATTRIBUTES[name]:
                        both = ((attribute, value), (name, colour))
                        pairs.append((wording.replace("{}", f"{colour} "), both))
    for colour in ATTRIBUTES["hair_colour"]:
        pairs.append((f"with {colour} hair", (("hair_colour", colour),)))
    for colour in ATTRIBUTES["clothes_colour"]:
        pairs += [(w.format(colour), (("clothes_colour", colour),)) for w in captions.CLOTHES_COLOUR]
    for colour in ATTRIBUTES["background"]:
        pairs += [(w.format(colour), (("background", colour),)) for w in captions.BACKGROUND]
    both_articles = [(re.sub(r"\ba (?=[aeiou])", "an ", text), requests) for text, requests in pairs]
    normal = {" ".join(re.findall(r"[a-z0-9-]+", text)): requests for text, requests in both_articles}
    return sorted(normal.items(), key=lambda item: -len(item[0]))


def default_prompts(person: Person | None = None) -> list[str | Prompt]:
    """Six prompts: the concept as it is, and one of each kind of the benchmark; a person's own if given."""
    if person is not None:
        of_kind = [next(p for p in person.prompts if p.kind == kind) for kind in KINDS]
        return ["a portrait of {}", *of_kind]
    wishes = [
        ("glasses", "sunglasses"),
        ("clothes_colour", "red"),
        ("background", "blue"),
        ("mouth", "big smile"),
        ("hair_colour", "pink"),
    ]
    texts = [captions.phrase(attribute, value) for attribute, value in wishes]
    return ["a portrait of {}", *(f"a portrait of {{}} {text}" for text in texts)]
