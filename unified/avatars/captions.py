"""A small grammar: attributes of a picture to a natural English sentence, with the clauses in any order.

Everything a caption can say is in the tables below, so that `vocabulary` is complete by construction. The
first wording of a value is the one that `phrase` gives and that the benchmark asks with; a value that needs
no words (no glasses, no facial hair, open eyes) is mostly left unsaid.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping

from unified.avatars.attributes import ATTRIBUTES
from unified.errors import UserError

MAX_WORDS = 36
SUBJECT = "a person"
PREFIXES = ("", "a photo of ", "a portrait of ", "an avatar of ", "a picture of ")

#: How often an attribute is said at all, before `drop` takes its part.
SAID = {"skin": 0.6, "eyes": 0.5, "brows": 0.4, "mouth": 1.0, "background": 1.0}
#: How often the values that are the absence of something are said.
ABSENT_SAID = 0.2
ABSENT = {
    ("glasses", "none"),
    ("facial_hair", "none"),
    ("eyes", "open"),
    ("brows", "relaxed"),
    ("hair_colour", "none"),
}
#: How often a caption names only one, two or three attributes, as a short request does.
PARTIAL = 0.12

SKIN = ("with {} skin",)

# {} is the colour with a space after it, or nothing.
HAIR: dict[str, tuple[str, ...]] = {
    "bald": ("with a bald head", "with no hair"),
    "balding": ("with {}hair on the sides of a bald head",),
    "buzz cut": ("with a {}buzz cut",),
    "short": ("with short {}hair",),
    "short wavy": ("with short wavy {}hair",),
    "short dreadlocks": ("with short {}dreadlocks",),
    "frizzy": ("with frizzy {}hair",),
    "undercut": ("with a {}undercut",),
    "mohawk": ("with a {}mohawk",),
    "spiky": ("with spiky {}hair",),
    "pompadour": ("with a {}pompadour",),
    "quiff": ("with a {}quiff",),
    "pixie cut": ("with a {}pixie cut",),
    "shaggy": ("with shaggy {}hair",),
    "mullet": ("with a {}mullet",),
    "messy": ("with messy {}hair",),
    "wild": ("with wild {}hair",),
    "half shaved": ("with half shaved {}hair",),
    "bob": ("with a {}bob", "with {}hair in a bob"),
    "fringe bob": ("with a {}bob with a fringe",),
    "bun": ("with a {}bun", "with {}hair in a bun"),
    "ponytail": ("with a {}ponytail", "with {}hair in a ponytail"),
    "cornrows": ("with {}cornrows",),
    "long braids": ("with long {}braids",),
    "curly": ("with curly {}hair",),
    "afro": ("with a {}afro",),
    "long wavy": ("with long wavy {}hair",),
    "long dreadlocks": ("with long {}dreadlocks",),
    "long side-swept": ("with long side-swept {}hair",),
    "long with a fringe": ("with long {}hair with a fringe",),
    "afro with a headband": ("with a {}afro with a headband",),
    "rockabilly": ("with rockabilly {}hair",),
    "braided pigtails": ("with braided {}pigtails",),
    "professor": ("with {}hair like a professor",),
}

FACIAL_HAIR: dict[str, tuple[str, ...]] = {
    "none": ("without a beard", "with a clean-shaven face"),
    "short beard": ("with a short {}beard",),
    "full beard": ("with a full {}beard",),
    "long beard": ("with a long {}beard",),
    "moustache": ("with a {}moustache",),
    "handlebar moustache": ("with a {}handlebar moustache",),
}

GLASSES: dict[str, tuple[str, ...]] = {
    "none": ("without glasses",),
    "round glasses": ("wearing round glasses", "with round glasses"),
    "square glasses": ("wearing square glasses", "with square glasses"),
    "sunglasses": ("wearing sunglasses", "with sunglasses"),
}

EYES: dict[str, tuple[str, ...]] = {
    "open": ("with open eyes",),
    "closed": ("with closed eyes",),
    "happy": ("with happy eyes",),
    "wide": ("with wide eyes",),
    "heart": ("with heart eyes",),
    "wink": ("winking",),
}

BROWS: dict[str, tuple[str, ...]] = {
    "relaxed": ("with relaxed eyebrows",),
    "angry": ("with angry eyebrows",),
    "raised": ("with raised eyebrows",),
    "worried": ("with worried eyebrows",),
    "one raised": ("with one raised eyebrow",),
}

MOUTH: dict[str, tuple[str, ...]] = {
    "neutral": ("with a neutral expression", "looking serious"),
    "smile": ("smiling", "with a smile"),
    "big smile": ("laughing", "with a big smile"),
    "sad": ("looking sad", "with a sad mouth"),
    "scream": ("screaming", "shouting"),
    "tongue": ("sticking out the tongue", "with the tongue out"),
    "grimace": ("grimacing", "showing the teeth"),
}

# {} as above; the first letter decides between "a" and "an" (see _article).
CLOTHES: dict[str, tuple[str, ...]] = {
    "t-shirt": ("wearing a {}t-shirt", "in a {}t-shirt"),
    "v-neck": ("wearing a {}v-neck", "in a {}v-neck"),
    "scoop neck": ("wearing a {}scoop neck top", "in a {}scoop neck top"),
    "hoodie": ("wearing a {}hoodie", "in a {}hoodie"),
    "sweater": ("wearing a {}sweater", "in a {}sweater"),
    "overalls": ("wearing {}overalls", "in {}overalls"),
    "blazer": ("wearing a {}blazer", "in a {}blazer"),
}
CLOTHES_COLOUR = ("wearing {} clothes", "in {} clothes")

BACKGROUND = ("on a {} background", "in front of a {} background", "against a {} background")

TABLES = {"facial_hair": FACIAL_HAIR, "glasses": GLASSES, "eyes": EYES, "brows": BROWS, "mouth": MOUTH}


def caption(row: Mapping[str, str], rng: random.Random, drop: float = 0.15) -> str:
    """A sentence about a picture: "a portrait of a person with short brown hair, wearing a red hoodie".

    row: attribute name to value, for all or some of ATTRIBUTES. drop: the share of attributes left out
    besides those that `SAID` leaves out, 0..1. At most 36 words. The same rng state gives the same words.
    """
    named = [name for name in ATTRIBUTES if name in row and _is_said(name, row, rng, drop)]
    if rng.random() < PARTIAL:
        present = [name for name in ATTRIBUTES if name in row and _is_visible(name, row)]
        named = rng.sample(present, min(len(present), rng.randint(1, 3)))
    clauses = clauses_of({name: row[name] for name in named}, rng)
    rng.shuffle(clauses)
    prefix = rng.choice(PREFIXES)
    while len(words(sentence(clauses, prefix))) > MAX_WORDS:
        clauses.pop()
    return sentence(clauses, prefix)


def clauses_of(row: Mapping[str, str], rng: random.Random | None = None) -> list[str]:
    """One clause for each thing to be said of `row`; colours go to their garment or hair.

    Without rng every clause has its first wording.
    """
    clauses: list[str] = []
    if "skin" in row:
        clauses.append(_pick(SKIN, rng).format(row["skin"]))
    colour = row.get("hair_colour", "none")
    colour = "" if colour == "none" else colour
    hair, beard = row.get("hair"), row.get("facial_hair")
    # A bald head shows the colour in the beard alone.
    hair_shows = hair is not None and hair != "bald"
    if hair is not None:
        clauses.append(_fill(_pick(HAIR[hair], rng), colour if hair_shows else ""))
    elif colour and (beard in (None, "none")):
        clauses.append(f"with {colour} hair")
    if beard is not None:
        beard_colour = colour if beard != "none" and not hair_shows else ""
        clauses.append(_fill(_pick(FACIAL_HAIR[beard], rng), beard_colour))
    for name in ("glasses", "eyes", "brows", "mouth"):
        if name in row:
            clauses.append(_pick(TABLES[name][row[name]], rng))
    if "clothes" in row:
        clauses.append(_fill(_pick(CLOTHES[row["clothes"]], rng), row.get("clothes_colour", "")))
    elif "clothes_colour" in row:
        clauses.append(_pick(CLOTHES_COLOUR, rng).format(row["clothes_colour"]))
    if "background" in row:
        clauses.append(_article(_pick(BACKGROUND, rng).format(row["background"])))
    return clauses


def sentence(clauses: list[str], prefix: str = "", *, subject: str = SUBJECT) -> str:
    """Prefix, subject and clauses; neighbours that begin with the same word are joined by "and".

    The first clause follows the subject directly, the others after a comma.
    """
    text = prefix + subject
    index = 0
    while index < len(clauses):
        first = clauses[index]
        lead = first.split(" ", 1)[0]
        following = clauses[index + 1] if index + 1 < len(clauses) else ""
        if lead in ("with", "wearing") and following.split(" ", 1)[0] == lead:
            first = f"{first} and {following.split(' ', 1)[1]}"
            index += 1
        text += (" " if text == prefix + subject else ", ") + first
        index += 1
    return text


def phrase(attribute: str, value: str, *, colour: str = "") -> str:
    """The plain wording of one value: "wearing sunglasses", "with blonde hair", "on a green background".

    colour: for "clothes" and "hair", the colour to name with it: phrase("clothes", "hoodie", colour="red")
    is "wearing a red hoodie". Raises UserError for an unknown attribute or value.
    """
    if value not in ATTRIBUTES.get(attribute, ()):
        known = ", ".join(ATTRIBUTES.get(attribute, tuple(ATTRIBUTES)))
        raise UserError(f"The avatars have no {attribute!r} with value {value!r}; give one of {known}.")
    if (attribute, value) == ("hair_colour", "none"):
        return "with no hair"
    row = {attribute: value}
    if colour:
        row["hair_colour" if attribute == "hair" else "clothes_colour"] = colour
    return clauses_of(row)[0]


def words(text: str) -> list[str]:
    """The words of a caption, commas as words of their own: how `vocabulary` counts."""
    return re.findall(r"[a-z0-9<>'-]+|,", text.lower())


def vocabulary() -> list[str]:
    """Every word that a caption can contain, sorted."""
    texts = [SUBJECT, "an", "and", ",", "with hair", *PREFIXES, *SKIN, *CLOTHES_COLOUR, *BACKGROUND]
    for table in (HAIR, CLOTHES, *TABLES.values()):
        texts += [wording for wordings in table.values() for wording in wordings]
    for name in ("skin", "hair_colour", "clothes_colour", "background"):
        texts += [value for value in ATTRIBUTES[name] if value != "none"]
    return sorted({word for text in texts for word in words(text.replace("{}", " "))})


def is_hidden(name: str, row: Mapping[str, str]) -> bool:
    """Whether a picture of these attributes cannot show what `name` is: dark lenses hide the eyes."""
    return name == "eyes" and row.get("glasses") == "sunglasses"


def _is_visible(name: str, row: Mapping[str, str]) -> bool:
    return not is_hidden(name, row) and (name, row[name]) not in ABSENT


def _is_said(name: str, row: Mapping[str, str], rng: random.Random, drop: float) -> bool:
    share = SAID.get(name, 1.0)
    if not _is_visible(name, row):
        share = min(share, ABSENT_SAID) if (name, row[name]) in ABSENT else 0.0
    return rng.random() < share * (1 - drop)


def _pick(wordings: tuple[str, ...], rng: random.Random | None) -> str:
    # The plain wording half of the time, so that it is the best known.
    if rng is None or len(wordings) == 1 or rng.random() < 0.5:
        return wordings[0]
    return rng.choice(wordings[1:])


def _fill(wording: str, colour: str) -> str:
    return _article(wording.replace("{}", f"{colour} " if colour else ""))


def _article(text: str) -> str:
    return re.sub(r"\ba (?=[aeiou])", "an ", text)
